//! A wall clock that is set back: times go on rising, so nothing written later is older.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_lattice::Clock;
use tidemill_store::{Disk, Embedded, Options, Step, Store};

use crate::support::*;

const HOUR_US: u64 = 3_600_000_000;

/// A clock that is set.
struct SetClock(AtomicU64);

impl SetClock {
    fn new() -> Arc<SetClock> {
        Arc::new(SetClock(AtomicU64::new(1_700_000_000_000_000)))
    }

    fn set_back_us(&self, micros: u64) {
        self.0.fetch_sub(micros, Ordering::SeqCst);
    }

    fn move_us(&self, micros: u64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now_micros(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn times_rise_while_the_clock_is_set_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = SetClock::new();
    let store = Embedded::open(options(directory.path()), Arc::clone(&clock) as _);
    let store = store.expect("the store opens");
    let mut last = write(&store, &[set("a", "before"), add("n", 1)]).time;
    let pinned = store.snapshot();
    clock.set_back_us(HOUR_US);
    for round in 2..20 {
        let body = round.to_string();
        let committed = write(&store, &[set("a", &body), add("n", 1)]);
        assert!(committed.time > last, "{:?} after {last:?}", committed.time);
        last = committed.time;
        let seen = store.snapshot();
        assert!(seen.time() >= last, "a snapshot from before the write");
        assert_eq!(get_at(&store, "a", &seen), Some(body.clone()));
        assert_eq!(get_at(&store, "n", &seen), Some(body));
    }
    assert_eq!(get_at(&store, "a", &pinned).as_deref(), Some("before"));
    // The clock catches up, and passes: still in order.
    clock.move_us(2 * HOUR_US);
    assert!(write(&store, &[delete("a")]).time > last);
    assert_eq!(get(&store, "a"), None);
}

#[test]
fn a_store_that_opens_under_an_earlier_clock_writes_above_what_it_holds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for is_checkpointed in [false, true] {
        let clock = SetClock::new();
        let open = || {
            let opened = Embedded::open(options(directory.path()), Arc::clone(&clock) as _);
            opened.expect("the store opens")
        };
        let store = open();
        let last = write(&store, &[set("a", "before"), set("b", "before")]).time;
        if is_checkpointed {
            store.checkpoint().expect("a checkpoint");
        }
        drop(store);
        clock.set_back_us(HOUR_US);
        let store = open();
        assert_eq!(get(&store, "a").as_deref(), Some("before"));
        assert!(store.snapshot().time() >= last);
        assert!(write(&store, &[set("a", "after")]).time > last);
        write(&store, &[delete("b")]);
        drop(store);
        let store = open();
        assert_eq!(get(&store, "a").as_deref(), Some("after"));
        assert_eq!(get(&store, "b"), None);
        write(&store, &[set("b", "anew")]);
        assert_eq!(get(&store, "b").as_deref(), Some("anew"));
    }
}

/// A disk on which a checkpoint ends after its first part.
#[derive(Debug, Default)]
struct CutShort(AtomicU64);

impl Disk for CutShort {
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let is_cut = step == Step::BeforeCheckpoint && self.0.fetch_add(1, Ordering::SeqCst) > 0;
        if is_cut {
            return Err(io::Error::other("the checkpoint is cut short"));
        }
        Ok(())
    }
}

#[test]
fn what_is_written_after_half_a_checkpoint_and_a_clock_set_back_is_not_lost() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = SetClock::new();
    let open = |options: Options| {
        Embedded::open(options, Arc::clone(&clock) as _).expect("the store opens")
    };
    let store = open(Options {
        disk: Arc::new(CutShort::default()),
        ..options(directory.path())
    });
    write(&store, &[set("a", "before"), add("n", 1)]);
    // Nothing is written for a while, and what is stored is complete through its end.
    clock.move_us(HOUR_US);
    let last = store.snapshot().time();
    assert!(store.checkpoint().is_err());
    drop(store);
    clock.set_back_us(HOUR_US / 2);
    let store = open(options(directory.path()));
    assert_eq!(get(&store, "a").as_deref(), Some("before"));
    assert!(write(&store, &[set("a", "after"), add("n", 1)]).time > last);
    let check = |store: &Embedded| {
        assert_eq!(get(store, "a").as_deref(), Some("after"));
        assert_eq!(get(store, "n").as_deref(), Some("2"));
    };
    check(&store);
    drop(store);
    check(&open(options(directory.path())));
}
