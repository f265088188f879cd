//! The pool under random events, against a model that only does what it is told.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tidemill_scheduler::{
    Pool, PoolAction, PoolEvent, PoolPolicy, PoolStats, RefuseReason, Ticket, WorkerId,
};

#[derive(Clone, Debug)]
enum Op {
    Request,
    GiveUp(Index),
    Ready,
    StartFailed,
    Released(Index),
    Retired(Index),
    Blocked(Index),
    Unblocked(Index),
    Gone(Index),
    Tick(u64),
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    prop_oneof![
        12 => Just(Op::Request),
        2 => index().prop_map(Op::GiveUp),
        8 => Just(Op::Ready),
        2 => Just(Op::StartFailed),
        8 => index().prop_map(Op::Released),
        1 => index().prop_map(Op::Retired),
        4 => index().prop_map(Op::Blocked),
        4 => index().prop_map(Op::Unblocked),
        3 => index().prop_map(Op::Gone),
        5 => (0..3_000_u64).prop_map(Op::Tick),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    (
        vec(op(), 1..300),
        prop::option::weighted(0.2, any::<Index>()),
    )
        .prop_map(|(mut ops, drain)| {
            if let Some(at) = drain {
                ops.insert(at.index(ops.len()), Op::Drain);
            }
            ops
        })
}

fn policy() -> impl Strategy<Value = PoolPolicy> {
    (1..5_usize, 0..5_usize, 0..4_usize, 1..4_usize, 1..8_usize).prop_map(
        |(max_workers, min_workers, more, max_starting, max_waiting)| PoolPolicy {
            min_workers: min_workers.min(max_workers),
            max_workers,
            max_processes: max_workers + more,
            max_starting,
            max_waiting,
            idle_timeout_us: 5_000,
            stall_timeout_us: 2_000,
            max_start_failures: 3,
            backoff_min_us: 1_000,
            backoff_max_us: 8_000,
        },
    )
}

/// The world around a pool: it carries out actions, and checks each against the rules.
struct World {
    pool: Pool,
    now_us: u64,
    next: u64,
    waiting: Vec<Ticket>,
    answered: BTreeSet<Ticket>,
    idle: Vec<WorkerId>,
    busy: BTreeMap<WorkerId, bool>,
    stopping: BTreeSet<WorkerId>,
    starting: usize,
    draining: bool,
}

impl World {
    fn new(policy: PoolPolicy) -> Self {
        Self {
            pool: Pool::new(policy).unwrap(),
            now_us: 0,
            next: 0,
            waiting: Vec::new(),
            answered: BTreeSet::new(),
            idle: Vec::new(),
            busy: BTreeMap::new(),
            stopping: BTreeSet::new(),
            starting: 0,
            draining: false,
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn active(&self) -> usize {
        self.busy
            .values()
            .filter(|is_blocked| !**is_blocked)
            .count()
    }

    fn processes(&self) -> usize {
        self.idle.len() + self.busy.len() + self.stopping.len() + self.starting
    }

    fn pick_busy(&self, index: Index) -> Option<WorkerId> {
        let all: Vec<WorkerId> = self.busy.keys().copied().collect();
        (!all.is_empty()).then(|| *index.get(&all))
    }

    /// The event of an operation, done to the model too; `None` if it makes no sense now.
    fn event(&mut self, op: &Op) -> Option<PoolEvent> {
        let now_us = self.now_us;
        Some(match op {
            Op::Request => {
                let ticket = Ticket(self.fresh());
                self.waiting.push(ticket);
                PoolEvent::Request { ticket, now_us }
            }
            Op::GiveUp(_) if self.waiting.is_empty() => return None,
            Op::GiveUp(index) => {
                let ticket = self.waiting.remove(index.index(self.waiting.len()));
                self.answered.insert(ticket);
                PoolEvent::GiveUp { ticket }
            }
            Op::Ready | Op::StartFailed if self.starting == 0 => return None,
            Op::Ready => {
                self.starting -= 1;
                let worker = WorkerId(self.fresh());
                self.idle.push(worker);
                PoolEvent::Ready { worker, now_us }
            }
            Op::StartFailed => {
                self.starting -= 1;
                PoolEvent::StartFailed { now_us }
            }
            Op::Released(index) => {
                let worker = self.pick_busy(*index)?;
                self.busy.remove(&worker);
                self.idle.push(worker);
                PoolEvent::Released { worker, now_us }
            }
            Op::Retired(index) => {
                let worker = self.pick_busy(*index)?;
                PoolEvent::Retired { worker, now_us }
            }
            Op::Blocked(index) | Op::Unblocked(index) => {
                let worker = self.pick_busy(*index)?;
                let is_blocked = matches!(op, Op::Blocked(_));
                self.busy.insert(worker, is_blocked);
                if is_blocked {
                    PoolEvent::Blocked { worker }
                } else {
                    PoolEvent::Unblocked { worker }
                }
            }
            Op::Gone(index) => {
                let all = self
                    .idle
                    .iter()
                    .chain(self.busy.keys())
                    .chain(&self.stopping);
                let all: Vec<WorkerId> = all.copied().collect();
                let worker = *all.get(index.index(all.len().max(1)))?;
                self.idle.retain(|other| *other != worker);
                self.busy.remove(&worker);
                self.stopping.remove(&worker);
                PoolEvent::Gone { worker, now_us }
            }
            Op::Tick(after_us) => {
                self.now_us += after_us;
                PoolEvent::Tick {
                    now_us: self.now_us,
                }
            }
            Op::Drain => {
                self.draining = true;
                PoolEvent::Drain
            }
        })
    }

    fn step(&mut self, op: &Op) {
        let Some(event) = self.event(op) else { return };
        for action in self.pool.handle(event) {
            self.carry_out(action, event);
        }
        self.check();
    }

    fn carry_out(&mut self, action: PoolAction, event: PoolEvent) {
        let policy = *self.pool.policy();
        match action {
            PoolAction::Assign { ticket, worker } => {
                assert_eq!(
                    self.waiting.first(),
                    Some(&ticket),
                    "not first come, first served"
                );
                assert_eq!(
                    self.idle.last(),
                    Some(&worker),
                    "not idle, or not the warmest"
                );
                assert!(
                    self.active() < policy.max_workers,
                    "more at work than allowed"
                );
                self.waiting.remove(0);
                self.idle.pop();
                assert!(self.answered.insert(ticket), "answered twice");
                assert_eq!(
                    self.busy.insert(worker, false),
                    None,
                    "two tickets on one worker"
                );
            }
            PoolAction::Start => {
                assert!(!self.draining);
                self.starting += 1;
                assert!(self.starting <= policy.max_starting);
                assert!(self.processes() <= policy.max_processes);
                let may_work = self.active() + self.idle.len() + self.starting;
                let there = self.idle.len() + self.busy.len() + self.starting;
                assert!(may_work <= policy.max_workers || there <= policy.min_workers);
            }
            PoolAction::Stop { worker } => {
                if event
                    == (PoolEvent::Retired {
                        worker,
                        now_us: self.now_us,
                    })
                {
                    self.busy.remove(&worker);
                } else {
                    assert_eq!(self.idle.first(), Some(&worker), "not the one idle longest");
                    self.idle.remove(0);
                    let there = self.idle.len() + self.busy.len();
                    assert!(
                        self.draining || there >= policy.min_workers,
                        "below the minimum"
                    );
                }
                assert!(self.stopping.insert(worker), "stopped twice");
            }
            PoolAction::Refuse { ticket, why } => {
                let place = self
                    .waiting
                    .iter()
                    .position(|other| *other == ticket)
                    .unwrap();
                self.waiting.remove(place);
                assert!(self.answered.insert(ticket), "answered twice");
                assert_eq!(why == RefuseReason::Draining, self.draining);
            }
        }
    }

    fn check(&self) {
        let policy = self.pool.policy();
        let stats = self.pool.stats();
        let expected = PoolStats {
            waiting: self.waiting.len(),
            active: self.active(),
            blocked: self.busy.len() - self.active(),
            idle: self.idle.len(),
            starting: self.starting,
            stopping: self.stopping.len(),
            start_failures: stats.start_failures,
            draining: self.draining,
        };
        assert_eq!(stats, expected, "a ticket or a worker was lost");
        assert!(stats.waiting <= policy.max_waiting);
        assert!(stats.processes() <= policy.max_processes);
        let is_free = stats.idle > 0 && stats.active < policy.max_workers;
        assert!(
            stats.waiting == 0 || !is_free,
            "somebody waits beside a free worker"
        );
        let may_start = !self.draining
            && stats.start_failures < policy.max_start_failures
            && stats.starting < policy.max_starting
            && stats.processes() < policy.max_processes;
        if may_start {
            let there = stats.idle + stats.active + stats.blocked + stats.starting;
            assert!(there >= policy.min_workers, "below the minimum");
            let may_work = stats.active + stats.idle + stats.starting;
            assert!(stats.waiting <= stats.starting || may_work >= policy.max_workers);
        }
    }

    /// Lets everything that is under way come to its end.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            if self.waiting.is_empty() {
                return;
            }
            self.step(&Op::Ready);
            if let Some(worker) = self.busy.keys().next().copied() {
                self.busy.remove(&worker);
                self.idle.push(worker);
                let released = PoolEvent::Released {
                    worker,
                    now_us: self.now_us,
                };
                for action in self.pool.handle(released) {
                    self.carry_out(action, released);
                }
                self.check();
            }
            if let Some(worker) = self.stopping.pop_first() {
                let gone = PoolEvent::Gone {
                    worker,
                    now_us: self.now_us,
                };
                for action in self.pool.handle(gone) {
                    self.carry_out(action, gone);
                }
                self.check();
            }
            let due_us = self.pool.next_tick_us().unwrap_or(self.now_us);
            self.step(&Op::Tick(due_us.saturating_sub(self.now_us)));
        }
        panic!("{:?} wait for ever: {:?}", self.waiting, self.pool.stats());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_pool_keeps_its_bounds_and_loses_nobody(policy in policy(), ops in ops()) {
        let mut world = World::new(policy);
        world.step(&Op::Tick(0));
        for op in &ops {
            world.step(op);
        }
        world.settle();
    }

    #[test]
    fn ticks_alone_answer_everybody_when_all_are_blocked(policy in policy(), wishes in 1..20_usize) {
        let mut world = World::new(policy);
        for _ in 0..wishes {
            world.step(&Op::Request);
        }
        // Every worker that starts blocks at once, as if each called its own group.
        for _ in 0..200 {
            world.step(&Op::Ready);
            for worker in world.busy.keys().copied().collect::<Vec<_>>() {
                world.busy.insert(worker, true);
                let blocked = PoolEvent::Blocked { worker };
                for action in world.pool.handle(blocked) {
                    world.carry_out(action, blocked);
                }
            }
            let due_us = world.pool.next_tick_us().unwrap_or(world.now_us);
            world.step(&Op::Tick(due_us.saturating_sub(world.now_us)));
        }
        prop_assert!(world.waiting.is_empty(), "{:?}", world.pool.stats());
    }
}
