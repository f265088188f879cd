//! Writes that are decided at the owner: nothing comes between looking and writing.

#![expect(clippy::disallowed_methods, reason = "writers that race are threads")]

use std::collections::HashMap;
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;

use parking_lot::Mutex;
use tidemill_lattice::{Cell, Key, Op, Payload, Value};
use tidemill_store::{
    Commit, Committed, Decide, Driver, Durability, Embedded, Error, Options, Shard, Sleeper,
    Snapshot, Store, Told, Turns, Update,
};

use crate::support::*;

/// Adds one to a counter and answers its new value.
fn increment(name: &str, answer: Arc<Mutex<Option<i128>>>) -> Update {
    Update {
        key: key(name),
        durability: Durability::Memory,
        decide: Box::new(move |seen, at, dots| {
            let delta = Cell::delta(seen, &Op::CounterAdd(1), at, dots).ok()?;
            let mut after = seen.cloned().unwrap_or_else(Cell::empty);
            after.merge(&delta);
            let value = match after.view(tidemill_store::PROVISIONAL) {
                Some(Value::Counter(counter)) => Some(counter.value()),
                _ => None,
            };
            *answer.lock() = value;
            Some(delta)
        }),
    }
}

fn update(store: &dyn Store, update: Update) -> Result<Committed, Error> {
    let (sender, receiver) = mpsc::channel();
    store.update(
        update,
        Box::new(move |outcome| sender.send(outcome).expect("heard")),
    );
    receiver.recv().expect("answered")
}

fn set_if_absent(name: &str, value: &str) -> (Update, Arc<Mutex<bool>>) {
    let won = Arc::new(Mutex::new(false));
    let (mine, value) = (Arc::clone(&won), text(value));
    let decide = Box::new(
        move |seen: Option<&Cell>, at, dots: &mut dyn FnMut() -> tidemill_lattice::Dot| {
            if seen.is_some_and(|cell| !cell.is_empty_at(at)) {
                return None;
            }
            *mine.lock() = true;
            Cell::delta(seen, &Op::RegisterSet(value), at, dots).ok()
        },
    );
    let key = key(name);
    (
        Update {
            key,
            durability: Durability::Durable,
            decide,
        },
        won,
    )
}

#[test]
fn of_many_who_set_if_absent_one_wins_and_all_see_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(open(directory.path()));
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                let mut wins = Vec::new();
                for round in 0..50 {
                    let (asked, won) = set_if_absent(&format!("k{round}"), &n.to_string());
                    update(&*store, asked).expect("it is answered");
                    if *won.lock() {
                        wins.push((round, n.to_string()));
                    }
                    assert!(get(&*store, &format!("k{round}")).is_some());
                }
                wins
            })
        })
        .collect();
    let mut wins: Vec<(u32, String)> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("it ends"))
        .collect();
    wins.sort();
    assert_eq!(wins.len(), 50, "one winner a key");
    for (round, winner) in wins {
        assert_eq!(get(&*store, &format!("k{round}")), Some(winner));
    }
}

#[test]
fn increments_answer_each_value_once_among_plain_commits() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(open(directory.path()));
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let mut seen = Vec::new();
                for round in 0..200 {
                    if n == 0 && round % 4 == 0 {
                        write(&*store, &[add("other", 1), add("n", 1000)]);
                    }
                    let answer = Arc::new(Mutex::new(None));
                    update(&*store, increment("n", Arc::clone(&answer))).expect("it is written");
                    seen.extend(answer.lock().take());
                }
                seen
            })
        })
        .collect();
    let mut seen: Vec<i128> = threads
        .into_iter()
        .flat_map(|thread| thread.join().expect("it ends"))
        .collect();
    assert!(seen.len() == 800);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 800, "no answer was given twice");
    assert_eq!(get(&*store, "n"), Some((800 + 50 * 1000).to_string()));
    drop(store);
    let store = open(directory.path());
    assert_eq!(
        get(&store, "n"),
        Some((800 + 50 * 1000).to_string()),
        "and it is in the log"
    );
}

#[test]
fn whoever_decides_not_to_write_is_answered_and_nothing_is_logged() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let before = store.stats().commits;
    let nothing = || Update {
        key: key("a"),
        durability: Durability::Durable,
        decide: Box::new(|seen, _, _| {
            assert!(seen.is_none());
            None
        }),
    };
    update(&store, nothing()).expect("it is answered");
    assert_eq!(store.stats().commits, before);
    let panics = Update {
        decide: Box::new(|_, _, _| panic!("a bad decision")),
        ..nothing()
    };
    assert!(matches!(update(&store, panics), Err(Error::Io { .. })));
    write(&store, &[set("a", "1")]);
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
}

/// Adds to a few keys a thousand times in each shard's first turn, then does as others do.
struct Adder;

const ADDS: i64 = 1000;

impl Driver for Adder {
    fn drive(&self, turns: Turns) {
        turns.with(write_some).expect("it has not stopped");
        Sleeper.drive(turns);
    }
}

