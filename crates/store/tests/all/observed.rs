//! What a store on a disk shows of its inside.

use tempfile::tempdir;
use tidemill_store::Store;

use crate::support::{get, open, set, write, write_durable};

#[test]
fn reads_are_told_apart_by_tier() {
    let directory = tempdir().expect("a directory");
    let store = open(directory.path());
    for name in ["a", "b", "c"] {
        write_durable(&store, &[set(name, "x")]);
    }
    let observed = store.observe();
    let writes: u64 = observed.shards.iter().map(|shard| shard.writes).sum();
    let dirty: u64 = observed.shards.iter().map(|shard| shard.dirty_keys).sum();
    let waiting: u64 = observed.shards.iter().map(|shard| shard.queue_depth).sum();
    assert_eq!((writes, dirty, waiting), (3, 3, 0));
    let answered = observed.shards.iter();
    let answered: u64 = answered.map(|shard| shard.write_latency_us.count).sum();
    assert_eq!(answered, 3);
    assert!(observed.tiers.log_bytes > 0);
    store.checkpoint().expect("a checkpoint");
    let dirty = |store: &dyn Store| -> u64 {
        let shards = store.observe().shards;
        shards.iter().map(|shard| shard.dirty_keys).sum()
    };
    assert_eq!(dirty(&store), 0);
    drop(store);
    let store = open(directory.path());
    assert_eq!(get(&store, "a").as_deref(), Some("x"));
    // What a reader had to load is kept by its shard, which is another thread.
    while store.observe().tiers.memory_keys == 0 {
        std::thread::yield_now();
    }
    assert_eq!(get(&store, "a").as_deref(), Some("x"));
    let tiers = store.observe().tiers;
    assert_eq!((tiers.memory_keys, tiers.memory_hits), (1, 1));
    assert_eq!((tiers.disk_reads, tiers.disk_read_latency_us.count), (1, 1));
    assert!(tiers.engine.disk_bytes >= tiers.engine.journal_bytes);
    assert!(tiers.engine.journal_bytes > 0);
}

#[test]
fn the_engines_flushes_are_counted() {
    let directory = tempdir().expect("a directory");
    let store = open(directory.path());
    assert_eq!(store.observe().tiers.engine.flushes, 0);
    let body = "x".repeat(256 * 1024);
    // A write buffer holds some thirty of these; the engine writes it out beside the commits.
    let flushed = (0..1_000).any(|number| {
        write(&store, &[set(&format!("k{number}"), &body)]);
        store.observe().tiers.engine.flushes > 0
    });
    assert!(flushed);
    let engine = store.observe().tiers.engine;
    assert!(engine.tables > 0, "{engine:?}");
}

#[test]
fn a_store_that_rests_gives_back_what_its_log_took() {
    let directory = tempdir().expect("a directory");
    let store = open(directory.path());
    let body = "x".repeat(256 * 1024);
    for _ in 0..48 {
        write(&store, &[set("k", &body)]);
    }
    store.checkpoint().expect("a checkpoint");
    // The engine writes a buffer out beside everything else.
    let is_given_back = (0..1_000_000).any(|_| {
        std::thread::yield_now();
        store.observe().tiers.engine.buffer_bytes < 4 * 1024 * 1024
    });
    assert!(is_given_back, "{:?}", store.observe().tiers.engine);
    assert_eq!(get(&store, "k").as_deref(), Some(&*body));
}
