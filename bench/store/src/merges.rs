//! Additions to a few hot counters by several threads, beside a `DashMap` of numbers.
//!
//! Each addition is an update of its own, with so many on their way at a time; or requests make so
//! many, which they combine before they commit, as functions do. A run fails if the counters do not
//! add up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tidemill_lattice::{Cell, Key, Op, Value};
use tidemill_session::{Outgoing, Request, View};
use tidemill_store::{Durability, Embedded, Store, Update};

use crate::Size;
use crate::drive::keys;
use crate::edge::{self, Scratch};
use crate::failures::Failures;
use crate::side::Side;
use crate::window::Window;

const THREADS: [usize; 3] = [1, 2, 4];
const HOT: u32 = 16;
const FLYING_MAX: usize = 256;
/// Additions of a request.
const ADDS_A_REQUEST: [usize; 2] = [256, 4096];
/// Requests of a thread that are on their way.
const REQUESTS_MAX: usize = 4;

/// Ours, one by one and in requests, and the map's, by number of threads.
pub(crate) fn sides(size: Size) -> io::Result<Vec<Side>> {
    let keys: Arc<[Key]> = keys(HOT)?.into();
    let mut sides = Vec::new();
    for threads in THREADS {
        sides.push(of_store(threads, Arc::clone(&keys), size)?);
        for adds in ADDS_A_REQUEST {
            sides.push(of_requests(threads, adds, Arc::clone(&keys), size)?);
        }
        sides.push(of_map(threads, Arc::clone(&keys), size));
    }
    Ok(sides)
}

fn of_store(threads: usize, keys: Arc<[Key]>, size: Size) -> io::Result<Side> {
    let scratch = edge::open(edge::cores()?)?;
    let mut all = 0;
    Ok(Side(Box::new(move || {
        let store = scratch.store();
        let failures = Failures::default();
        let (rate, added) = timed(threads, size, |time, begin| {
            let window = Window::new(FLYING_MAX);
            let count = repeat(time, begin, &keys, |key| {
                add(store, key, &window, &failures);
            });
            window.drain();
            count
        });
        failures.check()?;
        all += added;
        if sum(store, &keys)? != i128::from(all) {
            return Err(io::Error::other("the counters do not add up"));
        }
        Ok(vec![(format!("adds, {threads} threads"), rate)])
    })))
}

fn of_requests(threads: usize, adds: usize, keys: Arc<[Key]>, size: Size) -> io::Result<Side> {
    let scratch = edge::open(edge::cores()?)?;
    let mut all = 0;
    Ok(Side(Box::new(move || {
        let failures = Failures::default();
        let (rate, added) = timed(threads, size, |time, begin| {
            let window = Window::new(REQUESTS_MAX);
            let mut adding = Adding::begin(&scratch);
            let count = repeat(time, begin, &keys, |key| {
                if adding.count == adds {
                    let full = std::mem::replace(&mut adding, Adding::begin(&scratch));
                    full.commit(&window, &failures);
                }
                adding.add(key, &failures);
            });
            adding.commit(&window, &failures);
            window.drain();
            count
        });
        failures.check()?;
        all += added;
        if sum(scratch.store(), &keys)? != i128::from(all) {
            return Err(io::Error::other("the counters do not add up"));
        }
        Ok(vec![(
            format!("adds in requests of {adds}, {threads} threads"),
            rate,
        )])
    })))
}

/// A request that adds.
struct Adding {
    request: Arc<Request>,
    view: View,
    count: usize,
}

impl Adding {
    fn begin(scratch: &Scratch) -> Adding {
        let request = Request::begin(0, scratch.shared());
        let view = request.view(Vec::new(), 0);
        Adding {
            request,
            view,
            count: 0,
        }
    }

    fn add(&mut self, key: &Key, failures: &Failures) {
        failures.note(self.view.write(key, &Op::CounterAdd(1)));
        self.count += 1;
    }

    fn commit(self, window: &Arc<Window>, failures: &Failures) {
        window.enter();
        let (window, failures) = (Arc::clone(window), failures.clone());
        let done = move |done| {
            failures.note(done);
            window.leave();
        };
        let buffers = [self.view.finish()];
        let outgoing = Outgoing::default();
        self.request
            .commit(&buffers, Durability::Memory, outgoing, Box::new(done));
    }
}

fn of_map(threads: usize, keys: Arc<[Key]>, size: Size) -> Side {
    let map: DashMap<Key, i64> = DashMap::new();
    Side(Box::new(move || {
        let (rate, _) = timed(threads, size, |time, begin| {
            repeat(time, begin, &keys, |key| {
                *map.entry(key.clone()).or_default() += 1;
            })
        });
        Ok(vec![(format!("DashMap adds, {threads} threads"), rate)])
    }))
}

/// The one place that says how a program adds to a counter.
fn add(store: &Embedded, key: &Key, window: &Arc<Window>, failures: &Failures) {
    window.enter();
    let (window, failures) = (Arc::clone(window), failures.clone());
    let update = Update {
        key: key.clone(),
        durability: Durability::Memory,
        decide: Box::new(|seen, at, dots| Cell::delta(seen, &Op::CounterAdd(1), at, dots).ok()),
    };
    let done = move |done| {
        failures.note(done);
        window.leave();
    };
    store.update(update, Box::new(done));
}

/// Additions a second by so many threads, and how many there were.
fn timed(threads: usize, size: Size, work: impl Fn(Duration, usize) -> u64 + Sync) -> (f64, u64) {
    let time = Duration::from_millis(size.round_ms);
    let begun = edge::now();
    let added: u64 = edge::on_threads(threads, |number| work(time, number))
        .into_iter()
        .sum();
    (added as f64 / begun.elapsed().as_secs_f64(), added)
}

/// Goes round the keys for a time, each thread from another one on.
fn repeat(time: Duration, from: usize, keys: &[Key], mut act: impl FnMut(&Key)) -> u64 {
    let mut count = 0;
    let mut next = keys.iter().cycle().skip(from * 5);
    let begun = edge::now();
    while begun.elapsed() < time {
        for key in next.by_ref().take(64) {
            act(key);
            count += 1;
        }
    }
    count
}

/// What all counters hold together.
fn sum(store: &Embedded, keys: &[Key]) -> io::Result<i128> {
    let snapshot = store.snapshot();
    let mut all = 0;
    for key in keys {
        let cell = store.read_at(key, &snapshot).map_err(io::Error::other)?;
        if let Some(Value::Counter(counter)) = cell.as_ref().and_then(|c| c.view(snapshot.time())) {
            all += counter.value();
        }
    }
    Ok(all)
}
