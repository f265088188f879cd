//! The one thread that decides: it draws commit times, writes the log, applies, advances
//! `stable`, answers, and writes checkpoints in between.
//!
//! While a group is written and synced, the next one gathers in the queue: group commit.
//! It knows the engine, the tables and the pins, and nothing of who commits.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tidemill_lattice::{Dot, HybridClock, Key, Time, Writer};

use crate::checkpoint::Checkpoints;
use crate::embedded::Inner;
use crate::fence::{Fence, Void};
use crate::group::{Entry, Group};
use crate::record::{self, Header};
use crate::recovery::Recovered;
use crate::{
    Commit, Committed, Done, Durability, Error, MessageId, PROVISIONAL, Snapshot, Stats, Update,
    disk::Step,
};

/// The most commits in one group, and about the most bytes.
const GROUP_COMMITS: usize = 1024;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// How long the thread sleeps when nobody asks for anything.
const TICK: Duration = Duration::from_millis(200);
/// Free space is asked for again after so long, or when the estimate comes near the reserve.
const SPACE_US: u64 = 250_000;

/// What others ask of the sequencer.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) commits: Vec<Queued>,
    pub(crate) checkpoints: Vec<mpsc::SyncSender<Result<Time, Error>>>,
    pub(crate) closing: bool,
    /// The sequencer waits and must be woken.
    pub(crate) idle: bool,
}

/// What is asked for, and whom to answer.
pub(crate) struct Queued {
    pub(crate) ask: Ask,
    pub(crate) done: Done,
}

pub(crate) enum Ask {
    /// A commit. Its snapshot stays pinned until its deltas are applied.
    Commit(Commit, Snapshot),
    /// A write that is decided here.
    Update(Update),
}

/// A record in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    pub(crate) time: Time,
    pub(crate) writer: Writer,
    pub(crate) size_bytes: u64,
}

pub(crate) struct Sequencer {
    pub(crate) inner: Arc<Inner>,
    hybrid: HybridClock,
    writer: Writer,
    previous: Time,
    fence: Fence,
    read_only: Option<String>,
    space: Space,
    pub(crate) logged: VecDeque<Logged>,
    pub(crate) checkpoints: Checkpoints,
    evict_next: usize,
}

/// An estimate of the free space, so that most groups ask no question.
#[derive(Default)]
struct Space {
    free_bytes: u64,
    asked_us: Option<u64>,
}

impl Sequencer {
    pub(crate) fn new(inner: Arc<Inner>, recovered: Recovered, fence: Fence) -> Sequencer {
        let log_bytes = recovered
            .logged
            .iter()
            .map(|record| record.size_bytes)
            .sum();
        inner.counters.log_bytes.store(log_bytes, Ordering::Relaxed);
        let now_us = inner.clock.now_micros();
        Sequencer {
            inner,
            hybrid: HybridClock::new(recovered.floor),
            writer: recovered.writer,
            previous: recovered.previous,
            fence,
            read_only: None,
            space: Space::default(),
            checkpoints: Checkpoints::new(&recovered, log_bytes, now_us),
            logged: recovered.logged,
            evict_next: 0,
        }
    }

    /// Runs until the store closes and everything queued is answered.
    pub(crate) fn run(mut self) {
        let _closer = Closer(Arc::clone(&self.inner));
        let mut batch = Vec::new();
        loop {
            let closing = self.gather(&mut batch);
            let idle = batch.is_empty();
            if idle {
                self.let_time_pass();
            } else {
                self.groups(&mut batch);
            }
            self.upkeep(idle);
            if closing && idle {
                break;
            }
        }
        if self.read_only.is_none()
            && let Err(error) = self.inner.engine.sync()
        {
            tracing::warn!(%error, "the last commits may not be durable");
        }
        self.checkpoints.refuse(&Error::Closed);
    }

