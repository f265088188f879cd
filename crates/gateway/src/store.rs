//! `/v1/node/store`: the inside of the store, for `tidemill top` and whoever looks.

use crate::requests::json_response;
use crate::routes::Context;
use axum::response::Response;
use serde_json::{Value as Json, json};
use tidemill_lattice::Time;
use tidemill_problem::Problem;
use tidemill_store::histogram::Distribution;
use tidemill_store::observed::{HotRate, ShardStats, TierStats};
use tidemill_store::{Observed, Stats};

/// Hot keys shown.
const HOT_SHOWN: usize = 32;

/// `GET /v1/node/store`
pub(crate) fn show(context: &Context<'_>) -> Result<Response, Problem> {
    let state = context.state;
    let stats = state.runtime.gauges().store;
    let observed = state.runtime.observe();
    let now_us = state.clock.now_micros();
    let uptime_us = now_us.saturating_sub(state.node.started_us);
    json_response(&document(&observed, &stats, now_us, uptime_us))
}

fn document(observed: &Observed, stats: &Stats, now_us: u64, uptime_us: u64) -> Json {
    let shards: Vec<Json> = observed.shards.iter().map(of_shard).collect();
    let hot: Vec<Json> = observed.hottest(HOT_SHOWN).iter().map(of_hot).collect();
    json!({
        "uptime_ms": uptime_us / 1000,
        "shards": shards,
        "memory": of_memory(&observed.tiers),
        "disk": of_disk(&observed.tiers),
        "log": of_log(&observed.tiers, stats, now_us),
        "hot": hot,
    })
}

fn of_shard(shard: &ShardStats) -> Json {
    json!({
        "shard": shard.index,
        "keys": shard.keys,
        "memory_bytes": shard.memory_bytes,
        "dirty_keys": shard.dirty_keys,
        "queue_depth": shard.queue_depth,
        "batches": shard.batches,
        "reads": shard.reads,
        "cold_reads": shard.cold_reads,
        "writes": shard.writes,
        "evictions": shard.evictions,
        "write_latency_us": of_distribution(&shard.write_latency_us),
    })
}

fn of_memory(tiers: &TierStats) -> Json {
    json!({
        "keys": tiers.memory_keys,
        "bytes": tiers.memory_bytes,
        "budget_bytes": tiers.memory_budget_bytes,
        "hits": tiers.memory_hits,
        "evictions": tiers.evictions,
    })
}

fn of_disk(tiers: &TierStats) -> Json {
    let engine = &tiers.engine;
    json!({
        "bytes": engine.disk_bytes,
        "journal_bytes": engine.journal_bytes,
        "tables": engine.tables,
        "reads": tiers.disk_reads,
        "read_latency_us": of_distribution(&tiers.disk_read_latency_us),
        "flushes": engine.flushes,
        "flushes_waiting": engine.flushes_waiting,
        "compactions": engine.compactions,
        "compactions_running": engine.compactions_running,
        "compacting_us": engine.compacting_us,
        "buffer_bytes": engine.buffer_bytes,
        "cache_bytes": engine.cache_bytes,
    })
}

fn of_log(tiers: &TierStats, stats: &Stats, now_us: u64) -> Json {
    let age_us = now_us.saturating_sub(stats.checkpoint.micros());
    let has_checkpoint = stats.checkpoint > Time::from_micros(0);
    json!({
        "bytes": tiers.log_bytes,
        "commits": stats.commits,
        "groups": stats.flushes,
        "syncs": stats.syncs,
        "checkpoints": stats.checkpoints,
        "checkpoint_age_ms": has_checkpoint.then_some(age_us / 1000),
        "read_only": stats.read_only,
    })
}

fn of_distribution(distribution: &Distribution) -> Json {
    let quantiles = distribution.quantiles();
    json!({
        "count": quantiles.count,
        "sum": distribution.sum,
        "p50": quantiles.p50,
        "p99": quantiles.p99,
        "p999": quantiles.p999,
        "max": quantiles.max,
        "buckets": distribution.buckets,
    })
}

fn of_hot(hot: &HotRate<'_>) -> Json {
    let key = &hot.hot.key;
    json!({
        "tenant": key.tenant(),
        "app": key.app(),
        "key": key.name_lossy(),
        "shard": hot.shard,
        "per_second": rounded(hot.per_second),
        "error_per_second": rounded(hot.error_per_second),
    })
}

/// To a tenth: more would only look exact.
fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_lattice::Key;
    use tidemill_store::histogram::Histogram;
    use tidemill_store::hot::HotKey;
    use tidemill_store::observed::{EngineStats, HotList};

    #[test]
    fn the_document_has_shards_tiers_and_hot_keys() {
        let latency = Histogram::default();
        latency.record(100);
        let shard = ShardStats {
            keys: 2,
            queue_depth: 5,
            reads: 9,
            write_latency_us: latency.read(),
            hot: HotList {
                window_us: 3_000_000,
                keys: vec![HotKey {
                    key: Key::new("default", "shop", b"a\xff").expect("a key"),
                    operations: 10,
                    error: 1,
                }],
            },
            ..ShardStats::default()
        };
        let engine = EngineStats {
            disk_bytes: 1_000,
            ..EngineStats::default()
        };
        let observed = Observed::new(vec![shard], engine, 70, 0);
        let mut stats = Stats::default();
        let shown = document(&observed, &stats, 5_000_000, 1_500_000);
        assert_eq!(shown["uptime_ms"], 1_500);
        assert_eq!(shown["shards"][0]["queue_depth"], 5);
        let latency = &shown["shards"][0]["write_latency_us"];
        assert_eq!(latency["p99"], 100);
        assert_eq!(latency["buckets"], json!([[100, 1]]));
        assert_eq!(shown["memory"]["hits"], 9);
        assert_eq!(shown["disk"]["bytes"], 1_000);
        assert_eq!(shown["log"]["bytes"], 70);
        assert_eq!(shown["log"]["checkpoint_age_ms"], Json::Null);
        let hot = json!([{
            "tenant": "default", "app": "shop", "key": "a\u{fffd}", "shard": 0,
            "per_second": 3.3, "error_per_second": 0.3,
        }]);
        assert_eq!(shown["hot"], hot);
        stats.checkpoint = Time::from_micros(2_000_000);
        let shown = document(&observed, &stats, 5_000_000, 0);
        assert_eq!(shown["log"]["checkpoint_age_ms"], 3_000);
    }
}
