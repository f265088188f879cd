//! Checkpoints: folded values to the durable tier, then the log behind them is trimmed.
//!
//! A checkpoint goes in small steps between groups of commits. Each value is stored with the
//! time that it is complete through, so a crash in the middle costs nothing: replay skips, key
//! by key, what is in the value. The mark that ends a checkpoint is written last, in one batch
//! with what must not happen before it: forgetting keys, and the messages still pending.
//!
//! Nothing here is synced. The engine keeps the order of writes, and the log is trimmed after
//! the mark, so after a crash either both are there or the log still is.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use tidemill_lattice::{Cell, Key, Time};

use crate::engine::{Change, encode_stored};
use crate::owner::Fold;
use crate::recovery::Recovered;
use crate::sequencer::Sequencer;
use crate::shard::Shard;
use crate::table::Place;
use crate::{Error, MessageId};

/// One step: so many keys, or so many bytes, or so many groups of the log.
const STEP_KEYS: usize = 256;
const STEP_BYTES: usize = 256 * 1024;
/// Bytes of the log since the engine's buffers were last given back, which they may hold at rest.
const REST_BYTES: u64 = 8 * 1024 * 1024;
const STEP_GROUPS: usize = 1024;
/// Stored keys that each checkpoint looks at in passing, for content that has expired.
const SWEEP_KEYS: usize = 1024;

const OPERATION: &str = "writing a checkpoint";

type Asker = SyncSender<Result<Time, Error>>;

/// Where checkpoints stand.
pub(crate) struct Checkpoints {
    done: Time,
    /// At or above every value that is stored.
    stored_through: Time,
    run: Option<Run>,
    askers: Vec<Asker>,
    /// Who is answered once the log is trimmed.
    trimming: Vec<Asker>,
    began_us: u64,
    /// Where the sweep for expired content goes on.
    swept: Option<Key>,
    /// Log bytes since the last one began.
    grown_bytes: u64,
    /// Log bytes since the engine's buffers were last given back.
    buffered_bytes: u64,
    /// They were, and the engine has not freed them yet.
    is_giving_back: bool,
    /// Messages that the outbox holds, and those of them consumed since.
    posted: BTreeSet<MessageId>,
    consumed: Vec<MessageId>,
}

/// A checkpoint in progress.
struct Run {
    target: Time,
    /// What is to be stored, by shard.
    keys: Vec<Vec<Place>>,
    forgotten: Vec<Key>,
    askers: Vec<Asker>,
}

impl Checkpoints {
    pub(crate) fn new(recovered: &Recovered, log_bytes: u64, now_us: u64) -> Checkpoints {
        Checkpoints {
            done: recovered.checkpoint,
            stored_through: recovered.stored_through,
            run: None,
            askers: Vec::new(),
            trimming: Vec::new(),
            began_us: now_us,
            swept: None,
            grown_bytes: log_bytes,
            buffered_bytes: log_bytes,
            is_giving_back: false,
            posted: recovered.posted.clone(),
            consumed: recovered.consumed.clone(),
        }
    }

    pub(crate) fn ask(&mut self, askers: &mut Vec<Asker>) {
        self.askers.append(askers);
    }

    pub(crate) fn is_due(&self, log_bytes: u64) -> bool {
        self.grown_bytes >= log_bytes
    }

    pub(crate) fn grown(&mut self, bytes: u64) {
        self.grown_bytes += bytes;
        self.buffered_bytes += bytes;
    }

    pub(crate) fn consumed(&mut self, message: MessageId) {
        if self.posted.contains(&message) {
            self.consumed.push(message);
        }
    }

    /// Answers everyone who waits for a checkpoint that will not come.
    pub(crate) fn refuse(&mut self, error: &Error) {
        let waiting = self.run.take().map(|run| run.askers).unwrap_or_default();
        reply(waiting, &Err(error.clone()));
        reply(std::mem::take(&mut self.trimming), &Err(error.clone()));
        reply(std::mem::take(&mut self.askers), &Err(error.clone()));
    }
}

fn reply(askers: Vec<Asker>, outcome: &Result<Time, Error>) {
    for asker in askers {
        // Whoever does not listen any more does not need it.
        let _ = asker.try_send(outcome.clone());
    }
}

impl Sequencer {
    /// Whether a checkpoint has a step to do, so that the thread must not sleep.
    pub(crate) fn checkpoint_busy(&self) -> bool {
        if self.inner.failure().is_some() {
            return false;
        }
        let trim = self
            .logged
            .front()
            .is_some_and(|first| first.high <= self.checkpoints.done);
        let Checkpoints {
            run,
            askers,
            trimming,
            ..
        } = &self.checkpoints;
        run.is_some() || trim || !askers.is_empty() || !trimming.is_empty()
    }

