//! The one who writes the log: a thread, or in its stead whoever commits in memory while it rests (see
//! `combine`).
//! It draws the times of commits, gathers them and what the shards have written into groups, has
//! the shards apply the commits, lets the frontier pass, answers, and writes checkpoints in between.
//!
//! While a group is written and synced, the next one gathers in the queue: group commit.
//! It knows the engine, the shards' mailboxes and the frontier, and nothing of who commits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tidemill_lattice::{Dot, Time, Writer};

use crate::checkpoint::Checkpoints;
use crate::company::{Company, Expected};
use crate::disk::Step;
use crate::embedded::Inner;
use crate::fence::{Fence, Void};
use crate::group::{GROUP_BYTES, Group, Placed, record_bytes};
use crate::latch::Latch;
use crate::mailbox::{Mail, Slice};
use crate::queue::{Chunk, Closer, Queued};
use crate::record;
use crate::recovery::Recovered;
use crate::shard::answer;
use crate::sweep::Sweeper;
use crate::table::Loaded;
use crate::{
    Commit, Committed, Done, Durability, Error, MessageId, PROVISIONAL, RecordedRequest, Snapshot,
    Stats,
};

/// A group in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    pub(crate) number: u64,
    /// The greatest time in it.
    pub(crate) high: Time,
    pub(crate) size_bytes: u64,
}

/// A commit that its shards have.
struct Applied {
    time: Time,
    messages: Vec<MessageId>,
    bodies: Vec<bytes::Bytes>,
    consumes: Option<MessageId>,
    done: Done,
    /// Whose meter counts it: the first key's shard.
    shard: usize,
    asked_us: u64,
    _held: Snapshot,
}

pub(crate) struct Sequencer {
    pub(crate) inner: Arc<Inner>,
    writer: Writer,
    pub(crate) next_number: u64,
    fence: Fence,
    /// The greatest time in the log, of this life and those before.
    written_through: Time,
    company: Company,
    pub(crate) logged: VecDeque<Logged>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) sweeper: Sweeper,
}

impl Sequencer {
    pub(crate) fn new(inner: Arc<Inner>, recovered: Recovered, fence: Fence) -> Sequencer {
        let log_bytes = recovered.logged.iter().map(|group| group.size_bytes).sum();
        inner.counters.log_bytes.store(log_bytes, Ordering::Relaxed);
        let now_us = inner.clock.now_micros();
        Sequencer {
            inner,
            writer: recovered.writer,
            next_number: recovered.next_number,
            fence,
            written_through: recovered.floor,
            company: Company::default(),
            checkpoints: Checkpoints::new(&recovered, log_bytes, now_us),
            sweeper: Sweeper::default(),
            logged: recovered.logged,
        }
    }

    /// Runs until the store closes and everything queued is answered.
    pub(crate) fn run(shared: &Mutex<Sequencer>) {
        let inner = Arc::clone(&shared.lock().inner);
        let _closer = Closer(Arc::clone(&inner));
        let (mut commits, mut chunks) = (Vec::new(), Vec::new());
        loop {
            let is_busy = {
                let sequencer = shared.lock();
                sequencer.checkpoint_busy() || sequencer.sweep_busy()
            };
            inner.wait_for_work(is_busy);
            let expected = shared.lock().expected();
            if let Some(expected) = expected {
                inner.wait_for_company(expected);
            }
            let mut sequencer = shared.lock();
            let closing = sequencer.gather(&mut commits, &mut chunks);
            let idle = commits.is_empty() && chunks.is_empty();
            if !idle {
                let group = sequencer.groups(&mut commits, &mut chunks);
                sequencer.write_some(group);
            }
            let now_us = inner.clock.now_micros();
            sequencer.checkpoint_step(now_us);
            sequencer.sweep_step(now_us);
            if closing && idle {
                break;
            }
        }
        if inner.failure().is_none() {
            let synced = inner.engine.sync();
            if let Err(error) = synced.and_then(|()| inner.losses.end()) {
                tracing::warn!(%error, "the last commits may not be durable");
            }
        }
        shared.lock().checkpoints.refuse(&Error::Closed);
    }

    /// Whom the next sync is to wait for.
    fn expected(&self) -> Option<Expected> {
        let awaited = self.inner.queue.lock().awaited();
        let now_us = self.inner.clock.now_micros();
        self.company.expected(awaited, now_us)
    }

    /// Takes what is queued. Tells whether the store is closing.
    fn gather(&mut self, commits: &mut Vec<Queued>, chunks: &mut Vec<Chunk>) -> bool {
        let mut queue = self.inner.queue.lock();
        queue.take(commits, chunks);
        self.checkpoints.ask(&mut queue.checkpoints);
        queue.closing
    }

