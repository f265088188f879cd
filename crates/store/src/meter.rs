//! What a shard counts: written where the work is done, read by anybody.
//!
//! A [`ShardMeter`] is shared; its [`Recorder`] belongs to the shard's thread and holds what
//! only that thread may write. Counting is relaxed atomics on memory that the counting thread
//! has to itself, so that it costs the work next to nothing; the list of hot keys is swapped in
//! at most once a second. It knows no queue, no table and no clock: times are handed in.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tidemill_lattice::Key;

use crate::histogram::Histogram;
use crate::hot::{HotKeys, SAMPLE_ONE_IN, Sampler};
use crate::observed::{HotList, ShardStats};

/// The hot list is published at most so often.
const PUBLISH_US: u64 = 1_000_000;
/// The sketch fades by half so often; its window is then between one and two of these long.
const DECAY_US: u64 = 10_000_000;
/// Keys on a shard's hot list.
const HOT_SHOWN: usize = 16;
/// Readers are counted in so many places, so that they seldom share a cache line.
const STRIPES: usize = 16;
/// Sampled reads that wait for the shard's thread; of more, each stands for several.
const SAMPLES_MAX: usize = 512;

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
struct Single(AtomicU64);

impl Single {
    fn add(&self, by: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(by);
        self.0.store(sum, Ordering::Relaxed);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

/// A reading thread: where it counts, and which of its reads are sampled.
struct Reader {
    stripe: usize,
    sampler: Sampler,
}

thread_local! {
    static READER: RefCell<Reader> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        RefCell::new(Reader {
            stripe: number % STRIPES,
            sampler: Sampler::new(SAMPLE_ONE_IN, number as u64 + 1),
        })
    };
}

/// Reads that were sampled since the shard's thread last looked.
#[derive(Debug, Default)]
struct Samples {
    keys: Vec<Key>,
    /// How many there were, those for which there was no room included.
    seen: u64,
}

/// The numbers of one shard. About 12 KiB.
#[derive(Debug, Default)]
pub struct ShardMeter {
    reads: [Stripe; STRIPES],
    sent: Stripe,
    taken: Single,
    batches: Single,
    writes: Single,
    evictions: Single,
    keys: Single,
    memory_bytes: Single,
    dirty_keys: Single,
    write_latency_us: Histogram,
    cold_read_latency_us: Histogram,
    samples: Mutex<Samples>,
    hot: Mutex<Arc<HotList>>,
}

impl ShardMeter {
    /// A key was looked up, on any thread. A few nanoseconds, and no shared cache line up to 16
    /// threads.
    #[inline]
    pub fn read(&self, key: &Key) {
        // A thread that is ending has no place of its own any more.
        let (stripe, sampled) = READER
            .try_with(|reader| {
                let reader = &mut *reader.borrow_mut();
                (reader.stripe, reader.sampler.due())
            })
            .unwrap_or((0, false));
        self.reads[stripe].0.fetch_add(1, Ordering::Relaxed);
        if sampled {
            self.sample(key);
        }
    }

    #[cold]
    fn sample(&self, key: &Key) {
        // Nobody waits to be counted.
        let Some(mut samples) = self.samples.try_lock() else {
            return;
        };
        samples.seen += 1;
        if samples.keys.len() < SAMPLES_MAX {
            samples.keys.push(key.clone());
        }
    }

    /// The disk tier was asked for a key that memory did not hold, on any thread, and answered
    /// after so long.
    pub fn cold_read(&self, elapsed_us: u64) {
        self.cold_read_latency_us.record_shared(elapsed_us);
    }

    /// So many commits or updates were answered so long after they were handed in.
    #[inline]
    pub fn answered(&self, elapsed_us: u64, count: u64) {
        self.write_latency_us.record_many_shared(elapsed_us, count);
    }

    /// So many commits and updates were handed to the shard, by any thread.
    pub fn sent(&self, count: u64) {
        self.sent.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What was counted up to now; `index` is the shard's.
    #[must_use]
    pub fn stats(&self, index: usize) -> ShardStats {
        // In this order, so that what is taken in between does not count as never sent.
        let taken = self.taken.get();
        let sent = self.sent.0.load(Ordering::Relaxed);
        let cold_read_latency_us = self.cold_read_latency_us.read();
        let reads = self.reads.iter();
        ShardStats {
            index,
            keys: self.keys.get(),
            memory_bytes: self.memory_bytes.get(),
            dirty_keys: self.dirty_keys.get(),
            queue_depth: sent.saturating_sub(taken),
            batches: self.batches.get(),
            reads: reads.map(|stripe| stripe.0.load(Ordering::Relaxed)).sum(),
            cold_reads: cold_read_latency_us.count,
            writes: self.writes.get(),
            evictions: self.evictions.get(),
            write_latency_us: self.write_latency_us.read(),
            cold_read_latency_us,
            hot: HotList::clone(&self.hot.lock()),
        }
    }
}

/// The part of a meter that the shard's thread has to itself.
#[derive(Debug)]
pub struct Recorder {
    meter: Arc<ShardMeter>,
    hot: HotKeys,
    window_us: u64,
    published_us: u64,
    decayed_us: u64,
}

impl Recorder {
    /// The recorder of a meter that has no other. `seed` is any number, another one for each
    /// shard; `now_us` is the clock's time.
    #[must_use]
    pub fn new(meter: Arc<ShardMeter>, seed: u64, now_us: u64) -> Recorder {
        Recorder {
            meter,
            hot: HotKeys::new(seed),
            window_us: 0,
            published_us: now_us,
            decayed_us: now_us,
        }
    }

    /// So many commits and updates were taken from the queue at once.
    pub fn took(&self, count: u64) {
        self.meter.taken.add(count);
        self.meter.batches.add(1);
    }

    /// A key was written.
    #[inline]
    pub fn wrote(&mut self, key: &Key) {
        self.meter.writes.add(1);
        self.hot.touch(key);
    }

    /// So many keys left memory because it was full.
    pub fn evicted(&self, count: u64) {
        self.meter.evictions.add(count);
    }

    /// What the shard holds now.
    pub fn holds(&self, keys: u64, memory_bytes: u64, dirty_keys: u64) {
        self.meter.keys.set(keys);
        self.meter.memory_bytes.set(memory_bytes);
        self.meter.dirty_keys.set(dirty_keys);
    }

    /// Lets time pass: once a second it takes the sampled reads and publishes the hot list. Call
    /// it after each batch and when idle.
    #[inline]
    pub fn tick(&mut self, now_us: u64) {
        if now_us.abs_diff(self.published_us) >= PUBLISH_US {
            self.publish(now_us);
        }
    }

    #[cold]
    fn publish(&mut self, now_us: u64) {
        // A clock that was set back has shown nothing of how long it was.
        self.window_us += now_us.saturating_sub(self.published_us);
        self.published_us = now_us;
        let Samples { keys, seen } = std::mem::take(&mut *self.meter.samples.lock());
        if !keys.is_empty() {
            let operations = u64::from(SAMPLE_ONE_IN) * seen / keys.len() as u64;
            for key in &keys {
                self.hot.add(key, operations);
            }
        }
        let list = Arc::new(HotList {
            window_us: self.window_us,
            keys: self.hot.top(HOT_SHOWN),
        });
        *self.meter.hot.lock() = list;
        if now_us.abs_diff(self.decayed_us) >= DECAY_US {
            self.decayed_us = now_us;
            self.hot.decay();
            self.window_us = self.window_us.div_ceil(2);
        }
    }
}
