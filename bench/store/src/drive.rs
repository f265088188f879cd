//! The driver: reads and writes of many keys by Zipf's law, nine reads to a write.
//!
//! A read is `read_at` at the newest snapshot, on the driver's own thread. A write is an
//! `update` of a register, with so many on their way at a time. Reads of a driver share a
//! snapshot for a while, as those of a request do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidemill_lattice::{Cell, Key, Op, Payload};
use tidemill_store::{Commit, Durability, Embedded, Store, Update};

use crate::Size;
use crate::edge::{self, Scratch};
use crate::failures::Failures;
use crate::side::Side;
use crate::window::Window;
use crate::zipf::Zipf;

const EXPONENT: f64 = 1.1;
const READS_A_SNAPSHOT: usize = 9;
const FLYING_MAX: usize = 256;
const VALUE: [u8; 64] = [b'v'; 64];
const DRAWS: usize = 1 << 20;
const KEYS_A_COMMIT: usize = 500;
/// How much longer than others these run: several checkpoints fit in.
const LONGER: u64 = 4;

/// How a store is driven: so many shards, by as many drivers, on so many processors.
#[derive(Clone, Copy)]
struct Shape {
    shards: usize,
    cores: usize,
}

/// One shard with one processor.
pub(crate) fn one_on_one(size: Size) -> io::Result<Vec<Side>> {
    sides(1, 1, size)
}

/// One shard with two processors.
pub(crate) fn one_on_two(size: Size) -> io::Result<Vec<Side>> {
    sides(1, 2, size)
}

/// A shard a processor.
pub(crate) fn two_on_two(size: Size) -> io::Result<Vec<Side>> {
    sides(2, 2, size)
}

/// Nothing where there are not so many processors.
fn sides(shards: usize, cores: usize, size: Size) -> io::Result<Vec<Side>> {
    if cores > edge::cores()? {
        return Ok(Vec::new());
    }
    let keys: Arc<[Key]> = keys(size.keys)?.into();
    let law = Zipf::new(size.keys, EXPONENT);
    let draws: Arc<[Vec<u32>]> = (0..2).map(|seed| law.draw(DRAWS, seed)).collect();
    let scratch = edge::on_cores(cores, || {
        let scratch = edge::open(shards)?;
        fill(scratch.store(), &keys)?;
        Ok(scratch)
    })?;
    let shape = Shape { shards, cores };
    Ok(vec![side(shape, scratch, keys, draws, size)])
}

fn side(
    shape: Shape,
    scratch: Scratch,
    keys: Arc<[Key]>,
    draws: Arc<[Vec<u32>]>,
    size: Size,
) -> Side {
    let Shape { shards, cores } = shape;
    let name = format!("zipf, {}, {}", count(shards, "shard"), count(cores, "core"));
    let time = Duration::from_millis(size.round_ms * LONGER);
    let run = move |time| {
        let begun = edge::now();
        let done = edge::on_threads(cores, |number| {
            drive(scratch.store(), &keys, &draws[number], time)
        });
        let done: io::Result<Vec<usize>> = done.into_iter().collect();
        Ok(done?.iter().sum::<usize>() as f64 / begun.elapsed().as_secs_f64())
    };
    Side(Box::new(move || {
        // A store that has rested has given back what it does not need.
        let rate = edge::on_cores(cores, || run(time / 4).and_then(|_| run(time)))?;
        Ok(vec![(name.clone(), rate)])
    }))
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The keys of a benchmark.
pub(crate) fn keys(count: u32) -> io::Result<Vec<Key>> {
    let named = (0..count).map(|number| Key::new("bench", "store", format!("key:{number:012}")));
    named.collect::<Result<_, _>>().map_err(io::Error::other)
}

fn register() -> Op {
    Op::RegisterSet(Payload::bytes(&VALUE[..]))
}

/// Writes every key once.
fn fill(store: &Embedded, keys: &[Key]) -> io::Result<()> {
    let window = Window::new(64);
    let failures = Failures::default();
    for some in keys.chunks(KEYS_A_COMMIT) {
        let mut dots = edge::provisional();
        let snapshot = store.snapshot();
        let delta = |key: &Key| {
            let delta = Cell::delta(None, &register(), snapshot.time(), &mut dots);
            Ok((key.clone(), delta.map_err(io::Error::other)?))
        };
        let commit = Commit {
            request: 0,
            snapshot: snapshot.time(),
            deltas: some.iter().map(delta).collect::<io::Result<_>>()?,
            durability: Durability::Memory,
            messages: Vec::new(),
            consumes: None,
            record: None,
        };
        window.enter();
        let (window, failures) = (Arc::clone(&window), failures.clone());
        store.commit(
            commit,
            Box::new(move |done| {
                failures.note(done);
                window.leave();
            }),
        );
    }
    window.drain();
    failures.check()
}

/// Reads and writes for a time; gives how many.
fn drive(store: &Embedded, keys: &[Key], draws: &[u32], time: Duration) -> io::Result<usize> {
    let window = Window::new(FLYING_MAX);
    let failures = Failures::default();
    let op = register();
    let mut done = 0;
    let mut next = draws.iter().cycle();
    let mut key = || next.next().and_then(|number| keys.get(*number as usize));
    let begun = edge::now();
    while begun.elapsed() < time {
        for _ in 0..100 {
            let snapshot = store.snapshot();
            for _ in 0..READS_A_SNAPSHOT {
                let read = key().map(|key| store.read_at(key, &snapshot));
                if !matches!(read, Some(Ok(Some(_)))) {
                    return Err(io::Error::other("a key that was written is not there"));
                }
            }
            if let Some(key) = key() {
                write(store, key, &op, &window, &failures);
            }
            done += READS_A_SNAPSHOT + 1;
        }
    }
    window.drain();
    failures.check()?;
    Ok(done)
}

/// Updates a register, not waiting for it.
pub(crate) fn write(
    store: &Embedded,
    key: &Key,
    op: &Op,
    window: &Arc<Window>,
    failures: &Failures,
) {
    window.enter();
    let (op, window, failures) = (op.clone(), Arc::clone(window), failures.clone());
    let update = Update {
        key: key.clone(),
        durability: Durability::Memory,
        decide: Box::new(move |seen, at, dots| Cell::delta(seen, &op, at, dots).ok()),
    };
    store.update(
        update,
        Box::new(move |done| {
            failures.note(done);
            window.leave();
        }),
    );
}
