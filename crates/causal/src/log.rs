//! A partition's log as its owner holds it: what is written, what is on the standby, what is not.
//!
//! Pure bookkeeping. Positions count entries from the log's beginning and never step back within a
//! generation, also when an image takes the place of the entries before it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use tidemill_lattice::{Key, Time};

use crate::record::Entry;
use crate::{Chain, Durability, Generation, PartitionId, Record};

/// The state of a partition that takes the place of the entries before it.
#[derive(Clone, Debug)]
pub struct LogImage {
    /// Every delta at or below it is in `chains`.
    pub mark: Time,
    /// Reads below it are refused.
    pub fold: Time,
    /// The versions.
    pub chains: BTreeMap<Key, Chain>,
    /// The records still needed, with the places of the messages that were answered.
    pub records: Vec<(Arc<Record>, BTreeSet<u32>)>,
}

/// A write to a log on stable storage, taken only from the greatest generation that opened it.
#[derive(Clone, Debug)]
pub struct LogWrite {
    /// Which log.
    pub partition: PartitionId,
    /// Who writes.
    pub generation: Generation,
    /// The position that the write begins at: whatever was there goes.
    pub from: usize,
    /// What is written.
    pub entries: Vec<Arc<Entry>>,
    /// Takes the place of everything before `from`.
    pub image: Option<Arc<LogImage>>,
}

/// A log as read from stable storage.
#[derive(Clone, Debug, Default)]
pub struct LogRead {
    /// Who wrote it last.
    pub generation: Generation,
    /// What it begins with.
    pub image: Option<Arc<LogImage>>,
    /// The position of the first entry.
    pub start: usize,
    /// The entries.
    pub entries: Vec<Arc<Entry>>,
}

impl LogRead {
    /// The position after the last entry.
    #[must_use]
    pub fn end(&self) -> usize {
        self.start + self.entries.len()
    }

    /// Takes a write in, as stable storage does.
    pub fn write(&mut self, write: &LogWrite) {
        self.generation = write.generation;
        if let Some(image) = &write.image {
            self.image = Some(Arc::clone(image));
            self.start = write.from;
            self.entries.clear();
        } else {
            self.entries.truncate(write.from.saturating_sub(self.start));
        }
        self.entries.extend(write.entries.iter().cloned());
    }
}

/// The owner's log.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    start: usize,
    entries: Vec<Arc<Entry>>,
    /// Position up to which stable storage has it.
    pub(crate) flushed: usize,
    /// Position up to which the standby has it.
    pub(crate) standby: usize,
    /// The end of the write under way.
    pub(crate) writing: Option<usize>,
    /// Whether an image is being written, and of which position.
    pub(crate) imaging: Option<usize>,
    /// When the last lazy write was begun.
    pub(crate) written_at_us: u64,
    /// When the tail was last sent to the standby.
    pub(crate) sent_at_us: u64,
    /// The position up to which it was sent.
    pub(crate) sent: usize,
}

impl Log {
    /// A log of which stable storage has the first `flushed`.
    pub(crate) fn new(start: usize, entries: Vec<Arc<Entry>>, flushed: usize) -> Log {
        Log {
            start,
            entries,
            flushed,
            standby: 0,
            writing: None,
            imaging: None,
            written_at_us: 0,
            sent_at_us: 0,
            sent: 0,
        }
    }

    pub(crate) fn end(&self) -> usize {
        self.start + self.entries.len()
    }

    /// Appends and answers the position after the entry: what must be safe for it to be.
    pub(crate) fn append(&mut self, entry: Entry) -> usize {
        self.entries.push(Arc::new(entry));
        self.end()
    }

    /// The entries from a position on.
    pub(crate) fn from(&self, position: usize) -> Vec<Arc<Entry>> {
        self.entries
            .get(position.saturating_sub(self.start)..)
            .unwrap_or_default()
            .to_vec()
    }

    /// How many entries it has kept since the last image.
    pub(crate) fn kept(&self) -> usize {
        self.entries.len()
    }

    /// Forgets the entries before a position: an image has them.
    pub(crate) fn cut(&mut self, position: usize) {
        let count = position.saturating_sub(self.start).min(self.entries.len());
        self.entries.drain(..count);
        self.start += count;
    }

    /// The position up to which entries are as safe as asked.
    pub(crate) fn safe(&self, durability: Durability, has_standby: bool) -> usize {
        match durability {
            Durability::Memory => self.end(),
            Durability::Replicated if has_standby => self.flushed.max(self.standby),
            Durability::Replicated | Durability::Durable => self.flushed,
        }
    }
}