    /// Takes what is queued into `batch`, waiting for something if there is no work left.
    /// Tells whether the store is closing.
    fn gather(&mut self, batch: &mut Vec<Queued>) -> bool {
        let busy = self.checkpoint_busy();
        let mut queue = self.inner.queue.lock();
        if queue.commits.is_empty() && queue.checkpoints.is_empty() && !queue.closing && !busy {
            queue.idle = true;
            self.inner.wake.wait_for(&mut queue, TICK);
            queue.idle = false;
        }
        std::mem::swap(&mut queue.commits, batch);
        self.checkpoints.ask(&mut queue.checkpoints);
        queue.closing
    }

    /// Moves snapshots on with the clock while nobody commits: whether a key has expired is
    /// judged by its reader's snapshot. Commits are drawn here alone and none is on its way, so
    /// everything at or below the new time is applied.
    fn let_time_pass(&mut self) {
        let now_us = self.inner.clock.now_micros();
        if Time::from_micros(now_us) > self.hybrid.last() {
            self.inner.pins.advance(self.hybrid.now(now_us));
        }
    }

    fn groups(&mut self, batch: &mut Vec<Queued>) {
        let now_us = self.inner.clock.now_micros();
        let low_water = self.inner.pins.low_water(now_us);
        let mut group = Group::default();
        for Queued { ask, done } in batch.drain(..) {
            match ask {
                Ask::Commit(commit, held) => {
                    self.take(commit, Some(held), done, now_us, &mut group);
                }
                Ask::Update(update) => self.decide(update, done, now_us, &mut group),
            }
            if group.entries.len() >= GROUP_COMMITS || group.bytes >= GROUP_BYTES {
                self.write(std::mem::take(&mut group), now_us, low_water);
            }
        }
        if !group.is_empty() {
            self.write(group, now_us, low_water);
        }
    }

    /// Takes a commit into the group, or says why not.
    fn take(
        &mut self,
        commit: Commit,
        held: Option<Snapshot>,
        done: Done,
        now_us: u64,
        group: &mut Group,
    ) {
        match self.admit(commit, now_us, group) {
            Ok((time, commit)) => group.push(Entry {
                time,
                commit,
                done,
                _held: held,
            }),
            Err((error, commit)) => {
                drop(commit);
                answer(done, Err(error));
            }
        }
    }

    /// Decides a write by what its key holds after everything before it.
    fn decide(&mut self, update: Update, done: Done, now_us: u64, group: &mut Group) {
        let Update {
            key,
            durability,
            decide,
        } = update;
        let mut commit = Commit {
            request: 0,
            // It sees everything before it.
            snapshot: self.hybrid.last(),
            deltas: Vec::new(),
            durability,
            messages: Vec::new(),
            consumes: None,
        };
        let here = self
            .acceptable(&commit, group)
            .and_then(|()| self.bring(&key));
        if let Err(error) = here {
            return answer(done, Err(error));
        }
        let before = self.inner.tables.newest(&key);
        let newest = group.newest(&key, before);
        let mut sequence = 0;
        let mut dots = || {
            let dot = Dot {
                time: PROVISIONAL,
                writer: self.writer,
                sequence,
            };
            sequence += 1;
            dot
        };
        let at = Time::from_micros(now_us).max(self.hybrid.last());
        let decided = catch_unwind(AssertUnwindSafe(|| decide(newest, at, &mut dots)));
        match decided {
            Ok(Some(delta)) if !delta.is_bottom() => {
                commit.deltas.push((key, delta));
                self.take(commit, None, done, now_us, group);
            }
            Ok(_) => {
                group.durable |= durability == Durability::Durable && !group.entries.is_empty();
                group.lookers.push(done);
            }
            Err(_) => answer(
                done,
                Err(Error::Io {
                    operation: "deciding an update",
                    directory: self.inner.options.directory.clone(),
                    cause: "the decision panicked; please report this".to_owned(),
                }),
            ),
        }
    }

