//! What `tidemill top` shows, made from what a node told at two moments. Pure.

use serde::{Deserialize, Serialize};
use tidemill_store::histogram::Distribution;

/// What a node told at one moment: `/v1/node` and `/v1/node/store`. What a node of another
/// version does not tell is zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) node: Node,
    pub(super) store: Store,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) version: String,
    pub(super) uptime_ms: u64,
    pub(super) requests: Requests,
    pub(super) answers: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Requests {
    pub(super) running: u64,
    pub(super) waiting: u64,
    pub(super) ended: u64,
    pub(super) failed: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Store {
    pub(super) uptime_ms: u64,
    pub(super) shards: Vec<Shard>,
    pub(super) memory: Memory,
    pub(super) disk: Disk,
    pub(super) log: Log,
    pub(super) hot: Vec<Hot>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shard {
    pub(super) shard: u64,
    pub(super) keys: u64,
    pub(super) memory_bytes: u64,
    pub(super) dirty_keys: u64,
    pub(super) queue_depth: u64,
    pub(super) reads: u64,
    pub(super) cold_reads: u64,
    pub(super) writes: u64,
    pub(super) write_latency_us: Latency,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) budget_bytes: u64,
    pub(super) hits: u64,
    pub(super) evictions: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Disk {
    pub(super) bytes: u64,
    pub(super) tables: u64,
    pub(super) reads: u64,
    pub(super) read_latency_us: Latency,
    pub(super) flushes: u64,
    pub(super) flushes_waiting: u64,
    pub(super) compactions: u64,
    pub(super) compactions_running: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Log {
    pub(super) bytes: u64,
    pub(super) commits: u64,
    pub(super) groups: u64,
    pub(super) syncs: u64,
    pub(super) checkpoints: u64,
    pub(super) checkpoint_age_ms: Option<u64>,
    pub(super) read_only: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Latency {
    pub(super) sum: u64,
    pub(super) max: u64,
    pub(super) buckets: Vec<(u64, u64)>,
}

impl Latency {
    fn distribution(&self) -> Distribution {
        Distribution {
            count: self.buckets.iter().map(|(_, count)| count).sum(),
            sum: self.sum,
            max: self.max,
            buckets: self.buckets.clone(),
        }
    }
}

/// A hot key; its rate is the node's own estimate.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Hot {
    pub(super) tenant: String,
    pub(super) app: String,
    pub(super) key: String,
    pub(super) shard: u64,
    pub(super) per_second: f64,
    pub(super) error_per_second: f64,
}

/// One picture of a node. Rates and latencies are of the interval, the rest is of its end.
#[derive(Debug, Serialize)]
pub(super) struct Frame {
    pub(super) version: String,
    pub(super) uptime_ms: u64,
    pub(super) interval_ms: u64,
    pub(super) requests: RequestRates,
    pub(super) answers_per_second: f64,
    pub(super) shards: Vec<ShardRates>,
    pub(super) memory: MemoryRates,
    pub(super) disk: DiskRates,
    pub(super) log: LogRates,
    pub(super) hot: Vec<Hot>,
}

#[derive(Debug, Serialize)]
pub(super) struct RequestRates {
    pub(super) per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) running: u64,
    pub(super) waiting: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct ShardRates {
    pub(super) shard: u64,
    pub(super) queue_depth: u64,
    pub(super) reads_per_second: f64,
    pub(super) cold_reads_per_second: f64,
    pub(super) writes_per_second: f64,
    /// Nothing where nothing was written.
    pub(super) write_p50_us: Option<u64>,
    pub(super) write_p99_us: Option<u64>,
    pub(super) keys: u64,
    pub(super) dirty_keys: u64,
    pub(super) memory_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct MemoryRates {
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) budget_bytes: u64,
    /// The share of look-ups that memory answered; nothing where there were none.
    pub(super) hit_ratio: Option<f64>,
    pub(super) evictions_per_second: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct DiskRates {
    pub(super) bytes: u64,
    pub(super) tables: u64,
    pub(super) reads_per_second: f64,
    pub(super) read_p50_us: Option<u64>,
    pub(super) read_p99_us: Option<u64>,
    pub(super) flushes: u64,
    pub(super) flushes_waiting: u64,
    pub(super) compactions: u64,
    pub(super) compactions_running: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct LogRates {
    pub(super) bytes: u64,
    pub(super) commits_per_second: f64,
    pub(super) syncs_per_second: f64,
    /// How many commits shared a write of the log; nothing where there were none.
    pub(super) commits_per_group: Option<f64>,
    pub(super) checkpoints: u64,
    pub(super) checkpoint_age_ms: Option<u64>,
    pub(super) read_only: bool,
}

/// Counts of an interval as rates.
#[derive(Clone, Copy)]
struct Interval {
    ms: u64,
}

impl Interval {
    fn between(earlier_ms: u64, later_ms: u64) -> Interval {
        Interval {
            ms: later_ms.saturating_sub(earlier_ms).max(1),
        }
    }

    fn rate(self, earlier: u64, later: u64) -> f64 {
        let per_second = later.saturating_sub(earlier) as f64 * 1000.0 / self.ms as f64;
        (per_second * 10.0).round() / 10.0
    }
}

/// What happened between two samples, or since the node's start where there is no earlier one or
/// the node was started anew in between.
pub(super) fn frame(earlier: Option<&Sample>, later: Sample) -> Frame {
    let zero = Sample::default();
    let same_life = |earlier: &&Sample| earlier.node.uptime_ms <= later.node.uptime_ms;
    let earlier = earlier.filter(same_life).unwrap_or(&zero);
    let of_node = Interval::between(earlier.node.uptime_ms, later.node.uptime_ms);
    let of_store = Interval::between(earlier.store.uptime_ms, later.store.uptime_ms);
    let (before, after) = (&earlier.node.requests, &later.node.requests);
    let requests = RequestRates {
        per_second: of_node.rate(before.ended, after.ended),
        failed_per_second: of_node.rate(before.failed, after.failed),
        running: after.running,
        waiting: after.waiting,
    };
    Frame {
        uptime_ms: later.node.uptime_ms,
        interval_ms: of_node.ms,
        requests,
        answers_per_second: of_node.rate(earlier.node.answers, later.node.answers),
        shards: shards(&earlier.store.shards, &later.store.shards, of_store),
        memory: memory(&earlier.store, &later.store, of_store),
        disk: disk(&earlier.store.disk, &later.store.disk, of_store),
        log: log(&earlier.store.log, &later.store.log, of_store),
        version: later.node.version,
        hot: later.store.hot,
    }
}

fn shards(earlier: &[Shard], later: &[Shard], interval: Interval) -> Vec<ShardRates> {
    let unknown = Shard::default();
    let of_shard = |after: &Shard| {
        let before = earlier.iter().find(|before| before.shard == after.shard);
        let before = before.unwrap_or(&unknown);
        let (p50, p99) = quantiles(&before.write_latency_us, &after.write_latency_us);
        ShardRates {
            shard: after.shard,
            queue_depth: after.queue_depth,
            reads_per_second: interval.rate(before.reads, after.reads),
            cold_reads_per_second: interval.rate(before.cold_reads, after.cold_reads),
            writes_per_second: interval.rate(before.writes, after.writes),
            write_p50_us: p50,
            write_p99_us: p99,
            keys: after.keys,
            dirty_keys: after.dirty_keys,
            memory_bytes: after.memory_bytes,
        }
    };
    later.iter().map(of_shard).collect()
}

/// The median and the 99th percentile of what was counted in between.
fn quantiles(earlier: &Latency, later: &Latency) -> (Option<u64>, Option<u64>) {
    let fresh = later.distribution().since(&earlier.distribution());
    let of = |q| (fresh.count > 0).then(|| fresh.quantile(q));
    (of(0.5), of(0.99))
}

fn memory(earlier: &Store, later: &Store, interval: Interval) -> MemoryRates {
    let (before, after) = (&earlier.memory, &later.memory);
    let hits = after.hits.saturating_sub(before.hits);
    let misses = later.disk.reads.saturating_sub(earlier.disk.reads);
    MemoryRates {
        keys: after.keys,
        bytes: after.bytes,
        budget_bytes: after.budget_bytes,
        hit_ratio: ratio(hits, hits + misses),
        evictions_per_second: interval.rate(before.evictions, after.evictions),
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn disk(before: &Disk, after: &Disk, interval: Interval) -> DiskRates {
    let (p50, p99) = quantiles(&before.read_latency_us, &after.read_latency_us);
    DiskRates {
        bytes: after.bytes,
        tables: after.tables,
        reads_per_second: interval.rate(before.reads, after.reads),
        read_p50_us: p50,
        read_p99_us: p99,
        flushes: after.flushes,
        flushes_waiting: after.flushes_waiting,
        compactions: after.compactions,
        compactions_running: after.compactions_running,
    }
}

fn log(before: &Log, after: &Log, interval: Interval) -> LogRates {
    let commits = after.commits.saturating_sub(before.commits);
    let groups = after.groups.saturating_sub(before.groups);
    LogRates {
        bytes: after.bytes,
        commits_per_second: interval.rate(before.commits, after.commits),
        syncs_per_second: interval.rate(before.syncs, after.syncs),
        commits_per_group: ratio(commits, groups),
        checkpoints: after.checkpoints,
        checkpoint_age_ms: after.checkpoint_age_ms,
        read_only: after.read_only,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(uptime_ms: u64, scale: u64) -> Sample {
        let latency = Latency {
            sum: 100 * scale,
            max: 1_000,
            buckets: vec![(16, scale), (1_024, 1)],
        };
        Sample {
            node: Node {
                uptime_ms,
                requests: Requests {
                    running: 2,
                    ended: 10 * scale,
                    failed: scale,
                    ..Requests::default()
                },
                answers: 4 * scale,
                ..Node::default()
            },
            store: Store {
                uptime_ms,
                shards: vec![Shard {
                    shard: 7,
                    queue_depth: 3,
                    reads: 100 * scale,
                    writes: 50 * scale,
                    write_latency_us: latency,
                    ..Shard::default()
                }],
                memory: Memory {
                    hits: 30 * scale,
                    ..Memory::default()
                },
                disk: Disk {
                    reads: 10 * scale,
                    ..Disk::default()
                },
                log: Log {
                    commits: 8 * scale,
                    groups: 2 * scale,
                    ..Log::default()
                },
                hot: Vec::new(),
            },
        }
    }

    #[test]
    fn rates_are_of_the_interval() {
        let frame = frame(Some(&sample(1_000, 1)), sample(3_000, 5));
        assert_eq!((frame.uptime_ms, frame.interval_ms), (3_000, 2_000));
        assert_eq!(frame.requests.per_second, 20.0);
        assert_eq!(frame.requests.failed_per_second, 2.0);
        assert_eq!(frame.requests.running, 2);
        assert_eq!(frame.answers_per_second, 8.0);
        let shard = &frame.shards[0];
        assert_eq!((shard.shard, shard.queue_depth), (7, 3));
        assert_eq!(shard.reads_per_second, 200.0);
        assert_eq!(shard.writes_per_second, 100.0);
        // The slow write came before.
        assert_eq!(
            (shard.write_p50_us, shard.write_p99_us),
            (Some(16), Some(16))
        );
        assert_eq!(frame.memory.hit_ratio, Some(0.75));
        assert_eq!(frame.disk.reads_per_second, 20.0);
        assert_eq!(frame.disk.read_p99_us, None);
        assert_eq!(frame.log.commits_per_group, Some(4.0));
    }

    #[test]
    fn without_an_earlier_sample_rates_are_since_the_start() {
        let first = frame(None, sample(4_000, 2));
        assert_eq!(first.interval_ms, 4_000);
        assert_eq!(first.requests.per_second, 5.0);
        let shard = &first.shards[0];
        assert_eq!(
            (shard.write_p50_us, shard.write_p99_us),
            (Some(16), Some(1_000))
        );
        let restarted = frame(Some(&sample(9_000, 9)), sample(4_000, 2));
        assert_eq!(restarted.requests.per_second, 5.0);
    }

    #[test]
    fn where_nothing_happened_nothing_is_divided() {
        let still = frame(Some(&sample(5_000, 3)), sample(5_000, 3));
        assert_eq!(still.requests.per_second, 0.0);
        assert_eq!(still.shards[0].write_p50_us, None);
        assert_eq!(still.memory.hit_ratio, None);
        assert_eq!(still.log.commits_per_group, None);
    }
}
