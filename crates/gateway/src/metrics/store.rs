//! The store's numbers as metrics: of the whole, of each shard, of each tier.
//!
//! No metric has a key's name in a label, since there is no end to them: `GET /v1/node/store`
//! names the hot ones.

use super::{Family, Number, Shape};
use tidemill_store::histogram::Distribution;
use tidemill_store::observed::{HotList, ShardStats, TierStats};
use tidemill_store::{Observed, Stats};

/// Histograms have a bucket for each fourth power of two: 1 µs to 17 s.
const LATENCY_BOUNDS: u32 = 13;

/// The store as a whole.
pub(super) fn families(stats: &Stats) -> Vec<Family> {
    let gauge = |name, help, value| Family::single(name, help, Shape::Gauge, Number::Whole(value));
    let counter =
        |name, help, value| Family::single(name, help, Shape::Counter, Number::Whole(value));
    vec![
        gauge("tidemill_store_keys", "Keys in memory.", stats.keys),
        gauge(
            "tidemill_store_bytes",
            "Bytes of keys in memory.",
            stats.bytes,
        ),
        gauge(
            "tidemill_store_log_bytes",
            "Bytes of log above the last checkpoint.",
            stats.log_bytes,
        ),
        gauge(
            "tidemill_store_oldest_pin_microseconds",
            "Age of the oldest snapshot in use.",
            stats.oldest_pin_us,
        ),
        gauge(
            "tidemill_store_messages_pending",
            "Messages sent and not consumed.",
            stats.messages_pending,
        ),
        gauge(
            "tidemill_store_read_only",
            "Whether a failed write has ended writing until a restart.",
            u64::from(stats.read_only),
        ),
        gauge(
            "tidemill_store_requests",
            "Requests recorded, about.",
            stats.requests,
        ),
        counter(
            "tidemill_store_requests_repeated",
            "Retries answered by what was recorded.",
            stats.requests_repeated,
        ),
        counter(
            "tidemill_store_requests_swept",
            "Recorded results that expired, and ids that were forgotten.",
            stats.requests_swept,
        ),
        counter("tidemill_store_commits", "Commits logged.", stats.commits),
        counter(
            "tidemill_store_flushes",
            "Groups of commits logged together.",
            stats.flushes,
        ),
        counter(
            "tidemill_store_syncs",
            "Groups that waited for the disk.",
            stats.syncs,
        ),
        counter(
            "tidemill_store_checkpoints",
            "Checkpoints completed.",
            stats.checkpoints,
        ),
        counter(
            "tidemill_store_conflicts_dropped",
            "Deltas dropped because another type won the key.",
            stats.conflicts_dropped,
        ),
    ]
}

/// The shards and the tiers.
pub(super) fn inside(observed: &Observed) -> Vec<Family> {
    let mut families = of_shards(&observed.shards);
    families.extend(of_tiers(&observed.tiers));
    families
}

fn of_shards(shards: &[ShardStats]) -> Vec<Family> {
    let each = |name, help, shape, of: fn(&ShardStats) -> Number| {
        let mut family = Family::new(name, help, shape);
        for shard in shards {
            family.add(&[("shard", &shard.index.to_string())], of(shard));
        }
        family
    };
    let gauge = |name, help, of| each(name, help, Shape::Gauge, of);
    let counter = |name, help, of| each(name, help, Shape::Counter, of);
    vec![
        gauge("tidemill_store_shard_keys", "Keys in memory.", |shard| {
            Number::Whole(shard.keys)
        }),
        gauge(
            "tidemill_store_shard_memory_bytes",
            "Bytes of keys in memory.",
            |shard| Number::Whole(shard.memory_bytes),
        ),
        gauge(
            "tidemill_store_shard_dirty_keys",
            "Keys whose newest value only memory and the log have.",
            |shard| Number::Whole(shard.dirty_keys),
        ),
        gauge(
            "tidemill_store_shard_queue_depth",
            "Commits and updates that wait for the shard.",
            |shard| Number::Whole(shard.queue_depth),
        ),
        gauge(
            "tidemill_store_shard_hottest_key_operations_per_second",
            "Operations a second on the key used most.",
            |shard| Number::Real(hottest(&shard.hot)),
        ),
        counter(
            "tidemill_store_shard_batches",
            "Batches of commits and updates taken.",
            |shard| Number::Whole(shard.batches),
        ),
        counter(
            "tidemill_store_shard_reads",
            "Keys looked up, scans left out.",
            |shard| Number::Whole(shard.reads),
        ),
        counter(
            "tidemill_store_shard_cold_reads",
            "Look-ups that went to the disk tier.",
            |shard| Number::Whole(shard.cold_reads),
        ),
        counter("tidemill_store_shard_writes", "Keys written.", |shard| {
            Number::Whole(shard.writes)
        }),
        counter(
            "tidemill_store_shard_evictions",
            "Clean keys that left memory.",
            |shard| Number::Whole(shard.evictions),
        ),
        each(
            "tidemill_store_shard_write_seconds",
            "Time from handing in a commit or update to its answer.",
            Shape::Histogram,
            |shard| histogram(&shard.write_latency_us),
        ),
        each(
            "tidemill_store_shard_cold_read_seconds",
            "Time of look-ups in the disk tier.",
            Shape::Histogram,
            |shard| histogram(&shard.cold_read_latency_us),
        ),
    ]
}

fn hottest(hot: &HotList) -> f64 {
    let first = hot.keys.first();
    first.map_or(0.0, |key| hot.rate(key.operations))
}

