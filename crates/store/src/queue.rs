//! What waits for the log: commits, and what the shards have written.
//!
//! Whoever asks the sequencer for something leaves it here and wakes it where it sleeps. It knows
//! what is worth waking it for and how long entries that nobody waits for may gather; it knows
//! nothing of what becomes of them.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tidemill_lattice::Time;

use crate::company::Expected;
use crate::embedded::Inner;
use crate::mailbox::Mail;
use crate::record::Entries;
use crate::shard::answer;
use crate::{Commit, Done, Durability, Error, Snapshot};

/// Of so many commits whoever queues the last may write the log himself.
const LIGHT_COMMITS: usize = 16;
/// How long the thread sleeps when nobody asks for anything.
const TICK: Duration = Duration::from_millis(200);
/// How long entries that nobody waits for gather before they are written.
const LINGER: Duration = Duration::from_millis(5);
/// So many bytes of them are written at once.
const URGENT_BYTES: usize = 256 * 1024;

/// What others ask of the sequencer.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) commits: Vec<Queued>,
    chunks: Vec<Chunk>,
    chunk_bytes: usize,
    tickets: u64,
    /// Somebody waits for a chunk, or there are many bytes of them.
    is_urgent: bool,
    pub(crate) checkpoints: Vec<mpsc::SyncSender<Result<Time, Error>>>,
    pub(crate) closing: bool,
    /// The sequencer waits and must be woken.
    pub(crate) idle: bool,
    /// It waits for entries to gather, and not for long.
    lingers: bool,
    /// Writes that somebody waits for to be durable.
    awaited: usize,
    /// It waits for so many of them.
    expected: usize,
}

/// A commit, and whom to answer. Its snapshot stays pinned until its deltas are applied.
pub(crate) struct Queued {
    pub(crate) commit: Commit,
    pub(crate) held: Snapshot,
    pub(crate) done: Done,
    /// When it was asked for, in microseconds.
    pub(crate) asked_us: u64,
}

/// What a shard has written in a turn.
pub(crate) struct Chunk {
    pub(crate) shard: usize,
    pub(crate) ticket: u64,
    pub(crate) entries: Entries,
    /// The shard wants to know when it is safe.
    pub(crate) waits: bool,
}

impl Queue {
    /// Takes a shard's entries. Answers their ticket, and whether to wake the sequencer.
    pub(crate) fn hand_over(&mut self, shard: usize, entries: Entries, waits: bool) -> (u64, bool) {
        self.tickets += 1;
        let is_first = self.chunks.is_empty();
        self.chunk_bytes += entries.len();
        self.is_urgent |= waits || self.chunk_bytes > URGENT_BYTES;
        self.awaited += if waits { entries.count() } else { 0 };
        self.chunks.push(Chunk {
            shard,
            ticket: self.tickets,
            entries,
            waits,
        });
        // The first begins the time in which others gather.
        let wakes = self.is_urgent && self.is_expected() || is_first && !self.lingers;
        (self.tickets, self.idle && wakes)
    }

    /// Takes a commit. Answers whether to wake the sequencer.
    pub(crate) fn push(&mut self, queued: Queued) -> bool {
        self.awaited += usize::from(queued.commit.durability == Durability::Durable);
        self.commits.push(queued);
        self.idle && self.is_expected()
    }

    /// Writes that somebody waits for to be durable.
    pub(crate) fn awaited(&self) -> usize {
        self.awaited
    }

    /// Whether those are there whom a sync is held back for.
    fn is_expected(&self) -> bool {
        self.awaited >= self.expected
    }

    /// Takes everything that is to be written.
    pub(crate) fn take(&mut self, commits: &mut Vec<Queued>, chunks: &mut Vec<Chunk>) {
        std::mem::swap(&mut self.commits, commits);
        std::mem::swap(&mut self.chunks, chunks);
        self.chunk_bytes = 0;
        self.is_urgent = false;
        self.awaited = 0;
    }

    /// Takes what shards have handed over.
    pub(crate) fn take_chunks(&mut self) -> Vec<Chunk> {
        self.chunk_bytes = 0;
        let chunks = std::mem::take(&mut self.chunks);
        let waits = chunks.iter().filter(|chunk| chunk.waits);
        self.awaited -= waits.map(|chunk| chunk.entries.count()).sum::<usize>();
        chunks
    }

    /// There is something to do that no one waits for.
    pub(crate) fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// Whether nobody in it waits for the disk, and it is short.
    pub(crate) fn is_light(&self) -> bool {
        let is_memory = |queued: &Queued| queued.commit.durability == Durability::Memory;
        self.commits.len() <= LIGHT_COMMITS
            && self.chunk_bytes <= URGENT_BYTES
            && !self.closing
            && self.commits.iter().all(is_memory)
            && !self.chunks.iter().any(|chunk| chunk.waits)
    }

    /// Whether none of its commits has to be written before it is answered.
    pub(crate) fn may_wait(&self) -> bool {
        self.commits.iter().all(|queued| queued.commit.may_wait())
    }

    fn is_ready(&self) -> bool {
        self.is_urgent || self.closing || !self.commits.is_empty() || !self.checkpoints.is_empty()
    }
}

impl Inner {
    /// Waits until something is queued, for a while; not at all if there `is_busy` work anyhow.
    pub(crate) fn wait_for_work(&self, is_busy: bool) {
        let mut queue = self.queue.lock();
        while !queue.is_ready() && !is_busy {
            let time = if queue.chunks.is_empty() {
                TICK
            } else {
                LINGER
            };
            queue.idle = true;
            queue.lingers = time == LINGER;
            let waited = self.wake.wait_for(&mut queue, time);
            queue.idle = false;
            queue.lingers = false;
            if waited.timed_out() {
                let rests = time == TICK;
                drop(queue);
                if rests {
                    (self.options.at_rest)();
                }
                return;
            }
        }
    }

    /// Waits until those have come whom a sync is held back for, or have had their time.
    pub(crate) fn wait_for_company(&self, expected: Expected) {
        let mut queue = self.queue.lock();
        let is_free = queue.checkpoints.is_empty() && !queue.closing;
        if is_free && queue.awaited < expected.writes {
            queue.idle = true;
            queue.lingers = true;
            queue.expected = expected.writes;
            self.wake.wait_for(&mut queue, expected.wait);
            queue.idle = false;
            queue.lingers = false;
            queue.expected = 0;
        }
    }
}

/// Closes the queue when the thread ends, also by a panic, so that nobody waits for ever.
pub(crate) struct Closer(pub(crate) Arc<Inner>);

impl Drop for Closer {
    fn drop(&mut self) {
        let (commits, chunks) = {
            let mut queue = self.0.queue.lock();
            queue.closing = true;
            queue.checkpoints.clear();
            (
                std::mem::take(&mut queue.commits),
                std::mem::take(&mut queue.chunks),
            )
        };
        for queued in commits {
            answer(queued.done, Err(Error::Closed));
        }
        for chunk in chunks.into_iter().filter(|chunk| chunk.waits) {
            if let Some(mailbox) = self.0.mailboxes.get(chunk.shard) {
                drop(mailbox.post(Mail::Logged(chunk.ticket, Err(Error::Closed))));
            }
        }
    }
}
