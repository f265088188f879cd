//! Where everybody is new: a member that begins above a time of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_causal::{
    Action, Address, Applied, Body, Buffer, CommitRequest, Config, Durability, Envelope, Epoch,
    Event, Gossip, LogRead, Node, Now, PartitionId, Placed, Refusal, RequestId, Stamp, Ticket,
};
use tidemill_lattice::{Key, Op, Time, Writer};

/// The member under test, the one that was there before it, and the one that comes after.
const ME: u32 = 2;
const BEFORE: u32 = 1;
const AFTER: u32 = 3;
const HERE: PartitionId = PartitionId(0);
const THERE: PartitionId = PartitionId(1);
const WALL_US: u64 = 1_700_000_000_000_000;
const FLOOR: Time = Time::from_micros(WALL_US + 900_000);

fn placed(member: u32) -> Placed {
    Placed {
        member: Writer(member),
        address: Address(member),
    }
}

fn epoch(number: u64, members: [u32; 2], salt: u64) -> Epoch {
    // As proposed when the test began.
    Epoch {
        number,
        members: members.into_iter().map(placed).collect(),
        salt,
        loss: 0,
        floor: FLOOR,
    }
}

/// A salt with which the member under test owns one partition and whoever else is there the other.
fn salt() -> u64 {
    let fits = |salt: &u64| {
        [[BEFORE, ME], [ME, AFTER]].into_iter().all(|members| {
            let epoch = epoch(1, members, *salt);
            let owner = |partition| epoch.owner(partition).map(|placed| placed.member);
            owner(HERE) == Some(Writer(ME)) && owner(THERE) != Some(Writer(ME))
        })
    };
    (0..1000).find(fits).expect("one of a few does")
}

struct Stage {
    node: Node,
    now: Now,
    epoch: u64,
    log: LogRead,
    /// What the member has sent to others since the test looked last.
    sent: Vec<Body>,
    proposed: Vec<Epoch>,
}

impl Stage {
    /// A member that has joined one that was there, and serves its partition, but was not told of
    /// a frontier before that one went and a new one came.
    fn set() -> Stage {
        let config = Config {
            partitions: 2,
            ..Config::default()
        };
        let mut stage = Stage {
            node: Node::new(placed(ME), Arc::new(config), BTreeMap::new()),
            now: Now {
                monotonic_us: 1,
                wall_us: WALL_US,
            },
            epoch: 0,
            log: LogRead::default(),
            sent: Vec::new(),
            proposed: Vec::new(),
        };
        stage.enter(epoch(2, [BEFORE, ME], salt()));
        for _ in 0..20 {
            stage.tick();
        }
        assert!(stage.node.partition(HERE).is_some(), "it serves");
        assert!(!stage.node.membership().is_floored());
        stage.enter(epoch(3, [ME, AFTER], salt()));
        stage
    }

    fn enter(&mut self, epoch: Epoch) {
        self.epoch = epoch.number;
        self.event(Event::Epoch(Arc::new(epoch)));
    }

    fn tick(&mut self) {
        self.now.monotonic_us += 5_000;
        self.now.wall_us += 5_000;
        self.event(Event::Tick);
    }

    /// The new member says that it knows no frontier either.
    fn hear_that_the_other_is_new(&mut self) {
        let gossip = Gossip {
            from: Writer(AFTER),
            ..Gossip::default()
        };
        self.say(Body::Gossip(gossip));
        self.tick();
    }

    fn hear_that_all_are_new(&mut self) {
        self.hear_that_the_other_is_new();
        assert!(self.node.membership().is_floored());
        // Not its clock and the bound: who began anew before may have had a faster clock.
        assert_eq!(self.node.membership().held_ever(), FLOOR);
    }

    fn say(&mut self, body: Body) {
        let envelope = Envelope {
            from: Address(AFTER),
            epoch: self.epoch,
            time: Time::ZERO,
            body,
        };
        self.event(Event::Message(envelope));
    }

    /// Plays the disk and the others until nothing is left to answer.
    fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.node.handle(self.now, event) {
                events.extend(self.answer(action));
            }
        }
    }

    fn answer(&mut self, action: Action) -> Option<Event> {
        let body = match action {
            Action::OpenLog {
                partition,
                generation,
            } => {
                return Some(Event::LogOpened {
                    partition,
                    generation,
                    read: self.log.clone(),
                });
            }
            Action::WriteLog(write) => {
                self.log.write(&write);
                return Some(Event::LogWritten {
                    partition: write.partition,
                    generation: write.generation,
                    end: self.log.end(),
                });
            }
            Action::Propose(epoch) => {
                self.proposed.push(epoch);
                return None;
            }
            Action::Send { to, envelope } => {
                let member = Writer(to.0);
                match envelope.body {
                    Body::Seal {
                        partition,
                        generation,
                    } => Body::Sealed {
                        partition,
                        generation,
                        member,
                        tail: None,
                    },
                    Body::Redo {
                        home, partition, ..
                    } => Body::Redone {
                        home,
                        partition,
                        applied: Vec::new(),
                    },
                    body => {
                        self.sent.push(body);
                        return None;
                    }
                }
            }
            _ => return None,
        };
        Some(Event::Message(Envelope {
            from: Address(BEFORE),
            epoch: self.epoch,
            time: Time::ZERO,
            body,
        }))
    }

    /// The frontier that the member published last.
    fn published(&mut self) -> Option<Time> {
        self.sent.clear();
        for _ in 0..4 {
            self.tick();
        }
        self.sent.iter().rev().find_map(|body| match body {
            Body::Gossip(gossip) => gossip.frontiers.get(&Writer(ME)).copied(),
            _ => None,
        })
    }
}

