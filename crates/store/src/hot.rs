//! The keys of a shard that are used most: a sketch of bounded size.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi 2005) with weights, fed with a sample of the
//! operations, and fading: each [`HotKeys::decay`] halves what was counted before. One thread
//! owns a sketch. It knows neither clocks nor who publishes what it found.

use tidemill_lattice::Key;
use xxhash_rust::xxh3::xxh3_64;

/// One touch in so many is counted, with that weight. A counted touch costs a hash and two short
/// scans; shared by 32 touches that is less than the touch's own look-up. At 100,000 operations a
/// second there are 3,000 samples a second, so that the rate of a key with a hundredth of them is
/// known to a tenth within a few seconds.
pub const SAMPLE_ONE_IN: u32 = 32;

/// Counters in a sketch. A key with more than one operation in so many is always found. 128
/// counters are two scans of 1 KiB a counted touch, and at most 256 KiB of keys.
pub const CAPACITY: usize = 128;

/// Counts are kept in parts of an operation, so that halving them rounds nothing that shows.
const PARTS: u64 = 16;

/// A key that is used much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// The key.
    pub key: Key,
    /// An estimate of its operations in the sketch's window, never too low but for sampling.
    pub operations: u64,
    /// How much of the estimate other keys may have contributed.
    pub error: u64,
}

/// Chooses one event in `one_in` on average, at random distances, so that no rhythm of the
/// events can hide a key.
#[derive(Clone, Debug)]
pub struct Sampler {
    one_in: u32,
    left: u32,
    state: u64,
}

impl Sampler {
    /// A sampler; `seed` is any number, another one for each.
    #[must_use]
    pub fn new(one_in: u32, seed: u64) -> Sampler {
        let mut sampler = Sampler {
            // So that no product below overflows.
            one_in: one_in.clamp(1, 1 << 30),
            left: 0,
            // The generator must not start at zero.
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        sampler.left = sampler.distance();
        sampler
    }

    /// Whether this event is chosen.
    #[inline]
    pub fn due(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        self.left = self.distance();
        true
    }

    /// Uniform in `1..2 * one_in`, so `one_in` on average (xorshift64*, Vigna 2016).
    fn distance(&mut self) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let choices = 2 * u64::from(self.one_in) - 1;
        // Below `choices`, which fits.
        1 + ((random * choices) >> 32) as u32
    }
}

/// The sketch.
///
/// With `n` operations counted (each halved as often as the sketch has decayed since) and
/// capacity `m`: every key with more than `n / m` of them is held, and for each key held
/// `operations - error <= true <= operations`, where `error <= n / m`, rounded up. Sampling
/// adds noise with a standard deviation of about `sqrt(one_in * operations)`.
#[derive(Clone, Debug)]
pub struct HotKeys {
    sampler: Sampler,
    capacity: usize,
    /// Hashes and counts lie apart from the keys, because they are scanned.
    hashes: Vec<u64>,
    counts: Vec<u64>,
    held: Vec<Held>,
    /// No count is below it, and those before the hand were above it when the hand passed: most
    /// counts of the rarely used are equal, so the next least one is near.
    least: u64,
    hand: usize,
}

#[derive(Clone, Debug)]
struct Held {
    key: Key,
    error: u64,
}

impl HotKeys {
    /// A sketch of the usual size; `seed` is any number, another one for each shard.
    #[must_use]
    pub fn new(seed: u64) -> HotKeys {
        HotKeys::with(CAPACITY, SAMPLE_ONE_IN, seed)
    }

    /// A sketch of at most `capacity` keys that counts one touch in `one_in`.
    #[must_use]
    pub fn with(capacity: usize, one_in: u32, seed: u64) -> HotKeys {
        let capacity = capacity.max(1);
        HotKeys {
            sampler: Sampler::new(one_in, seed),
            capacity,
            hashes: Vec::with_capacity(capacity),
            counts: Vec::with_capacity(capacity),
            held: Vec::with_capacity(capacity),
            least: 0,
            hand: 0,
        }
    }

