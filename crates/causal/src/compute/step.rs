//! One run of one step: read what it declares, run its code, reply.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Time};

use crate::cache::Fill;
use crate::compute::Compute;
use crate::message::{Body, Seen, Step, StepOutcome};
use crate::{Address, Buffer, PartitionId, Refusal, Ticket};

/// A run under way.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The attempt, the group, the step.
    run: (Ticket, u32, u32),
    reply_to: Address,
    at: Time,
    before: Arc<Buffer>,
    step: Step,
    values: BTreeMap<Key, Option<Arc<Cell>>>,
    until_us: u64,
}

/// A key that a run has asked an owner for.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    run: u64,
    key: Key,
    retry_at_us: u64,
}

impl Compute {
    pub(super) fn is_running(&self, run: (Ticket, u32, u32)) -> bool {
        self.runs.values().any(|held| held.run == run)
    }

    pub(super) fn start_run(
        &mut self,
        reply_to: Address,
        run: (Ticket, u32, u32),
        at: Time,
        before: Arc<Buffer>,
        step: Step,
    ) {
        let number = self.number();
        let keys = step.keys.clone();
        let held = Run {
            run,
            reply_to,
            at,
            before,
            step,
            values: BTreeMap::new(),
            until_us: self.now.monotonic_us + self.config.lease_us,
        };
        self.runs.insert(number, held);
        for key in keys {
            let partition = PartitionId::of(&key, self.config.partitions);
            if let Some(cell) = self.cache.read(partition, &key, at) {
                self.got(number, key, cell);
            } else {
                let reading = Reading {
                    run: number,
                    key,
                    retry_at_us: 0,
                };
                let reading_number = self.number();
                self.readings.insert(reading_number, reading);
            }
        }
        self.retry_readings();
        self.try_code(number);
    }

    pub(super) fn retry_readings(&mut self) {
        let now_us = self.now.monotonic_us;
        self.runs.retain(|_, run| now_us < run.until_us);
        let runs = &self.runs;
        self.readings
            .retain(|_, reading| runs.contains_key(&reading.run));
        let mut due = Vec::new();
        for (number, reading) in &mut self.readings {
            if now_us >= reading.retry_at_us
                && let Some(run) = self.runs.get(&reading.run)
            {
                reading.retry_at_us = now_us + self.config.retry_us;
                due.push((*number, reading.key.clone(), run.at));
            }
        }
        for (number, key, at) in due {
            let partition = PartitionId::of(&key, self.config.partitions);
            // Every other reading subscribes, so that some keys are cached and some are not.
            let subscribe = (number % 2 == 0).then(|| self.cache.stream(partition));
            let body = Body::Read {
                ticket: self.ticket(number),
                partition,
                key,
                at,
                subscribe,
            };
            self.send_to_owner(partition, body);
        }
    }

    pub(super) fn value(&mut self, number: u64, cell: Option<Arc<Cell>>, entry: Option<Fill>) {
        let Some(reading) = self.readings.remove(&number) else {
            return;
        };
        if let Some(fill) = entry {
            self.cache.fill(reading.key.clone(), fill);
        }
        self.got(reading.run, reading.key, cell);
        self.try_code(reading.run);
    }

    fn got(&mut self, number: u64, key: Key, cell: Option<Arc<Cell>>) {
        if let Some(run) = self.runs.get_mut(&number) {
            let cell = run.before.over(cell, &key);
            run.values.insert(key, cell);
        }
    }

    pub(super) fn reading_refused(&mut self, number: u64, refusal: Refusal) {
        if refusal == Refusal::SnapshotExpired
            && let Some(reading) = self.readings.remove(&number)
            && let Some(run) = self.runs.remove(&reading.run)
        {
            self.reply(&run, StepOutcome::Failed(refusal));
        }
    }

    /// Runs the code once every key is there.
    fn try_code(&mut self, number: u64) {
        let is_whole = self
            .runs
            .get(&number)
            .is_some_and(|run| run.values.len() >= distinct(&run.step.keys));
        if !is_whole {
            return;
        }
        if let Some(run) = self.runs.remove(&number) {
            let outcome = run_code(&run);
            self.reply(&run, outcome);
        }
    }

    fn reply(&mut self, run: &Run, outcome: StepOutcome) {
        if run.reply_to == self.address {
            self.step_reply((run.run.0.number, run.run.1, run.run.2), outcome);
        } else {
            let body = Body::StepReply {
                run: run.run,
                outcome,
            };
            self.send(run.reply_to, body);
        }
    }
}

fn distinct(keys: &[Key]) -> usize {
    keys.iter().collect::<std::collections::BTreeSet<_>>().len()
}

fn run_code(run: &Run) -> StepOutcome {
    let (_, group, index) = run.run;
    let seen: Vec<Seen> = run
        .step
        .keys
        .iter()
        .map(|key| Seen {
            step: (group, index),
            key: key.clone(),
            cell: run.values.get(key).cloned().flatten(),
        })
        .collect();
    let mut wrote = Buffer::new(index + 1);
    for (key, op) in run.step.code.run(&seen, run.at) {
        let value = run.values.get(&key).cloned().flatten();
        let value = wrote.over(value, &key);
        if wrote.write(&key, value.as_deref(), &op, run.at).is_err() {
            return StepOutcome::Failed(Refusal::WrongKind);
        }
    }
    StepOutcome::Done {
        seen,
        wrote: Arc::new(wrote),
    }
}
