//! A partition as its owner holds it: versions, home records, marks.
//!
//! Its whole state follows from its log and from what homes deliver again, so opening it elsewhere
//! means replaying the one and asking for the other. It knows nothing of members or messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Time};

use crate::log::Log;
use crate::record::{Applied, Entry};
use crate::streams::Streams;
use crate::{
    Address, Canaries, Canary, Chain, Durability, Generation, LogImage, LogRead, PartitionId,
    Record, RequestId, Stamp, Ticket,
};

/// A record of this home.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) record: Arc<Record>,
    /// Whether it is as safe as was asked.
    pub(crate) is_safe: bool,
    /// Whether every participant has it.
    pub(crate) is_delivered: bool,
    /// Who is told when it is safe.
    pub(crate) waiters: Vec<(Address, Ticket)>,
    /// The messages that were answered.
    pub(crate) sent: BTreeSet<u32>,
    /// When to send its messages again.
    pub(crate) send_at_us: u64,
}

/// A partition.
#[derive(Clone, Debug)]
pub struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) generation: Generation,
    /// Whose log stable storage says it is: an older one's until it was written under this.
    pub(crate) written_as: Generation,
    pub(crate) canaries: Canaries,
    pub(crate) log: Log,
    /// What must be written without delay.
    pub(crate) urgent: usize,
    /// What the standby must have.
    pub(crate) replicate: usize,
    chains: BTreeMap<Key, Chain>,
    fold: Time,
    mark: Time,
    flushed_mark: Time,
    /// Marks that are not on stable storage, by the position after their entry.
    marks: BTreeMap<usize, Time>,
    /// Commits applied above the mark.
    applied: BTreeSet<Stamp>,
    /// Deltas of other homes that are in no mark yet.
    unlogged: Vec<Applied>,
    pub(crate) known: BTreeMap<RequestId, Known>,
    /// Records that are not safe, by the position after their entry.
    pub(crate) unsafe_records: BTreeSet<(usize, RequestId)>,
    pub(crate) streams: Streams,
    pub(crate) marked_at_us: u64,
    pub(crate) folded_at_us: u64,
    pub(crate) pushed_at_us: u64,
}

impl Partition {
    /// The partition that a log and a tail make.
    #[must_use]
    pub fn replay(
        id: PartitionId,
        generation: Generation,
        read: &LogRead,
        tail: &[Arc<Entry>],
        canaries: Canaries,
    ) -> Partition {
        let mut entries = read.entries.clone();
        entries.extend(tail.iter().cloned());
        let mut partition = Partition {
            id,
            generation,
            written_as: read.generation,
            canaries,
            log: Log::new(read.start, Vec::new(), read.end()),
            urgent: 0,
            replicate: 0,
            chains: BTreeMap::new(),
            fold: Time::ZERO,
            mark: Time::ZERO,
            flushed_mark: Time::ZERO,
            marks: BTreeMap::new(),
            applied: BTreeSet::new(),
            unlogged: Vec::new(),
            known: BTreeMap::new(),
            unsafe_records: BTreeSet::new(),
            streams: Streams::default(),
            marked_at_us: 0,
            folded_at_us: 0,
            pushed_at_us: 0,
        };
        if let Some(image) = &read.image {
            partition.mark = image.mark;
            partition.flushed_mark = image.mark;
            partition.fold = image.fold;
            partition.chains = image.chains.clone();
            for (record, sent) in &image.records {
                partition.know(record, read.start, sent.clone());
            }
        }
        for (place, entry) in entries.iter().enumerate() {
            partition.replay_entry(entry, read.start + place + 1);
        }
        partition.log = Log::new(read.start, entries, read.end());
        partition
    }