fn histogram(latency_us: &Distribution) -> Number {
    let mut below = 0;
    let bounds = (0..LATENCY_BOUNDS).map(|index| 1_u64 << (2 * index));
    let mut buckets: Vec<(f64, u64)> = bounds
        .map(|bound_us| {
            let at_most = latency_us.at_most(bound_us);
            let count = at_most - below;
            below = at_most;
            (bound_us as f64 / 1e6, count)
        })
        .collect();
    // The encoder adds the buckets up, and writes the greatest float as +Inf.
    buckets.push((f64::MAX, latency_us.count - below));
    Number::Histogram {
        sum: latency_us.sum as f64 / 1e6,
        count: latency_us.count,
        buckets,
    }
}

fn of_tiers(tiers: &TierStats) -> Vec<Family> {
    let gauge = |name, help, value| Family::single(name, help, Shape::Gauge, Number::Whole(value));
    let counter =
        |name, help, value| Family::single(name, help, Shape::Counter, Number::Whole(value));
    let engine = &tiers.engine;
    let mut bytes = Family::new(
        "tidemill_store_tier_bytes",
        "Bytes in each tier; the log is part of the disk.",
        Shape::Gauge,
    );
    for (tier, value) in [
        ("memory", tiers.memory_bytes),
        ("disk", engine.disk_bytes),
        ("log", tiers.log_bytes),
    ] {
        bytes.add(&[("tier", tier)], Number::Whole(value));
    }
    let mut reads = Family::new(
        "tidemill_store_tier_reads",
        "Look-ups by the tier that answered.",
        Shape::Counter,
    );
    for (tier, value) in [("memory", tiers.memory_hits), ("disk", tiers.disk_reads)] {
        reads.add(&[("tier", tier)], Number::Whole(value));
    }
    vec![
        bytes,
        reads,
        gauge(
            "tidemill_store_memory_budget_bytes",
            "Bytes above which clean keys leave memory.",
            tiers.memory_budget_bytes,
        ),
        gauge(
            "tidemill_store_engine_journal_bytes",
            "Bytes of the engine's journals.",
            engine.journal_bytes,
        ),
        gauge(
            "tidemill_store_engine_tables",
            "Table files of the engine.",
            engine.tables,
        ),
        gauge(
            "tidemill_store_engine_buffer_bytes",
            "Bytes of the engine's write buffers.",
            engine.buffer_bytes,
        ),
        gauge(
            "tidemill_store_engine_cache_bytes",
            "Bytes in the engine's cache of blocks.",
            engine.cache_bytes,
        ),
        gauge(
            "tidemill_store_engine_flushes_waiting",
            "Write buffers that wait to be written out.",
            engine.flushes_waiting,
        ),
        gauge(
            "tidemill_store_engine_compactions_running",
            "Compactions that run.",
            engine.compactions_running,
        ),
        counter(
            "tidemill_store_engine_flushes",
            "Write buffers written out as tables.",
            engine.flushes,
        ),
        counter(
            "tidemill_store_engine_compactions",
            "Compactions completed.",
            engine.compactions,
        ),
        Family::single(
            "tidemill_store_engine_compacting_seconds",
            "Time spent in compactions.",
            Shape::Counter,
            Number::Real(engine.compacting_us as f64 / 1e6),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::encoded;
    use super::*;
    use tidemill_lattice::Key;
    use tidemill_store::histogram::Histogram;
    use tidemill_store::hot::HotKey;
    use tidemill_store::observed::EngineStats;

    #[test]
    fn the_store_is_shown() {
        let stats = Stats {
            keys: 5,
            read_only: true,
            ..Stats::default()
        };
        let text = encoded(families(&stats));
        for expected in [
            "tidemill_store_keys 5",
            "tidemill_store_read_only 1",
            "# TYPE tidemill_store_commits counter",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected}: {text}"
            );
        }
    }

    #[test]
    fn shards_and_tiers_are_shown() {
        let latency = Histogram::default();
        for micros in [1, 5, 100, u64::MAX / 2] {
            latency.record(micros);
        }
        let key = Key::new("default", "a", "secret").expect("a key");
        let shard = ShardStats {
            index: 1,
            queue_depth: 3,
            reads: 10,
            cold_reads: 4,
            write_latency_us: latency.read(),
            hot: HotList {
                window_us: 2_000_000,
                keys: vec![HotKey {
                    key,
                    operations: 9,
                    error: 0,
                }],
            },
            ..ShardStats::default()
        };
        let engine = EngineStats {
            compactions: 7,
            compacting_us: 1_500_000,
            ..EngineStats::default()
        };
        let text = encoded(inside(&Observed::new(vec![shard], engine, 11, 0)));
        for expected in [
            "tidemill_store_shard_queue_depth{shard=\"1\"} 3",
            "tidemill_store_shard_hottest_key_operations_per_second{shard=\"1\"} 4.5",
            "tidemill_store_shard_write_seconds_count{shard=\"1\"} 4",
            "tidemill_store_shard_write_seconds_bucket{le=\"0.000001\",shard=\"1\"} 1",
            "tidemill_store_shard_write_seconds_bucket{le=\"0.000016\",shard=\"1\"} 2",
            "tidemill_store_shard_write_seconds_bucket{le=\"16.777216\",shard=\"1\"} 3",
            "tidemill_store_shard_write_seconds_bucket{le=\"+Inf\",shard=\"1\"} 4",
            "tidemill_store_tier_reads_total{tier=\"memory\"} 6",
            "tidemill_store_tier_bytes{tier=\"log\"} 11",
            "tidemill_store_engine_compactions_total 7",
            "tidemill_store_engine_compacting_seconds_total 1.5",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected}: {text}"
            );
        }
        assert!(!text.contains("secret"), "{text}");
        let none = encoded(inside(&Observed::default()));
        assert!(!none.contains("shard"), "{none}");
    }
}