/// A key of the partition here.
fn key() -> Key {
    let key = |number: u32| Key::new("test", "app", format!("key{number}")).expect("a name");
    let is_here = |key: &Key| PartitionId::of(key, 2) == HERE;
    (0..).map(key).find(is_here).expect("half of them are")
}

fn write() -> Buffer {
    let mut buffer = Buffer::new(0);
    let wrote = buffer.write(&key(), None, &Op::CounterAdd(1), Time::ZERO);
    wrote.expect("it fits");
    buffer
}

#[test]
fn what_homes_still_owe_is_taken_below_the_time_that_a_member_begins_above() {
    let mut stage = Stage::set();
    stage.hear_that_all_are_new();
    // Committed before, at the other partition's home, whose new owner delivers it again.
    let stamp = Stamp {
        time: Time::from_micros(WALL_US),
        writer: Writer(BEFORE),
    };
    let applied = Applied {
        stamp,
        home: THERE,
        snapshot: Time::from_micros(WALL_US - 1),
        deltas: Arc::new(write().stamped(stamp.time, stamp.writer)),
    };
    stage.say(Body::Deliver {
        partition: HERE,
        applied,
    });
    let told = |body: &Body| matches!(body, Body::Delivered { stamp: told, .. } if *told == stamp);
    assert!(stage.sent.iter().any(told));
    let partition = stage.node.partition(HERE).expect("it serves");
    let held = partition.read(&key(), Time::MAX);
    assert!(held.is_some(), "said to be delivered, and is not there");
}

#[test]
fn a_member_commits_nothing_before_it_knows_what_to_begin_above() {
    let mut stage = Stage::set();
    let ticket = Ticket::default();
    let mut request = CommitRequest {
        ticket,
        id: RequestId {
            birth_us: WALL_US,
            ..RequestId::default()
        },
        home: HERE,
        arguments: 0,
        snapshot: Time::ZERO,
        token: Time::ZERO,
        buffer: Arc::new(write()),
        result: Arc::new(Vec::new()),
        messages: Vec::new(),
        durability: Durability::Durable,
    };
    stage.say(Body::Commit(request.clone()));
    let refusals = |stage: &Stage| -> Vec<Refusal> {
        let refusal = |body: &Body| match body {
            Body::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        };
        stage.sent.iter().filter_map(refusal).collect()
    };
    assert_eq!(refusals(&stage), [Refusal::NotOwner]);
    stage.hear_that_all_are_new();
    stage.sent.clear();
    // A snapshot from before is no longer committed from.
    stage.say(Body::Commit(request.clone()));
    assert_eq!(refusals(&stage), [Refusal::SnapshotExpired]);
    request.snapshot = FLOOR;
    stage.say(Body::Commit(request));
    let decided = stage.sent.iter().find_map(|body| match body {
        Body::Decided { stamp, .. } => Some(stamp.time),
        _ => None,
    });
    assert!(decided.is_some_and(|time| time > FLOOR));
}

#[test]
fn a_member_that_has_not_seen_lately_that_it_is_one_publishes_nothing() {
    let mut stage = Stage::set();
    stage.hear_that_all_are_new();
    let first = stage.published();
    assert!(first > Some(FLOOR) && stage.published() > first);
    // Nothing comes of reading the epoch for a while.
    stage.now.monotonic_us += Config::default().unconfirmed_us();
    let last = stage.published();
    assert_eq!(
        stage.published(),
        last,
        "it may have been given up long ago"
    );
    stage.enter(epoch(3, [ME, AFTER], salt()));
    assert!(stage.published() > last);
}

#[test]
fn a_member_does_not_begin_at_a_floor_that_was_long_on_its_way() {
    let mut stage = Stage::set();
    stage.now.wall_us += Config::default().clock_bound_us;
    stage.enter(epoch(4, [ME, AFTER], salt()));
    stage.now.monotonic_us += 1_000_000;
    stage.hear_that_the_other_is_new();
    assert!(!stage.node.membership().is_floored());
    let renewed = stage.proposed.pop().expect("the same with a newer floor");
    assert_eq!((renewed.number, renewed.members.len()), (5, 2));
    assert!(renewed.floor > FLOOR);
    stage.enter(renewed.clone());
    stage.hear_that_the_other_is_new();
    assert_eq!(stage.node.membership().held_ever(), renewed.floor);
}