    fn replay_entry(&mut self, entry: &Entry, end: usize) {
        match entry {
            Entry::Commit(record) => self.know(record, end, BTreeSet::new()),
            Entry::Mark { through, applied } => {
                for each in applied {
                    self.apply(each);
                }
                self.raise_mark(*through);
                self.marks.insert(end, *through);
            }
            Entry::Sent { id, place } => {
                if let Some(known) = self.known.get_mut(id) {
                    known.sent.insert(*place);
                }
            }
        }
    }

    fn know(&mut self, record: &Arc<Record>, end: usize, sent: BTreeSet<u32>) {
        if let Some(own) = record.for_partition(self.id, self.id) {
            self.apply(&own);
        }
        self.unsafe_records.insert((end, record.id));
        let known = Known {
            record: Arc::clone(record),
            is_safe: false,
            is_delivered: false,
            waiters: Vec::new(),
            sent,
            send_at_us: 0,
        };
        self.known.insert(record.id, known);
    }

    /// Appends a commit of this home. Its deltas for this partition come by delivery like all.
    pub(crate) fn append_commit(&mut self, record: Arc<Record>, waiter: (Address, Ticket)) {
        let (id, durability) = (record.id, record.durability);
        let end = self.log.append(Entry::Commit(Arc::clone(&record)));
        self.unsafe_records.insert((end, id));
        match durability {
            Durability::Durable => self.urgent = end,
            Durability::Replicated => self.replicate = end,
            Durability::Memory => {}
        }
        let known = Known {
            record,
            is_safe: false,
            is_delivered: false,
            waiters: vec![waiter],
            sent: BTreeSet::new(),
            send_at_us: 0,
        };
        self.known.insert(id, known);
    }

    /// Appends that a message was answered.
    pub(crate) fn append_sent(&mut self, id: RequestId, place: u32) {
        if let Some(known) = self.known.get_mut(&id)
            && known.sent.insert(place)
        {
            self.log.append(Entry::Sent { id, place });
        }
    }

    /// Applies a commit's deltas; idempotent. What is at or below the mark or the fold line is
    /// here already.
    pub fn apply(&mut self, applied: &Applied) {
        let stamp = applied.stamp;
        let line = self.mark.max(self.fold);
        if stamp.time <= line && !self.canaries.has(Canary::DeliveryAfterFold) {
            return;
        }
        if !self.applied.insert(stamp) {
            return;
        }
        for (key, delta) in applied.deltas.iter() {
            let chain = self.chains.entry(key.clone()).or_default();
            if self.canaries.has(Canary::TieByArrival) {
                chain.push_winning_ties(stamp, applied.snapshot, Arc::clone(delta));
            } else {
                chain.push(stamp, applied.snapshot, Arc::clone(delta));
            }
        }
        if applied.home != self.id {
            self.unlogged.push(applied.clone());
        }
    }

    /// Logs that every delta at or below `stable` is here. Only a serving owner may: another has
    /// no way to know.
    pub(crate) fn append_mark(&mut self, stable: Time) {
        if stable <= self.mark {
            return;
        }
        let (ripe, rest) = std::mem::take(&mut self.unlogged)
            .into_iter()
            .partition(|applied| applied.stamp.time <= stable);
        self.unlogged = rest;
        let end = self.log.append(Entry::Mark {
            through: stable,
            applied: ripe,
        });
        self.marks.insert(end, stable);
        self.raise_mark(stable);
    }

    fn raise_mark(&mut self, through: Time) {
        self.mark = self.mark.max(through);
        let mark = self.mark;
        self.applied.retain(|stamp| stamp.time > mark);
        self.unlogged.retain(|applied| applied.stamp.time > mark);
    }

    /// Stable storage has the log up to a position. Answers the flushed mark if it rose.
    pub(crate) fn flushed(&mut self, end: usize) -> Option<Time> {
        self.log.flushed = self.log.flushed.max(end);
        let kept = self.marks.split_off(&(end + 1));
        let newest = std::mem::replace(&mut self.marks, kept)
            .into_values()
            .max()?;
        (newest > self.flushed_mark).then(|| {
            self.flushed_mark = newest;
            newest
        })
    }