fn write_some(shard: &mut Shard) {
    {
        let names = (0..100).map(|number| key(&format!("n/{number}")));
        let owned: Vec<Key> = names.filter(|key| shard.owns(key)).take(3).collect();
        for _ in 0..ADDS {
            for key in &owned {
                let add = shard.update(key, Durability::Durable, |seen, at, dots| {
                    let delta = Cell::delta(seen.cell(), &Op::CounterAdd(1), at, dots);
                    (Some(delta.expect("it fits")), ())
                });
                add.expect("it is written");
            }
        }
        let Told::Later(ticket) = shard.flush() else {
            panic!("what is durable is told once the log has it");
        };
        shard.when_logged(ticket, |logged| logged.expect("it is logged"));
    }
}

#[test]
fn what_a_turn_adds_to_a_key_is_logged_once_and_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = |driver: Arc<dyn Driver>| {
        let options = Options {
            shards: 2,
            driver,
            ..options(directory.path())
        };
        Embedded::open(options, ManualClock::new()).expect("the store opens")
    };
    let sums = |store: &Embedded| {
        let at = store.snapshot();
        let page = store.scan(&prefix("n/"), None, 100, &at);
        let entries = page.expect("it is read").entries;
        let names = entries.iter().map(|(key, _)| key.name_lossy().into_owned());
        names
            .map(|name| number(store, &name, &at))
            .collect::<Vec<_>>()
    };
    let store = open(Arc::new(Adder));
    while store.stats().commits < 6 * ADDS as u64 || sums(&store).len() < 6 {
        std::thread::yield_now();
    }
    assert!(store.stats().log_bytes < 1000, "{:?}", store.stats());
    assert_eq!(sums(&store), [ADDS; 6]);
    drop(store);
    assert_eq!(sums(&open(Arc::new(Sleeper))), [ADDS; 6]);
}

#[test]
fn whoever_is_answered_may_commit_and_update_on_the_spot() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(open(directory.path()));
    let (sender, receiver) = mpsc::channel();
    for round in 0..100_i64 {
        let (again, sender) = (Arc::clone(&store), sender.clone());
        let done = move |outcome: Result<Committed, Error>| {
            outcome.expect("it is written");
            let at = again.snapshot();
            let delta = deltas(&*again, &at, &[add("a", 1), add("b", 1)]);
            let commit = Commit {
                durability: Durability::Memory,
                ..commit(&at, delta)
            };
            let told = move |outcome: Result<Committed, Error>| {
                outcome.expect("it is committed");
                sender.send(round).expect("heard");
            };
            again.commit(commit, Box::new(told));
            let answer = Arc::default();
            again.update(increment("a", answer), Box::new(|_| {}));
        };
        store.update(increment("a", Arc::default()), Box::new(done));
    }
    for _ in 0..100 {
        receiver.recv().expect("answered");
    }
    let store = Arc::into_inner(store);
    drop(store);
    let store = open(directory.path());
    let at = store.snapshot();
    assert_eq!(number(&store, "a", &at), 300);
    assert_eq!(number(&store, "b", &at), 100);
}

/// One of the writes that a client of one key makes, as an update.
fn written(choice: u64, step: u64) -> Decide {
    Box::new(move |seen, at, dots| {
        let value = Payload::bytes(format!("value {step} {}", "x".repeat(step as usize % 60)));
        let op = match choice {
            0..6 => {
                let ended = dots();
                let begun = dots();
                assert_eq!(
                    (ended.time, ended.sequence + 1),
                    (begun.time, begun.sequence)
                );
                return Cell::overwrite(ended, value);
            }
            6 => Op::Delete,
            7 => Op::Expire(Some(at.next())),
            _ => Op::RegisterSet(value),
        };
        Cell::delta(seen, &op, at, dots).ok()
    })
}

#[test]
fn overwrites_are_read_as_they_were_at_each_snapshot_and_after_a_restart() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let names = ["a", "b", "c"];
    // Numbers that look random and are the same each time.
    let mut state = 7_u64;
    let mut draw = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let mut expected: HashMap<&str, Cell> = HashMap::new();
    for _ in 0..3 {
        let store = open(directory.path());
        let mut held: Vec<(Snapshot, HashMap<&str, Cell>)> = Vec::new();
        for step in 0..400 {
            let name = names[draw(3) as usize];
            let (made, decide) = (Arc::new(Mutex::new(None)), written(draw(9), step));
            let theirs = Arc::clone(&made);
            let updated = Update {
                key: key(name),
                durability: Durability::Memory,
                decide: Box::new(move |seen, at, dots| {
                    let delta = decide(seen, at, dots);
                    theirs.lock().clone_from(&delta);
                    delta
                }),
            };
            update(&store, updated).expect("it is written");
            if let Some(delta) = made.lock().take() {
                expected.entry(name).or_default().merge(&delta);
            }
            if draw(4) == 0 {
                held.push((store.snapshot(), expected.clone()));
            }
            if draw(12) == 0 {
                held.clear();
            }
            for (at, cells) in &held {
                for name in names {
                    let cell = cells.get(name).map(|cell| show(cell, at));
                    assert_eq!(
                        get_at(&store, name, at),
                        cell.flatten(),
                        "{name} at step {step}"
                    );
                }
            }
        }
        drop(held);
        let at = store.snapshot();
        for name in names {
            let cell = expected.get(name).map(|cell| show(cell, &at));
            assert_eq!(get(&store, name), cell.flatten());
        }
    }
}
