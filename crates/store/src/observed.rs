//! What a store shows of its inside: plain numbers by shard and by tier, for whoever exports
//! them. [`crate::Stats`] has the store as a whole.

use crate::histogram::Distribution;
use crate::hot::{self, HotKey};

/// The inside of a store at about one moment. Counts are since it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Each shard, in order.
    pub shards: Vec<ShardStats>,
    /// The tiers that values live in, over all shards.
    pub tiers: TierStats,
}

/// One shard: the keys that one thread writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardStats {
    /// Its place among the shards.
    pub index: usize,
    /// Keys in memory.
    pub keys: u64,
    /// Approximate bytes of them.
    pub memory_bytes: u64,
    /// Keys whose newest value the disk tier does not have; the log does.
    pub dirty_keys: u64,
    /// Commits and updates handed in and not begun.
    pub queue_depth: u64,
    /// Batches of them that its thread took.
    pub batches: u64,
    /// Keys looked up by readers; what a scan visits is not counted.
    pub reads: u64,
    /// Of these, the ones that memory did not hold, so that the disk was asked.
    pub cold_reads: u64,
    /// Keys written.
    pub writes: u64,
    /// Clean keys that left memory because it was full.
    pub evictions: u64,
    /// From handing a commit or update in to its answer.
    pub write_latency_us: Distribution,
    /// Of reading one key from the disk tier.
    pub cold_read_latency_us: Distribution,
    /// The keys used most lately, reads and writes together.
    pub hot: HotList,
}

/// The keys used most in a window that fades: operations long ago count little.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HotList {
    /// The window's length, weighted as the operations are: `operations` of a key over this are
    /// its rate.
    pub window_us: u64,
    /// The keys, the hottest first.
    pub keys: Vec<HotKey>,
}

impl HotList {
    /// A number of operations in this window as operations a second.
    #[must_use]
    pub fn rate(&self, operations: u64) -> f64 {
        operations as f64 * 1e6 / self.window_us.max(1) as f64
    }
}

/// Where values are: in memory, and on the disk below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Keys in memory.
    pub memory_keys: u64,
    /// Approximate bytes of them.
    pub memory_bytes: u64,
    /// The budget for them; above it clean keys leave.
    pub memory_budget_bytes: u64,
    /// Reads that memory answered.
    pub memory_hits: u64,
    /// Clean keys that left memory because it was full.
    pub evictions: u64,
    /// Reads that the disk tier was asked for.
    pub disk_reads: u64,
    /// How long they took.
    pub disk_read_latency_us: Distribution,
    /// What the engine below does.
    pub engine: EngineStats,
    /// Bytes of log that no checkpoint covers yet: what a restart would replay.
    pub log_bytes: u64,
}

/// The engine of the durable tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Bytes of all its files.
    pub disk_bytes: u64,
    /// Of these, its journals.
    pub journal_bytes: u64,
    /// Table files.
    pub tables: u64,
    /// Write buffers that were written out as table files.
    pub flushes: u64,
    /// Write buffers that wait for that.
    pub flushes_waiting: u64,
    /// Compactions completed.
    pub compactions: u64,
    /// Compactions that run.
    pub compactions_running: u64,
    /// Time spent in compactions, in microseconds.
    pub compacting_us: u64,
    /// Bytes of write buffers in memory.
    pub buffer_bytes: u64,
    /// Bytes of blocks in its cache.
    pub cache_bytes: u64,
}

impl Observed {
    /// Puts together what the shards and the engine say.
    #[must_use]
    pub fn new(
        shards: Vec<ShardStats>,
        engine: EngineStats,
        log_bytes: u64,
        memory_budget_bytes: u64,
    ) -> Observed {
        let mut tiers = TierStats {
            engine,
            log_bytes,
            memory_budget_bytes,
            ..TierStats::default()
        };
        for shard in &shards {
            tiers.memory_keys += shard.keys;
            tiers.memory_bytes += shard.memory_bytes;
            // Both are counted apart, so one may be a moment ahead of the other.
            tiers.memory_hits += shard.reads.saturating_sub(shard.cold_reads);
            tiers.evictions += shard.evictions;
            tiers.disk_reads += shard.cold_reads;
            tiers
                .disk_read_latency_us
                .merge(&shard.cold_read_latency_us);
        }
        Observed { shards, tiers }
    }

    /// The hottest keys of all shards with their shard, operations a second and error in the
    /// same unit, the hottest first.
    #[must_use]
    pub fn hottest(&self, k: usize) -> Vec<HotRate<'_>> {
        let mut all: Vec<HotRate<'_>> = Vec::new();
        for shard in &self.shards {
            all.extend(shard.hot.keys.iter().map(|hot| HotRate {
                shard: shard.index,
                hot,
                per_second: shard.hot.rate(hot.operations),
                error_per_second: shard.hot.rate(hot.error),
            }));
        }
        all.sort_by(|a, b| b.per_second.total_cmp(&a.per_second));
        all.truncate(k);
        all
    }
}

/// A hot key with its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HotRate<'a> {
    /// Its shard.
    pub shard: usize,
    /// The key with its counts.
    pub hot: &'a hot::HotKey,
    /// Operations a second.
    pub per_second: f64,
    /// How much of that other keys may have contributed.
    pub error_per_second: f64,
}
