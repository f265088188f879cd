//! A group of the log as it gathers: commits with their times, and what shards have written.
//!
//! It knows what a group has taken and whether it is full, and nothing of how it is written.

use std::collections::{BTreeSet, HashSet};

use tidemill_lattice::Time;

use crate::record::Entries;
use crate::requests::{self, StoredRequest};
use crate::table::Loaded;
use crate::{Commit, Done, MessageId, Snapshot};

/// The most commits in one group, and about the most bytes.
const GROUP_COMMITS: usize = 1024;
pub(crate) const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// A group as it gathers.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) entries: Entries,
    pub(crate) commits: Vec<Placed>,
    pub(crate) consumed: BTreeSet<MessageId>,
    /// The requests that leave a record.
    pub(crate) recorded: HashSet<u128>,
    pub(crate) durable: bool,
    /// Writes that somebody waits for to be so.
    pub(crate) awaited: usize,
    pub(crate) chunks: Vec<(usize, u64)>,
    /// Bytes that came from shards.
    pub(crate) chunk_bytes: usize,
    /// Bytes of the records of requests.
    pub(crate) record_bytes: usize,
}

impl Group {
    /// Whether it may be published before it is written.
    pub(crate) fn may_wait(&self) -> bool {
        let commits = &self.commits;
        let is_waited_for = commits.is_empty() || !self.chunks.is_empty();
        !is_waited_for && commits.iter().all(|placed| placed.commit.may_wait())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.commits.len() >= GROUP_COMMITS || self.entries.len() + self.record_bytes >= GROUP_BYTES
    }

    /// The records of its requests, which go with it.
    pub(crate) fn take_records(&mut self, number: u64) -> Vec<StoredRequest> {
        let records = self.commits.iter_mut().filter_map(|placed| {
            let record = placed.commit.record.take()?;
            let id = placed.commit.request;
            Some(StoredRequest::new(id, placed.time, number, record))
        });
        records.collect()
    }
}

/// A commit with its time.
pub(crate) struct Placed {
    pub(crate) time: Time,
    pub(crate) commit: Commit,
    pub(crate) loaded: Vec<Option<Loaded>>,
    pub(crate) done: Done,
    pub(crate) asked_us: u64,
    pub(crate) _held: Snapshot,
}

/// What a commit's record takes.
pub(crate) fn record_bytes(commit: &Commit) -> usize {
    let record = commit.record.as_ref();
    record.map_or(0, |record| requests::OVERHEAD_BYTES + record.result.len())
}
