//! Reads of one hot key while another thread writes it, beside a `DashMap`'s `get` of the same
//! value, written at the same pace.
//!
//! A median is of batches, whose length the clock does not lengthen; a 99th percentile is of
//! single reads, clock included.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tidemill_lattice::{Cell, Key, Op, Payload, Time};
use tidemill_store::Store;

use crate::Size;
use crate::drive::{keys, write};
use crate::edge::{self, Scratch};
use crate::failures::Failures;
use crate::side::Side;
use crate::window::Window;

const BATCH: usize = 32;
/// The writer's pace: so many writes, then a pause.
const BURST: usize = 8;
const PAUSE: Duration = Duration::from_micros(100);
const FLYING_MAX: usize = 64;

/// Reads at a snapshot each, reads that share one, and the map.
pub(crate) fn sides(size: Size) -> io::Result<Vec<Side>> {
    let scratch = Arc::new(edge::open(1)?);
    let key = keys(1)?.pop().ok_or_else(|| io::Error::other("no key"))?;
    let value = Op::RegisterSet(Payload::bytes(vec![b'v'; 64]));
    let cell = Cell::delta(None, &value, Time::ZERO, &mut edge::provisional());
    let cell = cell.map_err(io::Error::other)?;
    Ok(vec![
        of_store("read at a new snapshot", 1, &scratch, &key, &value, size),
        of_store(
            "read at a shared snapshot",
            BATCH,
            &scratch,
            &key,
            &value,
            size,
        ),
        of_map(&key, &Arc::new(cell), size),
    ])
}

fn of_store(
    name: &'static str,
    reads_a_snapshot: usize,
    scratch: &Arc<Scratch>,
    key: &Key,
    value: &Op,
    size: Size,
) -> Side {
    let (scratch, key, value) = (Arc::clone(scratch), key.clone(), value.clone());
    Side(Box::new(move || {
        let store = scratch.store();
        let failures = Failures::default();
        let window = Window::new(1);
        write(store, &key, &value, &window, &failures);
        window.drain();
        let write_all = |stop: &AtomicBool| {
            let window = Window::new(FLYING_MAX);
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..BURST {
                    write(store, &key, &value, &window, &failures);
                }
                edge::pause(PAUSE);
            }
            window.drain();
        };
        let mut snapshot = store.snapshot();
        let mut left = 0;
        let read = || {
            if left == 0 {
                snapshot = store.snapshot();
                left = reads_a_snapshot;
            }
            left -= 1;
            let found = store.read_at(&key, &snapshot);
            let is_there = matches!(&found, Ok(Some(_)));
            if !is_there {
                failures.note(Err::<(), _>("a key that was written is not there"));
            }
            std::hint::black_box(found).is_ok() && is_there
        };
        let found = beside_writer(name, size, read, write_all);
        failures.check()?;
        Ok(found)
    }))
}

fn of_map(key: &Key, cell: &Arc<Cell>, size: Size) -> Side {
    let map = DashMap::new();
    map.insert(key.clone(), Arc::clone(cell));
    let (key, cell) = (key.clone(), Arc::clone(cell));
    Side(Box::new(move || {
        let write_all = |stop: &AtomicBool| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..BURST {
                    map.insert(key.clone(), Arc::new(Cell::clone(&cell)));
                }
                edge::pause(PAUSE);
            }
        };
        let read = || {
            let found = map.get(&key).map(|found| Arc::clone(&found));
            std::hint::black_box(found).is_some()
        };
        Ok(beside_writer("DashMap get", size, read, write_all))
    }))
}

/// Times `read` on this thread while `write_all` runs on another.
fn beside_writer(
    name: &str,
    size: Size,
    mut read: impl FnMut() -> bool + Send,
    write_all: impl Fn(&AtomicBool) + Sync,
) -> Vec<(String, f64)> {
    let time = Duration::from_millis(size.round_ms);
    let stop = AtomicBool::new(false);
    let times = parking_lot::Mutex::new((Vec::new(), Vec::new()));
    let reader = parking_lot::Mutex::new(move || {
        let (mut batches, mut singles) = (Vec::new(), Vec::new());
        let begun = edge::now();
        while begun.elapsed() < time {
            let batch = edge::now();
            for _ in 0..BATCH {
                read();
            }
            batches.push(batch.elapsed().as_nanos() as f64 / BATCH as f64);
            for _ in 0..BATCH {
                let single = edge::now();
                read();
                singles.push(single.elapsed().as_nanos() as f64);
            }
        }
        (batches, singles)
    });
    edge::on_threads(2, |number| {
        if number == 0 {
            *times.lock() = (reader.lock())();
            stop.store(true, Ordering::Relaxed);
        } else {
            write_all(&stop);
        }
    });
    let (batches, singles) = times.into_inner();
    vec![
        (format!("{name}, p50"), percentile(batches, 50)),
        (format!("{name}, p99"), percentile(singles, 99)),
    ]
}

fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = values.len().saturating_sub(1) * percent / 100;
    values.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_of_the_ordered_values() {
        let values = (0..=100).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(percentile(values.clone(), 50), 50.0);
        assert_eq!(percentile(values, 99), 99.0);
        assert_eq!(percentile(vec![3.0], 99), 3.0);
    }
}