    /// Does one step, or begins a checkpoint that is due.
    pub(crate) fn checkpoint_step(&mut self, now_us: u64) {
        if let Some(error) = self.inner.failure() {
            self.checkpoints.refuse(&error);
            return;
        }
        let trim = self
            .logged
            .front()
            .is_some_and(|first| first.high <= self.checkpoints.done);
        let outcome = match self.checkpoints.run.take() {
            Some(run) => match run.keys.iter().position(|keys| !keys.is_empty()) {
                Some(shard) => self.store_some(run, shard),
                None => self.finish(run),
            },
            None if trim => self.trim_some(),
            None => {
                let done = Ok(self.checkpoints.done);
                reply(std::mem::take(&mut self.checkpoints.trimming), &done);
                self.free_buffers().and_then(|()| self.begin_if_due(now_us))
            }
        };
        if let Err(error) = outcome {
            self.inner.stop_writing(&error);
            self.checkpoints.refuse(&error);
        }
    }

    fn begin_if_due(&mut self, now_us: u64) -> Result<(), Error> {
        let options = &self.inner.options;
        let checkpoints = &mut self.checkpoints;
        let asked = !checkpoints.askers.is_empty();
        let late = now_us.saturating_sub(checkpoints.began_us) >= options.checkpoint_us;
        let large = checkpoints.grown_bytes >= options.checkpoint_bytes;
        if !asked && !large && (!late || self.logged.is_empty()) {
            return Ok(());
        }
        checkpoints.began_us = now_us;
        if let Err(full) = self.has_room() {
            let checkpoints = &mut self.checkpoints;
            checkpoints.grown_bytes = 0;
            reply(std::mem::take(&mut checkpoints.askers), &Err(full));
            return Ok(());
        }
        let checkpoints = &mut self.checkpoints;
        self.inner.advance();
        let target = self.inner.pins.low_water(now_us);
        if target <= checkpoints.done {
            // An old snapshot holds it, or there is nothing new.
            reply(
                std::mem::take(&mut checkpoints.askers),
                &Ok(checkpoints.done),
            );
            return Ok(());
        }
        checkpoints.grown_bytes = 0;
        let askers = std::mem::take(&mut checkpoints.askers);
        let shards = 0..self.inner.views.len();
        let taken = shards.map(|shard| self.inner.call(shard, |shard| shard.owner.take_dirty()));
        let keys = taken.collect::<Result<_, _>>()?;
        checkpoints.run = Some(Run {
            target,
            keys,
            forgotten: Vec::new(),
            askers,
        });
        self.sweep(target)
    }

    /// Trimming wins space in the end, but a checkpoint takes some first: half the reserve is for
    /// it. A failed write of the engine would cost more than a long log.
    fn has_room(&self) -> Result<(), Error> {
        let options = &self.inner.options;
        let disk = self.inner.engine.disk();
        let free_bytes = disk.free_bytes(&options.directory).unwrap_or(0);
        let reserve_bytes = options.reserve_bytes / 2;
        if free_bytes >= reserve_bytes {
            return Ok(());
        }
        Err(Error::Full {
            directory: options.directory.clone(),
            free_bytes,
            reserve_bytes,
        })
    }

    /// Adds stored keys whose content has expired to the run, some at a time, round and round:
    /// nobody may ever touch them again.
    fn sweep(&mut self, target: Time) -> Result<(), Error> {
        let inner = &self.inner;
        let checkpoints = &mut self.checkpoints;
        let values = inner
            .engine
            .values(checkpoints.swept.as_ref(), SWEEP_KEYS)?;
        let complete = values.len() < SWEEP_KEYS;
        checkpoints.swept = values
            .last()
            .filter(|_| !complete)
            .map(|(key, _)| key.clone());
        for (key, stored) in values {
            if !stored.cell.is_empty_at(target) {
                continue;
            }
            let index = inner.shard_of(&key);
            // A checkpoint is the only one who changes what is stored, so it is as read.
            let queued = inner.call(index, move |shard| {
                if shard.owner.place(&key).is_none() {
                    shard.owner.admit(key.clone(), Some(stored));
                }
                shard.owner.queue_expired(&key, target)
            })?;
            if let (Some(place), Some(run)) = (queued, &mut checkpoints.run) {
                run.keys[index].push(place);
            }
        }
        Ok(())
    }