    /// Draws a commit's time, stamps its dots, brings its keys to memory and encodes it.
    #[expect(
        clippy::result_large_err,
        reason = "the commit is handed back, not copied"
    )]
    fn admit(
        &mut self,
        mut commit: Commit,
        now_us: u64,
        group: &mut Group,
    ) -> Result<(Time, Commit), (Error, Commit)> {
        if let Err(error) = self.acceptable(&commit, group) {
            return Err((error, commit));
        }
        let time = self.hybrid.now(now_us);
        let writer = self.writer;
        let stamp = |dot: Dot| {
            if dot.time == PROVISIONAL {
                Dot {
                    time,
                    writer,
                    sequence: dot.sequence,
                }
            } else {
                dot
            }
        };
        for (_, cell) in &mut commit.deltas {
            cell.restamp(&stamp);
        }
        let header = Header {
            time,
            writer,
            previous: self.previous,
        };
        let encoded = record::encode(header, &commit);
        if encoded.len() > record::LIMIT_BYTES {
            let error = Error::TooLarge {
                size_bytes: encoded.len(),
                limit_bytes: record::LIMIT_BYTES,
            };
            return Err((error, commit));
        }
        self.previous = time;
        group.bytes += encoded.len();
        group.records.push((time, writer, encoded));
        group.consumed.extend(commit.consumes);
        group.durable |= commit.durability == Durability::Durable;
        Ok((time, commit))
    }

    fn acceptable(&self, commit: &Commit, group: &Group) -> Result<(), Error> {
        let inner = &*self.inner;
        if let Some(cause) = &self.read_only {
            let directory = inner.options.directory.clone();
            return Err(Error::ReadOnly {
                directory,
                cause: cause.clone(),
            });
        }
        if let Some(message) = commit.consumes
            && (group.consumed.contains(&message) || !inner.pending.lock().contains_key(&message))
        {
            return Err(Error::Consumed { message });
        }
        for (key, _) in &commit.deltas {
            self.bring(key)?;
        }
        Ok(())
    }

    /// Brings a key to memory.
    fn bring(&self, key: &Key) -> Result<(), Error> {
        let inner = &*self.inner;
        if !inner.tables.has(key) {
            inner.tables.admit(key, inner.engine.load(key)?);
        }
        Ok(())
    }

    /// Writes a group as one batch, then makes it visible and answers.
    fn write(&mut self, mut group: Group, now_us: u64, low_water: Time) {
        if group.entries.is_empty() {
            self.publish(group, low_water);
            return;
        }
        let durability = if group.durable {
            Durability::Durable
        } else {
            Durability::Memory
        };
        if let Err(error) = self.space(group.bytes, now_us) {
            // Nothing was written: the chain of records goes on where it was.
            self.previous = self
                .logged
                .back()
                .map_or(self.checkpoints.done(), |last| last.time);
            refuse(group, &error);
            return;
        }
        let records = std::mem::take(&mut group.records);
        let sizes: Vec<u64> = records
            .iter()
            .map(|(_, _, record)| record.len() as u64)
            .collect();
        if let Err(error) = self.inner.engine.append(records.into_iter(), durability) {
            let first = group.entries.first().map_or(Time::MAX, |entry| entry.time);
            let error = self.void(first, error);
            refuse(group, &error);
            return;
        }
        self.count(&group, &sizes);
        self.publish(group, low_water);
    }

    fn count(&mut self, group: &Group, sizes: &[u64]) {
        let counters = &self.inner.counters;
        let size = group.entries.len();
        counters.commits.fetch_add(size as u64, Ordering::Relaxed);
        counters.flushes.fetch_add(1, Ordering::Relaxed);
        counters
            .syncs
            .fetch_add(u64::from(group.durable), Ordering::Relaxed);
        counters.commits_per_flush[Stats::bucket(size)].fetch_add(1, Ordering::Relaxed);
        counters
            .log_bytes
            .fetch_add(group.bytes as u64, Ordering::Relaxed);
        self.checkpoints.grown(group.bytes as u64);
        for (entry, size_bytes) in group.entries.iter().zip(sizes) {
            let size_bytes = *size_bytes;
            self.logged.push_back(Logged {
                time: entry.time,
                writer: self.writer,
                size_bytes,
            });
        }
    }

    fn publish(&mut self, group: Group, low_water: Time) {
        let inner = &*self.inner;
        let mut answers = Vec::with_capacity(group.entries.len());
        let mut last = inner.pins.stable();
        for Entry {
            time,
            commit,
            done,
            _held,
        } in group.entries
        {
            for (key, delta) in commit.deltas {
                inner
                    .tables
                    .apply(key, delta, time, commit.snapshot, low_water);
            }
            let messages: Vec<MessageId> = (0..)
                .map(|index| (time, index))
                .take(commit.messages.len())
                .collect();
            if commit.consumes.is_some() || !messages.is_empty() {
                let mut pending = inner.pending.lock();
                pending.extend(messages.iter().copied().zip(commit.messages));
                if let Some(message) = commit.consumes {
                    pending.remove(&message);
                    self.checkpoints.consumed(message);
                }
            }
            last = time;
            answers.push((done, Committed { time, messages }));
        }
        // Only now: no snapshot may see a part of the group's commits.
        inner.pins.advance(last);
        for (done, committed) in answers {
            answer(done, Ok(committed));
        }
        for done in group.lookers {
            answer(
                done,
                Ok(Committed {
                    time: last,
                    messages: Vec::new(),
                }),
            );
        }
    }

    /// Voids the records from `first` on after their write failed with `error`, and stops
    /// writing: what the engine's files hold is not known any more until they are reopened.
    fn void(&mut self, first: Time, error: Error) -> Error {
        self.stop_writing(&error);
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

    pub(crate) fn stop_writing(&mut self, error: &Error) {
        tracing::error!(%error, "the store is read-only from now on");
        self.inner.counters.read_only.store(true, Ordering::Relaxed);
        self.read_only.get_or_insert_with(|| error.to_string());
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.is_some()
    }

    /// Whether `bytes` may be written: they reach the disk twice, in the journal and in a table.
    fn space(&mut self, bytes: usize, now_us: u64) -> Result<(), Error> {
        let options = &self.inner.options;
        let need = 2 * bytes as u64;
        let margin = options.reserve_bytes.saturating_mul(2).saturating_add(need);
        let stale = self
            .space
            .asked_us
            .is_none_or(|asked| now_us.abs_diff(asked) > SPACE_US);
        if stale || self.space.free_bytes < margin {
            let free = self.inner.engine.disk().free_bytes(&options.directory);
            self.space.free_bytes = free.map_err(|e| Error::Io {
                operation: "asking for free space",
                directory: options.directory.clone(),
                cause: e.to_string(),
            })?;
            self.space.asked_us = Some(now_us);
        }
        if self.space.free_bytes < options.reserve_bytes.saturating_add(need) {
            return Err(Error::Full {
                directory: options.directory.clone(),
                free_bytes: self.space.free_bytes,
                reserve_bytes: options.reserve_bytes,
            });
        }
        self.space.free_bytes -= need;
        Ok(())
    }

    /// What is done between groups: a step of a checkpoint, and eviction.
    fn upkeep(&mut self, idle: bool) {
        let now_us = self.inner.clock.now_micros();
        self.checkpoint_step(now_us);
        let budget = self.inner.options.memory_bytes;
        let shards = if idle { 64 } else { 2 };
        for _ in 0..shards {
            if self.inner.tables.bytes() <= budget {
                break;
            }
            self.inner.tables.evict(self.evict_next, budget);
            self.evict_next = self.evict_next.wrapping_add(1);
        }
    }
}

/// Closes the queue when the thread ends, also by a panic, so that nobody waits for ever.
struct Closer(Arc<Inner>);

impl Drop for Closer {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closing = true;
        let commits = std::mem::take(&mut queue.commits);
        queue.checkpoints.clear();
        drop(queue);
        for Queued { done, .. } in commits {
            answer(done, Err(Error::Closed));
        }
    }
}

fn refuse(group: Group, error: &Error) {
    let waiting = group.entries.into_iter().map(|entry| entry.done);
    for done in waiting.chain(group.lookers) {
        answer(done, Err(error.clone()));
    }
}

/// Calls `done`. A panic in it is its owner's fault and must not end the sequencer.
fn answer(done: Done, outcome: Result<Committed, Error>) {
    if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
        tracing::error!("the callback of a commit panicked");
    }
}
