//! The workers of one group of one app version: who gets which, and how many there are.
//!
//! - Requests are served first come, first served; idle workers last in, first out, so
//!   that the ones with warm caches work and the others age and go.
//! - A worker is started while more requests wait than workers are starting, within the
//!   bounds; the minimum is kept always.
//! - A worker that is blocked on a nested call makes room for another, so that calls
//!   that call their own group cannot lock the pool. It comes back to its room when it
//!   is unblocked, which may put the pool above `max_workers` for a while; nobody else
//!   gets a worker until it is below again.
//! - `max_processes` is hard. When it is reached, or starting does not work, and all
//!   processes are blocked, those that wait may be what the others wait for: they are
//!   refused after a time.
//!
//! It must not know what a worker is, or what runs in it.

mod policy;
mod workers;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{PolicyError, Ticket};
pub use policy::PoolPolicy;
use workers::Workers;

/// A worker. Whoever starts it chooses the number, and never uses it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub u64);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolEvent {
    /// Somebody wants a worker.
    Request {
        /// Who.
        ticket: Ticket,
        /// The time, in microseconds.
        now_us: u64,
    },
    /// Who asked went away. Nothing happens if it has a worker already; that is released
    /// or gone, as ever.
    GiveUp {
        /// Who.
        ticket: Ticket,
    },
    /// A worker that was asked for by `Start` is there, and idle.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// The time, in microseconds.
        now_us: u64,
    },
    /// What was asked for by `Start` did not become a worker.
    StartFailed {
        /// The time, in microseconds.
        now_us: u64,
    },
    /// A worker has done what it was assigned for.
    Released {
        /// The worker.
        worker: WorkerId,
        /// The time, in microseconds.
        now_us: u64,
    },
    /// A worker has done what it was assigned for, and is to be replaced.
    Retired {
        /// The worker.
        worker: WorkerId,
        /// The time, in microseconds.
        now_us: u64,
    },
    /// A worker waits for a nested call of its own.
    Blocked {
        /// The worker.
        worker: WorkerId,
    },
    /// It does no more. A worker that waits for several calls at once is blocked once.
    Unblocked {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker's process has ended, whatever the reason. Also the answer to `Stop`.
    Gone {
        /// The worker.
        worker: WorkerId,
        /// The time, in microseconds.
        now_us: u64,
    },
    /// Time has passed; see [`Pool::next_tick_us`]. The first one starts the minimum.
    Tick {
        /// The time, in microseconds.
        now_us: u64,
    },
    /// Let no one in any more, let those inside finish, and stop all workers.
    Drain,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolAction {
    /// This request has this worker.
    Assign {
        /// Who.
        ticket: Ticket,
        /// The worker.
        worker: WorkerId,
    },
    /// Start one more; `Ready` or `StartFailed` is to follow.
    Start,
    /// Stop this worker; `Gone` is to follow.
    Stop {
        /// The worker.
        worker: WorkerId,
    },
    /// This request gets none.
    Refuse {
        /// Who.
        ticket: Ticket,
        /// The reason.
        why: RefuseReason,
    },
}

/// Why a request gets no worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefuseReason {
    /// Too many wait, or every process is blocked and there may be no more.
    Overloaded,
    /// Workers of this group do not start.
    StartFailed,
    /// The pool is being closed.
    Draining,
}

/// What is to be done, in order.
pub type PoolActions = SmallVec<[PoolAction; 4]>;

/// How a pool is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStats {
    /// Requests that wait for a worker.
    pub waiting: usize,
    /// Workers assigned and not blocked.
    pub active: usize,
    /// Workers assigned and blocked on a nested call.
    pub blocked: usize,
    /// Workers with nothing to do.
    pub idle: usize,
    /// Workers asked for and not there yet.
    pub starting: usize,
    /// Workers told to stop and not gone yet.
    pub stopping: usize,
    /// Starts that failed since the last one that gave a worker that did its work.
    pub start_failures: u32,
    /// Whether the pool is being closed.
    pub draining: bool,
}

impl PoolStats {
    /// All processes there are or soon will be.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.active + self.blocked + self.idle + self.starting + self.stopping
    }
}

