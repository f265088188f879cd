//! A store much larger than its memory: everything stays readable, and what is in use stays near.

use tidemill_store::{Embedded, Options, Store};

use crate::support::*;

const KEYS: usize = 4_000;
const HOT: usize = 40;
/// Room for about one key in ten.
const MEMORY_BYTES: u64 = 100_000;

/// A store with a tenth of its keys in memory, all of them on disk.
fn full(directory: &std::path::Path) -> Embedded {
    let options = Options {
        memory_bytes: MEMORY_BYTES,
        shards: 2,
        ..options(directory)
    };
    let store = Embedded::open(options, ManualClock::new()).expect("opens");
    for chunk in 0..KEYS / 100 {
        let ops: Vec<_> = (0..100)
            .map(|n| add(&name(chunk * 100 + n), (chunk * 100 + n) as i64))
            .collect();
        write(&store, &ops);
    }
    store.checkpoint().expect("a checkpoint");
    settle(&store);
    store
}

fn name(number: usize) -> String {
    format!("k/{number:05}")
}

/// Waits until shards have evicted what is above the budget: they do in their own time.
fn settle(store: &Embedded) {
    while store.stats().bytes > 2 * MEMORY_BYTES {
        write(store, &[set("tick", "x")]);
        store.checkpoint().expect("a checkpoint");
    }
}

fn cold_reads(store: &Embedded) -> u64 {
    store.observe().tiers.disk_reads
}

#[test]
fn a_store_ten_times_its_memory_keeps_working() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = full(directory.path());
    let stats = store.stats();
    assert!(stats.keys < KEYS as u64 / 4, "{stats:?}");
    for round in 1..=2 {
        for number in (0..KEYS).step_by(7) {
            write(&store, &[add(&name(number), 1)]);
        }
        let at = store.snapshot();
        for number in 0..KEYS {
            let added = if number % 7 == 0 { round } else { 0 };
            let found = get_at(&store, &name(number), &at);
            assert_eq!(found, Some((number as i64 + added).to_string()), "{number}");
        }
        settle(&store);
    }
    let page = store.scan(&prefix("k/"), None, KEYS + 1, &store.snapshot());
    assert_eq!(page.expect("scans").entries.len(), KEYS);
    assert!(store.observe().tiers.evictions > KEYS as u64);
}

#[test]
fn reading_everything_once_does_not_wash_out_what_is_in_use() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = full(directory.path());
    let hot: Vec<String> = (0..HOT).map(|n| name(n * 97)).collect();
    // In use: read again and again, with others in between.
    for round in 0..20 {
        for name in &hot {
            assert!(get(&store, name).is_some());
        }
        for number in 0..50 {
            get(&store, &name(round * 50 + number));
        }
    }
    let before = cold_reads(&store);
    for number in 0..KEYS {
        get(&store, &name(number));
    }
    let visited = store.apply(&prefix(""), &store.snapshot(), &mut |_, _| {
        std::ops::ControlFlow::Continue(())
    });
    visited.expect("scans");
    assert!(
        cold_reads(&store) - before > KEYS as u64 / 2,
        "most were cold"
    );
    let before = cold_reads(&store);
    for name in &hot {
        assert!(get(&store, name).is_some());
    }
    let cold = cold_reads(&store) - before;
    assert!(
        cold <= HOT as u64 / 4,
        "{cold} of {HOT} had to be read again"
    );
}
