//! What a commit costs in the sequencer: one key a commit, many in flight, by durability.
//!
//! `cargo run --release -p tidemill-store --example commit_cost [commits]`

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidemill_lattice::{Cell, Clock, Dot, Key, Op, Payload, Writer};
use tidemill_store::{Commit, Durability, Embedded, Options, PROVISIONAL, Store};

struct WallClock;

impl Clock for WallClock {
    #[expect(clippy::disallowed_methods, reason = "this program is the edge")]
    fn now_micros(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64)
    }
}

#[expect(clippy::disallowed_methods, reason = "this program measures")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> Result<(), Box<dyn Error>> {
    let commits: usize = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let directory = tempfile::tempdir()?;
    let store = Embedded::open(Options::new(directory.path()), Arc::new(WallClock))?;
    let keys = (0..1000)
        .map(|i| Key::new("acme", "bench", format!("key/{i}")))
        .collect::<Result<Vec<_>, _>>()?;
    for (name, op) in [
        ("register", Op::RegisterSet(Payload::bytes(vec![7; 100]))),
        ("counter", Op::CounterAdd(1)),
    ] {
        for (durability, window) in [
            (Durability::Memory, 1),
            (Durability::Memory, 64),
            (Durability::Durable, 64),
        ] {
            let commits = if durability == Durability::Durable {
                commits / 10
            } else {
                commits
            };
            let keys = if name == "register" {
                &keys[..500]
            } else {
                &keys[500..]
            };
            let before = store.stats();
            let began = now();
            run(&store, keys, &op, durability, window, commits)?;
            let each_us = began.elapsed().as_secs_f64() * 1e6 / commits as f64;
            let flushes = store.stats().flushes - before.flushes;
            let group = commits as f64 / flushes as f64;
            println!(
                "{name} {durability:?} window {window}: {each_us:.2} us a commit, {group:.1} a group"
            );
        }
    }
    let began = now();
    let at = store.snapshot();
    for i in 0..commits {
        std::hint::black_box(store.read_at(&keys[i % keys.len()], &at)?);
    }
    let each_ns = began.elapsed().as_secs_f64() * 1e9 / commits as f64;
    println!("read at a snapshot: {each_ns:.0} ns");
    Ok(())
}

fn run(
    store: &Embedded,
    keys: &[Key],
    op: &Op,
    durability: Durability,
    window: usize,
    commits: usize,
) -> Result<(), Box<dyn Error>> {
    let (sender, receiver) = mpsc::channel();
    let mut in_flight = 0;
    for i in 0..commits {
        let key = &keys[i % keys.len()];
        let at = store.snapshot();
        let mut dots = || Dot::new(PROVISIONAL, Writer(0), 0);
        let seen = store.read_at(key, &at)?;
        let delta = Cell::delta(seen.as_deref(), op, at.time(), &mut dots)?;
        let commit = Commit {
            request: i as u128,
            snapshot: at.time(),
            deltas: vec![(key.clone(), delta)],
            durability,
            messages: Vec::new(),
            consumes: None,
            record: None,
        };
        let sender = sender.clone();
        store.commit(commit, Box::new(move |outcome| drop(sender.send(outcome))));
        in_flight += 1;
        if in_flight == window {
            receiver.recv()??;
            in_flight -= 1;
        }
    }
    drop(sender);
    for outcome in receiver {
        outcome?;
    }
    Ok(())
}