    /// Gathers what was queued, and writes what is a group's worth; answers the rest. Chunks come
    /// first: a commit may have read what is in them.
    pub(crate) fn groups(&mut self, commits: &mut Vec<Queued>, chunks: &mut Vec<Chunk>) -> Group {
        let now_us = self.inner.clock.now_micros();
        let mut group = Group::default();
        for chunk in chunks.drain(..) {
            group.chunk_bytes += chunk.entries.len();
            group.durable |= chunk.waits;
            if chunk.waits {
                group.awaited += chunk.entries.count();
                group.chunks.push((chunk.shard, chunk.ticket));
            }
            group.entries.append(chunk.entries);
            if group.entries.len() >= GROUP_BYTES {
                self.write(std::mem::take(&mut group));
            }
        }
        for queued in commits.drain(..) {
            let Commit {
                request, record, ..
            } = &queued.commit;
            if record.is_some() && group.recorded.contains(request) {
                // Written first, the one before it is found as any other is.
                self.write(std::mem::take(&mut group));
            }
            self.take(queued, now_us, &mut group);
            if group.is_full() {
                self.write(std::mem::take(&mut group));
            }
        }
        group
    }

    pub(crate) fn write_some(&mut self, group: Group) {
        if !group.entries.is_empty() {
            self.write(group);
        }
    }

    /// Writes what has been handed over by now.
    pub(crate) fn catch_up(&mut self) {
        let mut chunks = self.inner.queue.lock().take_chunks();
        if !chunks.is_empty() {
            let group = self.groups(&mut Vec::new(), &mut chunks);
            self.write_some(group);
        }
    }

    /// Takes a commit into the group, or says why not.
    fn take(&mut self, queued: Queued, now_us: u64, group: &mut Group) {
        let Queued {
            mut commit,
            held,
            done,
            asked_us,
        } = queued;
        match self.recorded(&commit, now_us) {
            Ok(None) => {}
            Ok(Some(before)) => return self.repeat(before, &commit, done),
            Err(error) => return answer(done, Err(error)),
        }
        let loaded = match self.acceptable(&commit, group) {
            Ok(loaded) => loaded,
            Err(error) => return answer(done, Err(error)),
        };
        let time = self.inner.frontier.draw(self.slot(), 1, now_us);
        let writer = self.writer;
        let stamp = |dot: Dot| {
            if dot.time == PROVISIONAL {
                Dot::new(time, writer, dot.sequence)
            } else {
                dot
            }
        };
        for (_, cell) in &mut commit.deltas {
            cell.restamp(&stamp);
        }
        let entry_bytes = group.entries.commit(time, &commit);
        let size_bytes = entry_bytes + record_bytes(&commit);
        let limit_bytes = record::LIMIT_BYTES;
        let room = if size_bytes > limit_bytes {
            Err(Error::TooLarge {
                size_bytes,
                limit_bytes,
            })
        } else {
            self.inner.space.take(size_bytes, now_us)
        };
        if let Err(error) = room {
            group.entries.undo(entry_bytes);
            if group.commits.is_empty() {
                self.release();
            }
            return answer(done, Err(error));
        }
        group.consumed.extend(commit.consumes);
        if commit.record.is_some() {
            group.recorded.insert(commit.request);
            group.record_bytes += record_bytes(&commit);
        }
        if commit.durability == Durability::Durable {
            group.durable = true;
            group.awaited += 1;
        }
        group.commits.push(Placed {
            time,
            commit,
            loaded,
            done,
            asked_us,
            _held: held,
        });
    }

    /// What is recorded of a commit's request, where it wants to be recorded itself.
    fn recorded(&self, commit: &Commit, now_us: u64) -> Result<Option<RecordedRequest>, Error> {
        if commit.record.is_none() {
            return Ok(None);
        }
        self.inner.recorded(commit.request, now_us)
    }

    /// Answers a commit whose request has taken effect before.
    fn repeat(&mut self, before: RecordedRequest, commit: &Commit, done: Done) {
        // The first may have asked for less than this one.
        if commit.durability == Durability::Durable
            && let Err(error) = self.keep()
        {
            return answer(done, Err(error));
        }
        let counters = &self.inner.counters;
        counters.requests_repeated.fetch_add(1, Ordering::Relaxed);
        self.inner.when_stable(before.time, move || {
            let time = before.time;
            let committed = Committed {
                time,
                messages: Vec::new(),
                repeated: Some(before),
            };
            answer(done, Ok(committed));
        });
    }

