//! The pool, one situation a test.

use tidemill_scheduler::{
    PolicyError, Pool, PoolAction, PoolEvent, PoolPolicy, RefuseReason, Ticket, WorkerId,
};

const SECOND_US: u64 = 1_000_000;

/// A pool with a clock, and actions as short words.
struct Bench {
    pool: Pool,
    now_us: u64,
}

impl Bench {
    fn new(policy: PoolPolicy) -> Self {
        Self {
            pool: Pool::new(policy).unwrap(),
            now_us: 0,
        }
    }

    fn send(&mut self, event: PoolEvent) -> String {
        let words: Vec<String> = self
            .pool
            .handle(event)
            .iter()
            .map(|action| match action {
                PoolAction::Assign { ticket, worker } => format!("t{}=w{}", ticket.0, worker.0),
                PoolAction::Start => "start".to_owned(),
                PoolAction::Stop { worker } => format!("stop w{}", worker.0),
                PoolAction::Refuse { ticket, why } => {
                    let why = match why {
                        RefuseReason::Overloaded => "overloaded",
                        RefuseReason::StartFailed => "start failed",
                        RefuseReason::Draining => "draining",
                    };
                    format!("t{} {why}", ticket.0)
                }
            })
            .collect();
        words.join(", ")
    }

    fn request(&mut self, ticket: u64) -> String {
        self.send(PoolEvent::Request {
            ticket: Ticket(ticket),
            now_us: self.now_us,
        })
    }

    fn ready(&mut self, worker: u64) -> String {
        self.send(PoolEvent::Ready {
            worker: WorkerId(worker),
            now_us: self.now_us,
        })
    }

    fn release(&mut self, worker: u64) -> String {
        self.send(PoolEvent::Released {
            worker: WorkerId(worker),
            now_us: self.now_us,
        })
    }

    fn block(&mut self, worker: u64) -> String {
        self.send(PoolEvent::Blocked {
            worker: WorkerId(worker),
        })
    }

    fn unblock(&mut self, worker: u64) -> String {
        self.send(PoolEvent::Unblocked {
            worker: WorkerId(worker),
        })
    }

    fn gone(&mut self, worker: u64) -> String {
        self.send(PoolEvent::Gone {
            worker: WorkerId(worker),
            now_us: self.now_us,
        })
    }

    fn start_failed(&mut self) -> String {
        self.send(PoolEvent::StartFailed {
            now_us: self.now_us,
        })
    }

    fn tick(&mut self, after_us: u64) -> String {
        self.now_us += after_us;
        self.send(PoolEvent::Tick {
            now_us: self.now_us,
        })
    }
}

fn at_most(max_workers: usize) -> PoolPolicy {
    PoolPolicy {
        max_workers,
        max_processes: max_workers.max(4),
        ..PoolPolicy::default()
    }
}

#[test]
fn requests_are_served_in_turn_and_the_warmest_worker_first() {
    let mut bench = Bench::new(at_most(2));
    assert_eq!(bench.request(1), "start");
    assert_eq!(bench.request(2), "start");
    assert_eq!(bench.request(3), "");
    assert_eq!(bench.ready(1), "t1=w1");
    assert_eq!(bench.ready(2), "t2=w2");
    assert_eq!(bench.release(1), "t3=w1");
    assert_eq!(bench.release(2), "");
    assert_eq!(bench.release(1), "");
    assert_eq!(bench.request(4), "t4=w1");
    assert_eq!(bench.release(9), "", "nobody knows worker 9");
}

#[test]
fn no_more_start_at_once_than_allowed() {
    let mut bench = Bench::new(PoolPolicy {
        max_starting: 1,
        ..at_most(3)
    });
    assert_eq!(bench.request(1), "start");
    assert_eq!(bench.request(2), "");
    assert_eq!(bench.ready(1), "t1=w1, start");
}

#[test]
fn the_minimum_is_kept_and_the_rest_goes_when_idle() {
    let policy = PoolPolicy {
        min_workers: 1,
        idle_timeout_us: SECOND_US,
        ..at_most(2)
    };
    let mut bench = Bench::new(policy);
    assert_eq!(bench.tick(0), "start");
    assert_eq!(bench.ready(1), "");
    assert_eq!(bench.pool.next_tick_us(), None);
    assert_eq!(bench.request(1), "t1=w1");
    assert_eq!(bench.request(2), "start");
    assert_eq!(bench.ready(2), "t2=w2");
    assert_eq!(bench.release(1), "");
    assert_eq!(bench.pool.next_tick_us(), Some(SECOND_US));
    assert_eq!(bench.tick(SECOND_US / 2), "");
    assert_eq!(bench.release(2), "");
    assert_eq!(bench.tick(SECOND_US / 2), "stop w1");
    assert_eq!(bench.tick(10 * SECOND_US), "");
    assert_eq!(bench.gone(1), "");
    assert_eq!(bench.gone(2), "start");
}