/// The state of one pool.
#[derive(Debug)]
pub struct Pool {
    policy: PoolPolicy,
    workers: Workers,
    waiting: VecDeque<Ticket>,
    start_failures: u32,
    /// No starts before this time.
    backoff_until_us: Option<u64>,
    /// Since when requests wait, all processes are blocked, and none can be added.
    stalled_since_us: Option<u64>,
    draining: bool,
    now_us: u64,
}

impl Pool {
    /// A pool without workers. Send it a `Tick` to have the minimum started.
    ///
    /// # Errors
    /// [`PolicyError`] if the policy's bounds contradict each other.
    pub fn new(policy: PoolPolicy) -> Result<Self, PolicyError> {
        policy.check()?;
        Ok(Self {
            policy,
            workers: Workers::default(),
            waiting: VecDeque::new(),
            start_failures: 0,
            backoff_until_us: None,
            stalled_since_us: None,
            draining: false,
            now_us: 0,
        })
    }

    /// Takes an event in; the answer is what to do now. Events that do not fit (a worker
    /// that is not known, one released twice) change nothing.
    pub fn handle(&mut self, event: PoolEvent) -> PoolActions {
        let mut actions = PoolActions::new();
        match event {
            PoolEvent::Request { ticket, now_us } => {
                self.pass_time(now_us);
                self.request(ticket, &mut actions);
            }
            PoolEvent::GiveUp { ticket } => self.waiting.retain(|other| *other != ticket),
            PoolEvent::Ready { worker, now_us } => {
                self.pass_time(now_us);
                self.ready(worker, &mut actions);
            }
            PoolEvent::StartFailed { now_us } => {
                self.pass_time(now_us);
                self.start_failed(&mut actions);
            }
            PoolEvent::Released { worker, now_us } => {
                self.pass_time(now_us);
                let is_proof = self.workers.release(worker, self.now_us);
                self.trust_starts(is_proof);
            }
            PoolEvent::Retired { worker, now_us } => {
                self.pass_time(now_us);
                let is_proof = self.workers.retire(worker);
                self.trust_starts(is_proof);
                if is_proof.is_some() {
                    actions.push(PoolAction::Stop { worker });
                }
            }
            PoolEvent::Blocked { worker } => self.workers.block(worker, true),
            PoolEvent::Unblocked { worker } => self.workers.block(worker, false),
            PoolEvent::Gone { worker, now_us } => {
                self.pass_time(now_us);
                if self.workers.forget(worker) {
                    self.count_failure(&mut actions);
                }
            }
            PoolEvent::Tick { now_us } => self.pass_time(now_us),
            PoolEvent::Drain => {
                self.draining = true;
                self.refuse_all(RefuseReason::Draining, &mut actions);
            }
        }
        self.assign(&mut actions);
        self.stop_idle(&mut actions);
        self.start(&mut actions);
        self.watch_for_stall(&mut actions);
        actions
    }

    /// The bounds that the pool keeps.
    #[must_use]
    pub fn policy(&self) -> &PoolPolicy {
        &self.policy
    }