    /// Stores some of a shard's keys, folded through the run's target.
    fn store_some(&mut self, mut run: Run, shard: usize) -> Result<(), Error> {
        let keys = &mut run.keys[shard];
        let some = keys.split_off(keys.len().saturating_sub(STEP_KEYS));
        let target = run.target;
        let (folded, rest) = self
            .inner
            .call(shard, move |shard| fold_some(shard, some, target))?;
        keys.extend(rest);
        let (mut changes, mut seen) = (Vec::new(), Vec::new());
        let mut stored_through = self.checkpoints.stored_through.max(target);
        for (place, fold) in folded {
            match fold {
                Fold::Clean => seen.push((place, None)),
                Fold::Store(key, value, through) => {
                    changes.push(Change::Put(key, value));
                    stored_through = stored_through.max(through);
                    seen.push((place, Some(through)));
                }
                Fold::Forget { key, stored } => {
                    // Emptied now, removed with the mark: were it gone before, a replay would
                    // rebuild it from the later deltas alone.
                    if stored {
                        let value = encode_stored(target, &Cell::empty());
                        changes.push(Change::Put(key.clone(), value));
                    }
                    run.forgotten.push(key);
                }
            }
        }
        if stored_through > self.checkpoints.stored_through {
            // Before the mark, which a crash may keep away, and with the values themselves.
            changes.push(Change::StoredThrough(stored_through));
            self.checkpoints.stored_through = stored_through;
        }
        // What was folded is seen before the log has it; the durable tier has it only after.
        self.catch_up();
        let outcome = self.inner.engine.change(OPERATION, changes);
        self.checkpoints.run = Some(run);
        outcome?;
        self.inner.call(shard, move |shard| {
            for (place, through) in seen {
                shard.owner.stored(place, through);
            }
        })
    }

    /// Ends a run with its mark.
    fn finish(&mut self, mut run: Run) -> Result<(), Error> {
        let checkpoints = &mut self.checkpoints;
        let mut changes: Vec<Change> = run.forgotten.iter().cloned().map(Change::Forget).collect();
        let mut posts = Vec::new();
        for (id, body) in self.inner.pending.lock().range(..=(run.target, u32::MAX)) {
            if !checkpoints.posted.contains(id) {
                posts.push(*id);
                changes.push(Change::Post(*id, body.clone()));
            }
        }
        changes.extend(checkpoints.consumed.iter().copied().map(Change::Unpost));
        let covered = self.logged.iter().take_while(|g| g.high <= run.target);
        let log_start = self.logged.get(covered.count());
        let log_start = log_start.map_or(self.next_number, |group| group.number);
        changes.push(Change::Mark(run.target, log_start));
        let outcome = self.inner.engine.change(OPERATION, changes);
        if let Err(error) = outcome {
            checkpoints.run = Some(run);
            return Err(error);
        }
        for id in std::mem::take(&mut checkpoints.consumed) {
            checkpoints.posted.remove(&id);
        }
        checkpoints.posted.extend(posts);
        checkpoints.done = run.target;
        for key in run.forgotten {
            let index = self.inner.shard_of(&key);
            self.inner
                .call(index, move |shard| shard.owner.forget(&key))?;
        }
        let counters = &self.inner.counters;
        counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        counters
            .checkpoint
            .store(run.target.as_u64(), Ordering::Relaxed);
        self.checkpoints.trimming.append(&mut run.askers);
        Ok(())
    }

    /// Removes some of the groups that the last checkpoint covers from the log.
    fn trim_some(&mut self) -> Result<(), Error> {
        let done = self.checkpoints.done;
        let covered = self.logged.iter().take_while(|group| group.high <= done);
        let covered = covered.take(STEP_GROUPS).count();
        let groups: Vec<_> = self.logged.drain(..covered).collect();
        let bytes: u64 = groups.iter().map(|group| group.size_bytes).sum();
        self.inner
            .counters
            .log_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
        let engine = &self.inner.engine;
        engine.trim(groups.into_iter().map(|group| group.number))?;
        if self.logged.is_empty() && self.checkpoints.buffered_bytes > REST_BYTES {
            // What is trimmed stays in the engine's buffer until that is full, and what is stored
            // in another. A store that rests would hold them for good.
            self.checkpoints.buffered_bytes = 0;
            self.checkpoints.is_giving_back = true;
            engine.give_back_buffers()?;
        }
        Ok(())
    }

    fn free_buffers(&mut self) -> Result<(), Error> {
        if !self.checkpoints.is_giving_back || !self.inner.engine.has_written_buffers() {
            return Ok(());
        }
        self.checkpoints.is_giving_back = false;
        if self.has_room().is_err() {
            // It is a write as others are, and nobody needs it.
            return Ok(());
        }
        self.inner.engine.free_buffers()
    }
}

/// What a step learnt of its keys, and those it left for the next one.
type Folded = (Vec<(Place, Fold)>, Vec<Place>);

/// Folds keys, on their shard's thread, until there are enough bytes for one step.
fn fold_some(shard: &mut Shard, mut keys: Vec<Place>, target: Time) -> Folded {
    let (mut folded, mut bytes) = (Vec::new(), 0);
    while bytes < STEP_BYTES {
        let Some(place) = keys.pop() else { break };
        let fold = shard.owner.fold(place, target);
        if let Fold::Store(key, value, _) = &fold {
            bytes += key.as_bytes().len() + value.len();
        }
        folded.push((place, fold));
    }
    (folded, keys)
}