#[test]
fn the_queue_is_bounded_and_may_be_left() {
    let mut bench = Bench::new(PoolPolicy {
        max_waiting: 2,
        ..at_most(1)
    });
    assert_eq!(bench.request(1), "start");
    assert_eq!(bench.request(2), "");
    assert_eq!(bench.request(3), "t3 overloaded");
    assert_eq!(bench.send(PoolEvent::GiveUp { ticket: Ticket(1) }), "");
    assert_eq!(bench.request(4), "");
    assert_eq!(bench.ready(1), "t2=w1");
}

#[test]
fn a_blocked_worker_makes_room_for_the_call_it_waits_for() {
    let mut bench = Bench::new(at_most(1));
    bench.request(1);
    assert_eq!(bench.ready(1), "t1=w1");
    assert_eq!(bench.request(2), "");
    assert_eq!(bench.block(1), "start");
    assert_eq!(bench.ready(2), "t2=w2");
    assert_eq!(bench.release(2), "");
    assert_eq!(bench.unblock(1), "");
    // Worker 2 is idle, but worker 1 fills the pool again.
    assert_eq!(bench.request(3), "");
    assert_eq!(bench.release(1), "t3=w1");
    assert_eq!(bench.request(4), "");
    assert_eq!(
        bench.block(1),
        "t4=w2",
        "the next nested call starts nothing"
    );
}

#[test]
fn the_pool_is_above_its_bound_only_while_unblocked_workers_finish() {
    let mut bench = Bench::new(at_most(1));
    bench.request(1);
    bench.ready(1);
    bench.request(2);
    bench.block(1);
    bench.ready(2);
    bench.unblock(1);
    assert_eq!(bench.pool.stats().active, 2);
    assert_eq!(bench.request(3), "");
    assert_eq!(bench.release(2), "");
    assert_eq!(bench.release(1), "t3=w1");
}

#[test]
fn when_every_process_waits_for_those_who_wait_they_are_refused() {
    let mut bench = Bench::new(PoolPolicy {
        max_processes: 2,
        ..at_most(1)
    });
    bench.request(1);
    bench.ready(1);
    bench.request(2);
    assert_eq!(bench.block(1), "start");
    assert_eq!(bench.ready(2), "t2=w2");
    assert_eq!(bench.request(3), "");
    assert_eq!(bench.block(2), "", "two processes are the bound");
    let due_us = bench.pool.next_tick_us().unwrap();
    assert_eq!(bench.tick(due_us - 1), "");
    assert_eq!(bench.tick(1), "t3 overloaded");
    assert_eq!(bench.unblock(2), "");
    assert_eq!(bench.request(4), "");
    assert_eq!(bench.block(2), "");
    assert_eq!(bench.unblock(1), "");
    assert_eq!(bench.tick(10 * SECOND_US), "", "one that works is no stall");
    assert_eq!(bench.release(1), "t4=w1");
}

#[test]
fn failing_starts_refuse_those_who_wait_and_are_tried_again_later() {
    let policy = PoolPolicy {
        backoff_min_us: SECOND_US,
        backoff_max_us: 3 * SECOND_US,
        max_starting: 1,
        ..at_most(2)
    };
    let mut bench = Bench::new(policy);
    assert_eq!(bench.request(1), "start");
    assert_eq!(bench.start_failed(), "start");
    assert_eq!(bench.start_failed(), "start");
    assert_eq!(bench.request(2), "");
    assert_eq!(bench.start_failed(), "t1 start failed, t2 start failed");
    assert_eq!(bench.request(3), "t3 start failed");
    assert_eq!(bench.tick(SECOND_US), "");
    assert_eq!(bench.request(4), "start");
    assert_eq!(bench.start_failed(), "t4 start failed");
    assert_eq!(bench.tick(SECOND_US), "");
    assert_eq!(
        bench.request(5),
        "t5 start failed",
        "the second time it takes twice as long"
    );
    assert_eq!(bench.tick(SECOND_US), "");
    assert_eq!(bench.request(6), "start");
    assert_eq!(bench.start_failed(), "t6 start failed");
    assert_eq!(
        bench.tick(3 * SECOND_US),
        "",
        "and never longer than the bound"
    );
    assert_eq!(bench.request(7), "start");
    assert_eq!(bench.ready(1), "t7=w1");
    assert_eq!(bench.release(1), "");
    assert_eq!(bench.pool.stats().start_failures, 0);
}

#[test]
fn workers_that_end_before_they_work_are_failed_starts() {
    let mut bench = Bench::new(PoolPolicy {
        min_workers: 1,
        ..at_most(1)
    });
    assert_eq!(bench.tick(0), "start");
    assert_eq!(bench.ready(1), "");
    assert_eq!(bench.gone(1), "start");
    assert_eq!(bench.ready(2), "");
    assert_eq!(bench.gone(2), "start");
    assert_eq!(bench.ready(3), "");
    assert_eq!(bench.gone(3), "", "not in a busy loop");
    let due_us = bench.pool.next_tick_us().unwrap();
    assert_eq!(bench.tick(due_us), "start");
    assert_eq!(bench.ready(4), "");
    assert_eq!(bench.request(1), "t1=w4");
    assert_eq!(bench.release(4), "");
    assert_eq!(bench.gone(4), "start", "one that did work may end");
    assert_eq!(bench.pool.stats().start_failures, 0);
}