    /// Syncs all that is in the log, if anything of it is not.
    pub(crate) fn keep(&mut self) -> Result<(), Error> {
        if let Some(error) = self.inner.failure() {
            return Err(error);
        }
        let synced_through = &self.inner.synced_through;
        if self.written_through.as_u64() <= synced_through.load(Ordering::Relaxed) {
            return Ok(());
        }
        let synced = self.inner.engine.sync();
        synced.inspect_err(|error| self.inner.stop_writing(error))?;
        self.inner.counters.syncs.fetch_add(1, Ordering::Relaxed);
        synced_through.store(self.written_through.as_u64(), Ordering::Release);
        Ok(())
    }

    /// The slot in the frontier of whoever draws here.
    pub(crate) fn slot(&self) -> usize {
        self.inner.views.len()
    }

    fn release(&self) {
        self.inner.frontier.release(self.slot(), None);
        self.inner.wake_stable();
    }

    /// Whether a commit can be written; its keys are read where they are not in memory, since
    /// what is in the log must be applied.
    fn acceptable(&self, commit: &Commit, group: &Group) -> Result<Vec<Option<Loaded>>, Error> {
        let inner = &*self.inner;
        if let Some(error) = inner.failure() {
            return Err(error);
        }
        if let Some(message) = commit.consumes
            && (group.consumed.contains(&message) || !inner.pending.lock().contains_key(&message))
        {
            return Err(Error::Consumed { message });
        }
        let load = |key| {
            let view = &inner.views[inner.shard_of(key)];
            let Some(ticket) = view.missing(key) else {
                return Ok(None);
            };
            let stored = inner.engine.load(key)?;
            Ok(Some(Loaded { ticket, stored }))
        };
        commit.deltas.iter().map(|(key, _)| load(key)).collect()
    }

    /// Writes a group as one value of the log, then has it applied and answers.
    fn write(&mut self, mut group: Group) {
        let durability = if group.durable {
            Durability::Durable
        } else {
            Durability::Memory
        };
        let (header, bytes) = group.entries.seal(self.next_number, self.writer);
        let size_bytes = bytes.len() as u64;
        let backlog = group.chunk_bytes as u64;
        let began_us = self.inner.clock.now_micros();
        let written = match self.inner.failure() {
            None => {
                let records = group.take_records(header.number);
                for record in &records {
                    self.sweeper.recorded(record.due_us);
                }
                let engine = &self.inner.engine;
                engine.append(header.number, bytes, &records, durability)
            }
            Some(error) => Err(error),
        };
        self.inner.backlog.fetch_sub(backlog, Ordering::Relaxed);
        if let Err(error) = written {
            let error = self.void(header.number, error);
            return self.refuse(group, &error);
        }
        self.next_number += 1;
        self.written_through = self.written_through.max(header.high);
        if group.durable {
            let through = self.written_through.as_u64();
            self.inner.synced_through.store(through, Ordering::Release);
            let asked = self.inner.queue.lock().awaited();
            let ended_us = self.inner.clock.now_micros();
            self.company
                .synced(group.awaited, asked, began_us, ended_us);
        }
        self.logged.push_back(Logged {
            number: header.number,
            high: header.high,
            size_bytes,
        });
        self.count(&group, size_bytes);
        self.publish(group);
    }

    fn count(&mut self, group: &Group, size_bytes: u64) {
        let counters = &self.inner.counters;
        let size = group.commits.len() as u64;
        counters.commits.fetch_add(size, Ordering::Relaxed);
        counters.flushes.fetch_add(1, Ordering::Relaxed);
        let syncs = u64::from(group.durable);
        counters.syncs.fetch_add(syncs, Ordering::Relaxed);
        counters.commits_per_flush[Stats::bucket(group.entries.count())]
            .fetch_add(1, Ordering::Relaxed);
        counters.log_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        self.checkpoints.grown(size_bytes);
    }

