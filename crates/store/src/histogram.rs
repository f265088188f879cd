//! How long things took: counts in buckets that grow with the value.
//!
//! Log-linear buckets as in HdrHistogram (Tene): 16 for each power of two, so that a reported
//! quantile is never below the true one and less than one sixteenth above it. Numbers are whole
//! and of any unit; the store uses microseconds. It knows no clock.

use std::sync::atomic::{AtomicU64, Ordering};

/// 2 to this power is the number of buckets in each power of two.
const FINE_BITS: u32 = 4;
const FINE: usize = 1 << FINE_BITS;
/// Values above 2 to this power are in the last bucket with those just below: 19 hours in
/// microseconds.
const VALUE_BITS: u32 = 36;
const BUCKETS: usize = FINE * (VALUE_BITS - FINE_BITS + 1) as usize;

/// Counts by size: fixed memory (about 4 KiB), read by anybody at any time.
///
/// A reader sees each count whole, but not all of them at one moment.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts a value. For the one thread that writes this histogram: without an atomic
    /// addition it costs about a nanosecond, and a second writer would lose counts.
    #[inline]
    pub fn record(&self, value: u64) {
        let add = |counter: &AtomicU64, by: u64| {
            let sum = counter.load(Ordering::Relaxed).wrapping_add(by);
            counter.store(sum, Ordering::Relaxed);
        };
        add(&self.counts[bucket_of(value)], 1);
        add(&self.sum, value);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// Counts a value, from any thread.
    pub fn record_shared(&self, value: u64) {
        self.record_many_shared(value, 1);
    }

    /// Counts a value so many times, from any thread.
    pub fn record_many_shared(&self, value: u64, count: u64) {
        self.counts[bucket_of(value)].fetch_add(count, Ordering::Relaxed);
        self.sum
            .fetch_add(value.wrapping_mul(count), Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let counts = self.counts.iter().enumerate();
        let buckets: Vec<(u64, u64)> = counts
            .map(|(bucket, count)| (bound_of(bucket), count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        Distribution {
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum: self.sum.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
            buckets,
        }
    }
}

/// The bucket of a value. Bounds are inclusive, so that powers of two are among them.
fn bucket_of(value: u64) -> usize {
    let value = value.saturating_sub(1);
    if value < FINE as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - FINE_BITS;
    // Between FINE and 2 * FINE - 1.
    let fine = (value >> shift) as usize;
    (shift as usize * FINE + fine).min(BUCKETS - 1)
}

/// The greatest value of a bucket; the last one also takes what is greater.
fn bound_of(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64 + 1;
    }
    let shift = bucket / FINE - 1;
    ((bucket % FINE + FINE + 1) as u64) << shift
}

/// What a [`Histogram`] counted up to some moment, or between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Values counted.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The greatest.
    pub max: u64,
    /// Greatest value of each bucket that is not empty, in order, and its count.
    pub buckets: Vec<(u64, u64)>,
}

/// The quantiles that people ask for, in the unit of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Half of the values are at or below it.
    pub p50: u64,
    /// 99 in 100.
    pub p99: u64,
    /// 999 in 1000.
    pub p999: u64,
    /// The greatest value.
    pub max: u64,
    /// How many values there were.
    pub count: u64,
}

impl Distribution {
    /// The value that at least the share `q` (0 to 1) of the values does not exceed: never below
    /// the true one, and less than one sixteenth above it. 0 where nothing was counted.
    #[must_use]
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (q.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let mut buckets = self.buckets.iter();
        let found = buckets.find(|(_, count)| {
            below += count;
            below >= rank
        });
        match found {
            // The last bucket has no greatest value of its own.
            Some((bound, _)) if *bound < 1 << VALUE_BITS => self.max.min(*bound),
            _ => self.max,
        }
    }

    /// The usual quantiles.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.max,
            count: self.count,
        }
    }

    /// How many values are at or below `bound`, which is a power of two.
    #[must_use]
    pub fn at_most(&self, bound: u64) -> u64 {
        let buckets = self.buckets.iter();
        let below = buckets.take_while(|(greatest, _)| *greatest <= bound);
        below.map(|(_, count)| count).sum()
    }

    /// What was counted since `earlier`, an older reading of the same histogram. Its `max` is
    /// the bound of the highest bucket, since the greatest value may be an older one.
    #[must_use]
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        let mut before = earlier.buckets.iter().copied().peekable();
        let mut buckets = Vec::new();
        for &(bound, count) in &self.buckets {
            while before.next_if(|(other, _)| *other < bound).is_some() {}
            let known = before.next_if(|(other, _)| *other == bound);
            let fresh = count.saturating_sub(known.map_or(0, |(_, count)| count));
            if fresh > 0 {
                buckets.push((bound, fresh));
            }
        }
        let highest = buckets.last().map_or(0, |(bound, _)| *bound);
        Distribution {
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum: self.sum.wrapping_sub(earlier.sum),
            max: if highest < 1 << VALUE_BITS {
                highest.min(self.max)
            } else {
                self.max
            },
            buckets,
        }
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Distribution) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
        self.buckets.extend_from_slice(&other.buckets);
        self.buckets.sort_unstable_by_key(|(bound, _)| *bound);
        self.buckets.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 += later.1;
            }
            same
        });
    }
}