#[test]
fn failing_starts_do_not_refuse_those_whom_a_worker_will_serve() {
    let mut bench = Bench::new(PoolPolicy {
        max_starting: 1,
        ..at_most(2)
    });
    bench.request(1);
    bench.ready(1);
    assert_eq!(bench.request(2), "start");
    assert_eq!(bench.start_failed(), "start");
    assert_eq!(bench.start_failed(), "start");
    assert_eq!(bench.start_failed(), "");
    assert_eq!(bench.request(3), "");
    assert_eq!(
        bench.release(1),
        "t2=w1",
        "its work says nothing of starts after it"
    );
    let due_us = bench.pool.next_tick_us().unwrap();
    assert_eq!(bench.tick(due_us), "start", "the back-off is over");
}

#[test]
fn a_retired_worker_has_done_its_work_too() {
    let mut bench = Bench::new(PoolPolicy {
        max_starting: 1,
        ..at_most(1)
    });
    bench.request(1);
    assert_eq!(bench.start_failed(), "start");
    assert_eq!(bench.ready(1), "t1=w1");
    assert_eq!(bench.pool.stats().start_failures, 1);
    bench.send(PoolEvent::Retired {
        worker: WorkerId(1),
        now_us: 0,
    });
    assert_eq!(bench.pool.stats().start_failures, 0);
}

#[test]
fn the_minimum_is_started_again_after_a_back_off() {
    let mut bench = Bench::new(PoolPolicy {
        min_workers: 1,
        ..at_most(1)
    });
    assert_eq!(bench.tick(0), "start");
    assert_eq!(bench.start_failed(), "start");
    assert_eq!(bench.start_failed(), "start");
    assert_eq!(bench.start_failed(), "");
    let due_us = bench.pool.next_tick_us().unwrap();
    assert_eq!(bench.tick(due_us - 1), "");
    assert_eq!(bench.tick(1), "start");
}

#[test]
fn a_retired_worker_is_stopped_and_replaced() {
    let mut bench = Bench::new(at_most(1));
    bench.request(1);
    bench.ready(1);
    bench.request(2);
    let retired = PoolEvent::Retired {
        worker: WorkerId(1),
        now_us: 0,
    };
    assert_eq!(bench.send(retired), "stop w1, start");
    assert_eq!(bench.ready(2), "t2=w2");
    assert_eq!(bench.gone(1), "");
}

#[test]
fn a_stopping_worker_is_a_process_until_it_is_gone() {
    let mut bench = Bench::new(PoolPolicy {
        max_processes: 1,
        ..at_most(1)
    });
    bench.request(1);
    bench.ready(1);
    bench.request(2);
    let retired = PoolEvent::Retired {
        worker: WorkerId(1),
        now_us: 0,
    };
    assert_eq!(bench.send(retired), "stop w1");
    assert_eq!(bench.gone(1), "start");
}

#[test]
fn an_unasked_worker_is_stopped() {
    let mut bench = Bench::new(at_most(1));
    assert_eq!(bench.ready(7), "stop w7");
    assert_eq!(bench.ready(7), "");
    assert_eq!(bench.gone(7), "");
    assert_eq!(bench.pool.stats().processes(), 0);
}

#[test]
fn a_drained_pool_lets_work_finish_and_no_one_in() {
    let mut bench = Bench::new(PoolPolicy {
        min_workers: 1,
        ..at_most(3)
    });
    bench.request(1);
    bench.ready(1);
    bench.request(2);
    bench.ready(2);
    bench.release(1);
    bench.request(3);
    bench.request(4);
    assert_eq!(bench.request(5), "");
    assert_eq!(bench.send(PoolEvent::Drain), "t4 draining, t5 draining");
    assert_eq!(bench.request(6), "t6 draining");
    assert_eq!(bench.ready(3), "stop w3");
    assert_eq!(bench.release(1), "stop w1");
    assert_eq!(bench.release(2), "stop w2");
    for worker in 1..=3 {
        assert!(!bench.pool.is_drained());
        assert_eq!(bench.gone(worker), "");
    }
    assert!(bench.pool.is_drained());
}

#[test]
fn contradicting_bounds_are_refused() {
    let check = |policy: PoolPolicy| Pool::new(policy).unwrap_err();
    let default = PoolPolicy::default;
    assert_eq!(
        check(PoolPolicy {
            max_workers: 0,
            ..default()
        }),
        PolicyError::Zero {
            option: "max_workers"
        }
    );
    assert_eq!(
        check(PoolPolicy {
            min_workers: 9,
            ..default()
        })
        .to_string(),
        "min_workers is above max_workers: lower the one or raise the other"
    );
    assert_eq!(
        check(PoolPolicy {
            max_workers: 65,
            ..default()
        }),
        PolicyError::Order {
            low: "max_workers",
            high: "max_processes"
        }
    );
}