    /// How the pool is doing.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            waiting: self.waiting.len(),
            active: self.workers.active(),
            blocked: self.workers.blocked(),
            idle: self.workers.idle(),
            starting: self.workers.starting,
            stopping: self.workers.stopping(),
            start_failures: self.start_failures,
            draining: self.draining,
        }
    }

    /// When the next `Tick` is due, in microseconds; `None` if only an event can change
    /// anything. Ask again after each event.
    #[must_use]
    pub fn next_tick_us(&self) -> Option<u64> {
        let idle = self
            .workers
            .idle_since_us()
            .filter(|_| self.workers.present() > self.policy.min_workers)
            .map(|since_us| since_us.saturating_add(self.policy.idle_timeout_us));
        let stall = self
            .stalled_since_us
            .map(|since_us| since_us.saturating_add(self.policy.stall_timeout_us));
        let backoff = self.backoff_until_us.filter(|_| self.wants_more());
        [idle, stall, backoff].into_iter().flatten().min()
    }

    /// Whether a drained pool has no process left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.stats().processes() == 0
    }

    fn pass_time(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        if self
            .backoff_until_us
            .is_some_and(|until_us| until_us <= self.now_us)
        {
            self.backoff_until_us = None;
        }
    }

    fn request(&mut self, ticket: Ticket, actions: &mut PoolActions) {
        let why = if self.draining {
            RefuseReason::Draining
        } else if self.is_hopeless() {
            RefuseReason::StartFailed
        } else if self.waiting.len() >= self.policy.max_waiting {
            RefuseReason::Overloaded
        } else {
            self.waiting.push_back(ticket);
            return;
        };
        actions.push(PoolAction::Refuse { ticket, why });
    }

    fn ready(&mut self, worker: WorkerId, actions: &mut PoolActions) {
        if matches!(
            self.workers.arrive(worker, self.now_us),
            workers::Arrival::Unasked
        ) {
            actions.push(PoolAction::Stop { worker });
        }
    }

    fn start_failed(&mut self, actions: &mut PoolActions) {
        if self.workers.starting > 0 {
            self.workers.starting -= 1;
            self.count_failure(actions);
        }
    }

    /// A start did not give a worker, or one that ended before it had anything to do. The
    /// second counts too, or the minimum would be started in a busy loop.
    fn count_failure(&mut self, actions: &mut PoolActions) {
        self.workers.failures += 1;
        self.start_failures = self.start_failures.saturating_add(1);
        if self.start_failures < self.policy.max_start_failures {
            return;
        }
        let backoff_us = self.policy.backoff_us(self.start_failures);
        self.backoff_until_us = Some(self.now_us.saturating_add(backoff_us));
        if self.is_hopeless() {
            self.refuse_all(RefuseReason::StartFailed, actions);
        }
    }

    /// Forgets failed starts once a worker that was started after them has done its work. To
    /// have become ready is not enough: see `count_failure`.
    fn trust_starts(&mut self, is_proof: Option<bool>) {
        if is_proof == Some(true) {
            self.start_failures = 0;
            self.backoff_until_us = None;
        }
    }

    /// Starting does not work, and no worker is there that will be released by itself: a
    /// blocked one may be waiting for the very request that waits here.
    fn is_hopeless(&self) -> bool {
        let can_come = self.workers.active() + self.workers.idle() + self.workers.starting;
        self.backoff_until_us.is_some() && can_come == 0
    }

    fn refuse_all(&mut self, why: RefuseReason, actions: &mut PoolActions) {
        for ticket in self.waiting.drain(..) {
            actions.push(PoolAction::Refuse { ticket, why });
        }
    }

    fn assign(&mut self, actions: &mut PoolActions) {
        while self.workers.active() < self.policy.max_workers && !self.waiting.is_empty() {
            let Some(worker) = self.workers.take_idle() else {
                return;
            };
            if let Some(ticket) = self.waiting.pop_front() {
                actions.push(PoolAction::Assign { ticket, worker });
            }
        }
    }

    fn stop_idle(&mut self, actions: &mut PoolActions) {
        while let Some(since_us) = self.workers.idle_since_us() {
            let is_due = since_us.saturating_add(self.policy.idle_timeout_us) <= self.now_us
                && self.workers.present() > self.policy.min_workers;
            if !(is_due || self.draining) {
                return;
            }
            let Some(worker) = self.workers.stop_longest_idle() else {
                return;
            };
            actions.push(PoolAction::Stop { worker });
        }
    }

    /// Whether a worker should be started, if the bounds and failures allow.
    fn wants_more(&self) -> bool {
        let workers = &self.workers;
        let is_below_min = workers.present() + workers.starting < self.policy.min_workers;
        let is_short = self.waiting.len() > workers.starting
            && workers.active() + workers.idle() + workers.starting < self.policy.max_workers;
        !self.draining && (is_below_min || is_short)
    }

    fn start(&mut self, actions: &mut PoolActions) {
        while self.wants_more()
            && self.backoff_until_us.is_none()
            && self.workers.starting < self.policy.max_starting
            && self.stats().processes() < self.policy.max_processes
        {
            self.workers.starting += 1;
            actions.push(PoolAction::Start);
        }
    }

    fn watch_for_stall(&mut self, actions: &mut PoolActions) {
        let stats = self.stats();
        let is_stalled = stats.waiting > 0 && stats.processes() == stats.blocked;
        if !is_stalled {
            self.stalled_since_us = None;
            return;
        }
        let since_us = *self.stalled_since_us.get_or_insert(self.now_us);
        if since_us.saturating_add(self.policy.stall_timeout_us) <= self.now_us {
            self.stalled_since_us = None;
            let why = match self.backoff_until_us {
                Some(_) => RefuseReason::StartFailed,
                None => RefuseReason::Overloaded,
            };
            self.refuse_all(why, actions);
        }
    }
}