    /// Has a group that is in the log applied, makes it visible and answers.
    pub(crate) fn publish(&mut self, group: Group) {
        for (shard, ticket) in &group.chunks {
            self.tell(*shard, *ticket, Ok(()));
        }
        if group.commits.is_empty() {
            return;
        }
        let mut slices: Vec<Vec<Slice>> = Vec::new();
        slices.resize_with(self.inner.views.len(), Vec::new);
        let mut applied = Vec::with_capacity(group.commits.len());
        for placed in group.commits {
            applied.push(self.slice(placed, &mut slices));
        }
        if let Err(error) = self.apply(slices) {
            // It is in the log and can not be shown: the next opening will.
            let error = Error::Unknown {
                directory: self.inner.options.directory.clone(),
                cause: format!("a logged commit could not be applied: {error}"),
            };
            self.inner.stop_writing(&error);
            for each in applied {
                answer(each.done, Err(error.clone()));
            }
            return;
        }
        self.show(&mut applied);
        let Some(last) = applied.last().map(|each| each.time) else {
            return;
        };
        let inner = Arc::clone(&self.inner);
        self.inner.when_stable(last, move || {
            let now_us = inner.clock.now_micros();
            for each in applied {
                let elapsed_us = now_us.saturating_sub(each.asked_us);
                inner.views[each.shard].meter().answered(elapsed_us, 1);
                let Applied { time, messages, .. } = each;
                let repeated = None;
                let committed = Committed {
                    time,
                    messages,
                    repeated,
                };
                answer(each.done, Ok(committed));
            }
        });
    }

    /// Deals a commit's deltas out to their shards.
    fn slice(&self, placed: Placed, slices: &mut [Vec<Slice>]) -> Applied {
        let Placed {
            time,
            commit,
            loaded,
            done,
            asked_us,
            _held,
        } = placed;
        let first = commit.deltas.first();
        let shard = first.map_or(0, |(key, _)| self.inner.shard_of(key));
        for ((key, delta), loaded) in commit.deltas.into_iter().zip(loaded) {
            slices[self.inner.shard_of(&key)].push(Slice {
                key,
                delta,
                time,
                snapshot: commit.snapshot,
                loaded,
            });
        }
        let ids = (0..).map(|index| (time, index));
        Applied {
            time,
            messages: ids.take(commit.messages.len()).collect(),
            bodies: commit.messages,
            consumes: commit.consumes,
            done,
            shard,
            asked_us,
            _held,
        }
    }

    /// Has the shards apply their parts, and waits for them.
    fn apply(&self, slices: Vec<Vec<Slice>>) -> Result<(), Error> {
        let latch = Latch::default();
        for (shard, slices) in slices.into_iter().enumerate() {
            if !slices.is_empty() {
                self.inner.views[shard].meter().sent(slices.len() as u64);
                // What a shard does not take counts itself as failed.
                drop(self.inner.ask(shard, Mail::Apply(slices, latch.part())));
            }
        }
        latch.wait()
    }

    /// Keeps the messages of applied commits until they are consumed, and lets the frontier
    /// pass: no snapshot may see a part of a group.
    fn show(&mut self, applied: &mut [Applied]) {
        // Under the lock, so that a snapshot can be taken with what is pending in it.
        let mut pending = self.inner.pending.lock();
        for each in applied {
            let bodies = std::mem::take(&mut each.bodies);
            pending.extend(each.messages.iter().copied().zip(bodies));
            if let Some(message) = each.consumes {
                pending.remove(&message);
                self.checkpoints.consumed(message);
            }
        }
        self.inner.frontier.release(self.inner.views.len(), None);
        let stable = self.inner.advance();
        drop(pending);
        self.inner.watchers.advanced(stable);
        self.inner.wake_stable();
    }

    fn tell(&self, shard: usize, ticket: u64, outcome: Result<(), Error>) {
        if let Some(mailbox) = self.inner.mailboxes.get(shard) {
            // A shard that is gone has answered everybody.
            drop(mailbox.post(Mail::Logged(ticket, outcome)));
        }
    }

    fn refuse(&self, group: Group, error: &Error) {
        for (shard, ticket) in group.chunks {
            self.tell(shard, ticket, Err(error.clone()));
        }
        self.release();
        for placed in group.commits {
            answer(placed.done, Err(error.clone()));
        }
    }

    /// Voids the groups from `first` on after their write failed with `error`, and stops
    /// writing: what the engine's files hold is not known any more until they are reopened.
    fn void(&mut self, first: u64, error: Error) -> Error {
        if self.inner.failure().is_some() {
            return error;
        }
        self.inner.voided_from.store(first, Ordering::SeqCst);
        self.inner.stop_writing(&error);
        let void = Void {
            writer: self.writer,
            from: first,
        };
        let fenced = self
            .inner
            .engine
            .disk()
            .step(Step::BeforeFence)
            .and_then(|()| self.fence.set(void));
        match fenced {
            Ok(()) => error,
            Err(fence) => Error::Unknown {
                directory: self.inner.options.directory.clone(),
                cause: format!("{error}; then the mark that voids it: {fence}"),
            },
        }
    }
}