    /// The mark.
    #[must_use]
    pub fn mark(&self) -> Time {
        self.mark
    }

    /// Reads below it are refused.
    #[must_use]
    pub fn fold_line(&self) -> Time {
        self.fold
    }

    /// A key as of a snapshot; `None` if nothing is known of it.
    #[must_use]
    pub fn read(&self, key: &Key, at: Time) -> Option<Arc<Cell>> {
        self.chains.get(key)?.at(at)
    }

    /// A key's versions.
    pub(crate) fn chain(&self, key: &Key) -> Option<&Chain> {
        self.chains.get(key)
    }

    /// What the partition has not pushed to caches, through a time.
    pub(crate) fn pushes(&mut self, through: Time) -> Vec<(Address, crate::streams::Push)> {
        self.streams.pushes(self.id, &self.chains, through)
    }

    /// Folds up to a line that no snapshot to come is below.
    pub(crate) fn fold(&mut self, line: Time, stable: Time) {
        let unnoticed = self.canaries.has(Canary::FoldAboveSnapshot);
        let line = if unnoticed { stable } else { line };
        if line <= self.fold && !unnoticed {
            return;
        }
        let hasty = self.canaries.has(Canary::TombstoneEarly);
        self.chains.retain(|_, chain| {
            chain.fold(line, hasty);
            !chain.is_forgotten()
        });
        if !unnoticed {
            self.fold = line;
        }
        self.streams.folded(line);
    }

    /// Safe records above a time that touch a partition.
    #[must_use]
    pub fn owed(&self, partition: PartitionId, above: Time) -> Vec<Applied> {
        self.known
            .values()
            .filter(|known| known.is_safe && known.record.stamp.time > above)
            .filter_map(|known| known.record.for_partition(self.id, partition))
            .collect()
    }

    /// Forgets what nobody can ask for: a record's deltas once every participant has flushed a
    /// mark at or above it, and the whole of it once no retry is accepted any more either.
    pub(crate) fn forget(&mut self, flushed: &dyn Fn(PartitionId) -> Time, oldest_birth_us: u64) {
        let early = self.canaries.has(Canary::ForgetBeforeMarks);
        let mut gone = Vec::new();
        for (id, known) in &mut self.known {
            let record = &known.record;
            let time = record.stamp.time;
            let is_flushed = record.deltas.iter().all(|(p, _)| flushed(*p) >= time);
            if !known.is_delivered || !(is_flushed || early) {
                continue;
            }
            if !record.deltas.is_empty() {
                let mut bare = Record::clone(record);
                bare.deltas.clear();
                known.record = Arc::new(bare);
            }
            let all_sent = known.sent.len() == known.record.messages.len();
            if all_sent && id.birth_us < oldest_birth_us {
                gone.push(*id);
            }
        }
        for id in gone {
            self.known.remove(&id);
        }
    }

    /// What can take the place of the log up to its end.
    pub(crate) fn image(&self) -> LogImage {
        let mut chains = BTreeMap::new();
        for (key, chain) in &self.chains {
            let mut kept = Chain::new(Arc::clone(chain.base()));
            for (stamp, snapshot, delta) in chain.between(Time::ZERO, self.mark) {
                kept.push(stamp, snapshot, Arc::clone(delta));
            }
            if !kept.is_forgotten() {
                chains.insert(key.clone(), kept);
            }
        }
        let record = |known: &Known| (Arc::clone(&known.record), known.sent.clone());
        LogImage {
            mark: self.mark,
            fold: self.fold,
            chains,
            records: self.known.values().map(record).collect(),
        }
    }

    /// The greatest time that is logged here.
    #[must_use]
    pub fn greatest_time(&self) -> Time {
        let commits = self.known.values().map(|known| known.record.stamp.time);
        commits
            .chain(self.applied.iter().map(|stamp| stamp.time))
            .fold(self.mark.max(self.fold), Time::max)
    }
}