    /// An operation on a key.
    #[inline]
    pub fn touch(&mut self, key: &Key) {
        if self.sampler.due() {
            self.add(key, u64::from(self.sampler.one_in));
        }
    }

    /// So many operations on a key, sampled elsewhere.
    pub fn add(&mut self, key: &Key, operations: u64) {
        let weight = operations.saturating_mul(PARTS);
        let hash = xxh3_64(key.as_bytes());
        let held = self.hashes.iter().zip(&self.held);
        let found = held
            .enumerate()
            .find(|(_, (other, held))| **other == hash && held.key == *key);
        if let Some((index, _)) = found {
            if let Some(count) = self.counts.get_mut(index) {
                *count = count.saturating_add(weight);
            }
            return;
        }
        if self.held.len() < self.capacity {
            self.hashes.push(hash);
            self.counts.push(weight);
            self.held.push(Held {
                key: key.clone(),
                error: 0,
            });
            return;
        }
        let Some((index, least)) = self.find_least() else {
            return;
        };
        self.hashes[index] = hash;
        self.counts[index] = least.saturating_add(weight);
        self.held[index] = Held {
            key: key.clone(),
            error: least,
        };
    }

    /// Where the least count is, and what it is.
    fn find_least(&mut self) -> Option<(usize, u64)> {
        let at_least = |counts: &[u64], least| counts.iter().position(|count| *count <= least);
        let ahead = self.counts.get(self.hand..).unwrap_or_default();
        let index = match at_least(ahead, self.least) {
            Some(index) => self.hand + index,
            None => {
                self.least = self.counts.iter().copied().min()?;
                at_least(&self.counts, self.least)?
            }
        };
        self.hand = index + 1;
        Some((index, self.least))
    }

    /// Halves everything counted so far, so that what was hot leaves.
    pub fn decay(&mut self) {
        for (count, held) in self.counts.iter_mut().zip(&mut self.held) {
            // The estimate is rounded up, and the error by as much, which keeps both bounds.
            held.error = (held.error + (*count & 1)).div_ceil(2);
            *count = count.div_ceil(2);
        }
        self.least = 0;
        self.hand = 0;
    }

    /// The `k` keys used most, the first the most. Keys that have faded below half a sample are
    /// left out.
    #[must_use]
    pub fn top(&self, k: usize) -> Vec<HotKey> {
        let least = u64::from(self.sampler.one_in) * PARTS / 2;
        let shown = self
            .counts
            .iter()
            .zip(&self.held)
            .filter(|(count, _)| **count >= least);
        let hot = shown.map(|(&count, held)| {
            let operations = count.div_ceil(PARTS);
            HotKey {
                key: held.key.clone(),
                operations,
                error: operations - (count - held.error) / PARTS,
            }
        });
        ranked(hot.collect(), k)
    }
}

/// The `k` hottest keys of several sketches. A key that several of them hold gets the sums of
/// its estimates and errors; where each key belongs to one sketch, nothing is lost by merging.
#[must_use]
pub fn merge(lists: impl IntoIterator<Item = Vec<HotKey>>, k: usize) -> Vec<HotKey> {
    let mut all: Vec<HotKey> = lists.into_iter().flatten().collect();
    all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    all.dedup_by(|later, kept| {
        let same = later.key == kept.key;
        if same {
            kept.operations = kept.operations.saturating_add(later.operations);
            kept.error = kept.error.saturating_add(later.error);
        }
        same
    });
    ranked(all, k)
}

fn ranked(mut keys: Vec<HotKey>, k: usize) -> Vec<HotKey> {
    keys.sort_unstable_by(|a, b| {
        let by_count = b.operations.cmp(&a.operations);
        by_count.then_with(|| a.key.cmp(&b.key))
    });
    keys.truncate(k);
    keys
}
