//! Snapshots under concurrent commits: no reader sees a part of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tidemill_lattice::{Clock, Op, Time};
use tidemill_store::{Embedded, Options, Store};

use crate::support::*;

/// Rises with every look, so that checkpoints and hybrid times move.
#[derive(Default)]
struct TickingClock(AtomicU64);

impl Clock for TickingClock {
    fn now_micros(&self) -> u64 {
        1_700_000_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[test]
fn no_snapshot_splits_a_commit() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        memory_bytes: 2_000,
        checkpoint_bytes: 4_000,
        ..options(directory.path())
    };
    let store: Arc<dyn Store> =
        Arc::new(Embedded::open(options, Arc::new(TickingClock::default())).expect("opens"));
    let names: Vec<String> = (0..8).map(|i| format!("k/{i}")).collect();
    let stop = AtomicBool::new(false);
    let rounds = 300;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let ops: Vec<_> = names.iter().map(|name| add(name, 1)).collect();
                        write(&*store, &ops);
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let at = store.snapshot();
                    let seen: Vec<i64> = names
                        .iter()
                        .map(|name| number(&*store, name, &at))
                        .collect();
                    assert!(
                        seen.iter().all(|n| *n == seen[0]),
                        "a commit is split: {seen:?}"
                    );
                    assert!(seen[0] >= last, "time goes back: {} after {last}", seen[0]);
                    last = seen[0];
                    let page = store.scan(&prefix("k/"), None, 100, &at).expect("scans");
                    let scanned: Vec<i64> = page
                        .entries
                        .iter()
                        .map(|(_, cell)| show(cell, &at).expect("visible").parse().expect("number"))
                        .collect();
                    let expected = if last == 0 { Vec::new() } else { seen };
                    assert_eq!(
                        scanned, expected,
                        "a scan differs from reads of its snapshot"
                    );
                }
            });
        }
        let outcomes: Vec<_> = writers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    let at = store.snapshot();
    assert_eq!(number(&*store, "k/0", &at), 3 * rounds);
    let stats = store.stats();
    assert_eq!(stats.commits, 3 * rounds as u64);
    assert_eq!(stats.commits_per_flush.iter().sum::<u64>(), stats.flushes);
    assert!(
        stats.checkpoints > 0,
        "the test means to run across checkpoints"
    );
}

#[test]
fn a_key_expires_though_nobody_commits() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = ManualClock::new();
    let store = Embedded::open(options(directory.path()), Arc::clone(&clock) as _)
        .expect("the store opens");
    let end = Time::from_micros(clock.now_micros() + 1_000);
    write(&store, &[set("a", "1")]);
    write(&store, &[(key("a"), Op::Expire(Some(end)))]);
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    let before = store.snapshot();
    clock.move_us(2_000);
    let (_silent, silence) = mpsc::channel::<()>();
    let gone = (0..400).any(|_| {
        let _ = silence.recv_timeout(Duration::from_millis(50));
        get(&store, "a").is_none()
    });
    assert!(gone, "it is still there");
    let cell = store.read_at(&key("a"), &before).expect("readable");
    assert!(cell.is_some_and(|cell| cell.view(before.time()).is_some()));
}
