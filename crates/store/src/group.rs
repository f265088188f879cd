//! A group of commits as it gathers, and what keys hold within it.
//!
//! Pure: times and cells. It knows nothing of the log or of who commits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Time, Writer};

use crate::{Commit, Done, MessageId, Snapshot};

/// A commit on its way into the log.
pub(crate) struct Entry {
    pub(crate) time: Time,
    pub(crate) commit: Commit,
    pub(crate) done: Done,
    /// What a commit had read stays pinned until its deltas are applied.
    pub(crate) _held: Option<Snapshot>,
}

/// A group as it gathers.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) entries: Vec<Entry>,
    pub(crate) records: Vec<(Time, Writer, Vec<u8>)>,
    pub(crate) bytes: usize,
    pub(crate) consumed: BTreeSet<MessageId>,
    pub(crate) durable: bool,
    /// Those who wrote nothing, and are answered once what they saw is safe.
    pub(crate) lookers: Vec<Done>,
    overlay: Option<Overlay>,
}

/// What the group's commits have made of the keys they touch. Kept from the first update
/// on: groups of plain commits never look.
#[derive(Default)]
struct Overlay(HashMap<Key, Layer>);

enum Layer {
    /// The join of the group's deltas.
    Deltas(Cell),
    /// The whole cell with them.
    Whole(Cell),
}

impl Overlay {
    fn touch(&mut self, key: &Key, delta: &Cell) {
        match self.0.get_mut(key) {
            Some(Layer::Deltas(cell) | Layer::Whole(cell)) => cell.merge(delta),
            None => {
                self.0.insert(key.clone(), Layer::Deltas(delta.clone()));
            }
        }
    }
}

impl Group {
    /// Whether there is nothing to write and nobody to answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.lookers.is_empty()
    }

    /// Adds a commit whose times are drawn.
    pub(crate) fn push(&mut self, entry: Entry) {
        if let Some(overlay) = &mut self.overlay {
            for (key, delta) in &entry.commit.deltas {
                overlay.touch(key, delta);
            }
        }
        self.entries.push(entry);
    }

    /// What a key holds after the group's commits so far, given what it held before them.
    pub(crate) fn newest(&mut self, key: &Key, before: Option<Arc<Cell>>) -> Option<&Cell> {
        let overlay = self.overlay.get_or_insert_with(|| {
            let mut overlay = Overlay::default();
            for (key, delta) in self.entries.iter().flat_map(|entry| &entry.commit.deltas) {
                overlay.touch(key, delta);
            }
            overlay
        });
        let whole = match overlay.0.remove(key) {
            Some(Layer::Whole(cell)) => Some(cell),
            Some(Layer::Deltas(deltas)) => {
                let mut cell = before.map_or_else(Cell::empty, Arc::unwrap_or_clone);
                cell.merge(&deltas);
                Some(cell)
            }
            None => before.map(Arc::unwrap_or_clone),
        }?;
        match overlay
            .0
            .entry(key.clone())
            .insert_entry(Layer::Whole(whole))
            .into_mut()
        {
            Layer::Whole(cell) | Layer::Deltas(cell) => Some(cell),
        }
    }
}
