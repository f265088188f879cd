//! The workers of a pool, by what they are doing. Each is in exactly one place.

use std::collections::{BTreeMap, BTreeSet};

use super::WorkerId;

#[derive(Debug, Default)]
pub(super) struct Workers {
    /// Released last, at the end.
    idle: Vec<Idle>,
    busy: BTreeMap<WorkerId, Busy>,
    /// How many of the busy ones are blocked.
    blocked: usize,
    /// Told to stop.
    stopping: BTreeSet<WorkerId>,
    /// Asked for; they have no name yet.
    pub(super) starting: usize,
    /// How many starts have failed in the pool's life.
    pub(super) failures: u64,
}

#[derive(Debug)]
struct Idle {
    worker: WorkerId,
    since_us: u64,
    history: History,
}

#[derive(Debug)]
struct Busy {
    is_blocked: bool,
    history: History,
}

#[derive(Clone, Copy, Debug)]
struct History {
    /// How many starts had failed, in the pool's life, when it arrived.
    failures_before: u64,
    /// Whether it has done some work yet.
    is_proven: bool,
}

/// Whether an arriving worker was waited for.
pub(super) enum Arrival {
    Expected,
    /// It counts as stopping from now on.
    Unasked,
    /// It is there already.
    Known,
}

impl Workers {
    pub(super) fn active(&self) -> usize {
        self.busy.len() - self.blocked
    }

    pub(super) fn blocked(&self) -> usize {
        self.blocked
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn stopping(&self) -> usize {
        self.stopping.len()
    }

    /// Those that are there and stay.
    pub(super) fn present(&self) -> usize {
        self.idle.len() + self.busy.len()
    }

    /// Since when the one that is idle longest is, in microseconds.
    pub(super) fn idle_since_us(&self) -> Option<u64> {
        self.idle.first().map(|idle| idle.since_us)
    }

    pub(super) fn arrive(&mut self, worker: WorkerId, now_us: u64) -> Arrival {
        let is_idle = self.idle.iter().any(|idle| idle.worker == worker);
        if is_idle || self.busy.contains_key(&worker) || self.stopping.contains(&worker) {
            return Arrival::Known;
        }
        if self.starting == 0 {
            self.stopping.insert(worker);
            return Arrival::Unasked;
        }
        self.starting -= 1;
        let history = History {
            failures_before: self.failures,
            is_proven: false,
        };
        self.idle.push(Idle {
            worker,
            since_us: now_us,
            history,
        });
        Arrival::Expected
    }

    /// Makes the worker that was idle last busy.
    pub(super) fn take_idle(&mut self) -> Option<WorkerId> {
        let Idle {
            worker, history, ..
        } = self.idle.pop()?;
        self.busy.insert(
            worker,
            Busy {
                is_blocked: false,
                history,
            },
        );
        Some(worker)
    }

    /// Makes a busy worker idle. The answer is whether its work shows that starts work
    /// now: none has failed since it arrived. `None` if it was not busy.
    pub(super) fn release(&mut self, worker: WorkerId, now_us: u64) -> Option<bool> {
        let mut history = self.end_work(worker)?;
        history.is_proven = true;
        self.idle.push(Idle {
            worker,
            since_us: now_us,
            history,
        });
        Some(history.failures_before == self.failures)
    }

    /// Makes a busy worker a stopping one; the answer is as for `release`.
    pub(super) fn retire(&mut self, worker: WorkerId) -> Option<bool> {
        let history = self.end_work(worker)?;
        self.stopping.insert(worker);
        Some(history.failures_before == self.failures)
    }

    pub(super) fn block(&mut self, worker: WorkerId, is_blocked: bool) {
        let Some(busy) = self.busy.get_mut(&worker) else {
            return;
        };
        match (
            std::mem::replace(&mut busy.is_blocked, is_blocked),
            is_blocked,
        ) {
            (false, true) => self.blocked += 1,
            (true, false) => self.blocked -= 1,
            _ => {}
        }
    }

    pub(super) fn stop_longest_idle(&mut self) -> Option<WorkerId> {
        if self.idle.is_empty() {
            return None;
        }
        let Idle { worker, .. } = self.idle.remove(0);
        self.stopping.insert(worker);
        Some(worker)
    }

    /// Forgets a worker; the answer is whether it was idle and never did any work.
    pub(super) fn forget(&mut self, worker: WorkerId) -> bool {
        self.end_work(worker);
        self.stopping.remove(&worker);
        let place = self.idle.iter().position(|idle| idle.worker == worker);
        place.is_some_and(|place| !self.idle.remove(place).history.is_proven)
    }

    /// Takes a busy worker out; `None` if it was not busy.
    fn end_work(&mut self, worker: WorkerId) -> Option<History> {
        let busy = self.busy.remove(&worker)?;
        self.blocked -= usize::from(busy.is_blocked);
        Some(busy.history)
    }
}
