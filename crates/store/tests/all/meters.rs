//! The bounds that sketches and histograms promise, and what a shard's meter shows.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_lattice::Key;
use tidemill_store::histogram::{Distribution, Histogram};
use tidemill_store::hot::{self, HotKey, HotKeys, SAMPLE_ONE_IN};
use tidemill_store::meter::{Recorder, ShardMeter};
use tidemill_store::observed::{EngineStats, HotList, Observed, ShardStats};

use crate::support::key;

fn numbered(number: u32) -> Key {
    key(&format!("k{number}"))
}

/// What happens to a sketch.
#[derive(Clone, Debug)]
enum Event {
    Use(u32, u64),
    Decay,
}

/// Few keys are used much and many little, in weights and with pauses.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let skewed = (0..30_u32, 0..30_u32).prop_map(|(a, b)| a * b / 30);
    let event = prop_oneof![
        40 => (skewed, 1..20_u64).prop_map(|(number, weight)| Event::Use(number, weight)),
        1 => Just(Event::Decay),
    ];
    vec(event, 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sketch_holds_what_is_frequent_within_its_bounds(
        events in events(),
        capacity in 1..20_usize,
    ) {
        let mut sketch = HotKeys::with(capacity, 1, 7);
        // Halves are exact in binary.
        let mut exact: HashMap<u32, f64> = HashMap::new();
        let mut total = 0.0;
        for event in &events {
            match event {
                Event::Use(number, weight) => {
                    sketch.add(&numbered(*number), *weight);
                    *exact.entry(*number).or_default() += *weight as f64;
                    total += *weight as f64;
                }
                Event::Decay => {
                    sketch.decay();
                    exact.values_mut().for_each(|count| *count /= 2.0);
                    total /= 2.0;
                }
            }
        }
        let top = sketch.top(usize::MAX);
        prop_assert!(top.len() <= capacity);
        prop_assert!(top.is_sorted_by(|a, b| a.operations >= b.operations));
        let share = total / capacity as f64;
        let estimates: HashMap<&Key, &HotKey> = top.iter().map(|hot| (&hot.key, hot)).collect();
        for (number, &count) in &exact {
            match estimates.get(&numbered(*number)) {
                Some(hot) => {
                    prop_assert!(hot.operations as f64 >= count, "{hot:?} of {count}");
                    prop_assert!((hot.operations - hot.error) as f64 <= count, "{hot:?} of {count}");
                    // Both are rounded up to whole operations.
                    prop_assert!(hot.error as f64 <= share + 2.0, "{hot:?} of {total}");
                }
                // One part of an operation may be rounded at each decay.
                None => prop_assert!(count <= share + 1.0, "{number} has {count} of {total}"),
            }
        }
    }

    #[test]
    fn a_quantile_is_never_too_low_and_less_than_a_sixteenth_too_high(
        values in vec(0..1_u64 << 40, 1..200),
        shift in 0..40_u32,
        q in 0.0..=1.0_f64,
    ) {
        let histogram = Histogram::default();
        let mut values: Vec<u64> = values.iter().map(|value| value >> shift).collect();
        for value in &values {
            histogram.record(*value);
        }
        values.sort_unstable();
        let rank = ((q * values.len() as f64).ceil() as usize).max(1);
        let exact = values[rank - 1];
        let read = histogram.read();
        prop_assert_eq!(read.count, values.len() as u64);
        prop_assert_eq!(read.sum, values.iter().sum::<u64>());
        prop_assert_eq!(read.max, values[values.len() - 1]);
        let told = read.quantile(q);
        prop_assert!(told >= exact, "{} of {}", told, exact);
        // The last bucket, which begins here, takes everything greater as well.
        if exact <= (1 << 36) - (1 << 31) {
            prop_assert!(told - exact <= exact / 16 + u64::from(exact == 0), "{} of {}", told, exact);
        }
    }

    #[test]
    fn what_was_counted_between_two_readings_is_their_difference(
        before in vec(0..5_000_u64, 0..50),
        after in vec(0..5_000_u64, 0..50),
    ) {
        let (whole, late) = (Histogram::default(), Histogram::default());
        before.iter().for_each(|value| whole.record(*value));
        let earlier = whole.read();
        for value in &after {
            whole.record_shared(*value);
            late.record(*value);
        }
        let (since, alone) = (whole.read().since(&earlier), late.read());
        prop_assert_eq!(&since.buckets, &alone.buckets);
        prop_assert_eq!((since.count, since.sum), (alone.count, alone.sum));
        prop_assert!(since.max >= alone.max && since.max - alone.max <= alone.max / 16 + 1);
        let mut sum = earlier;
        sum.merge(&alone);
        prop_assert_eq!(sum, whole.read());
    }
}

#[test]
fn powers_of_two_are_bounds_of_buckets() {
    let histogram = Histogram::default();
    (0..=1024).for_each(|value| histogram.record(value));
    let read = histogram.read();
    assert_eq!(read.at_most(1), 2);
    assert_eq!(read.at_most(16), 17);
    assert_eq!(read.at_most(512), 513);
    assert_eq!(read.at_most(1 << 20), 1025);
    assert_eq!(Distribution::default().quantiles(), Default::default());
}

#[test]
fn a_sampled_key_is_counted_about_as_often_as_it_is_touched() {
    let mut sketch = HotKeys::new(3);
    let rounds: u64 = 100_000;
    for round in 0..rounds {
        // A rhythm that a sampler at equal distances would fall into step with.
        sketch.touch(&numbered((round % u64::from(SAMPLE_ONE_IN)) as u32));
        sketch.touch(&key("hot"));
    }
    let top = sketch.top(1);
    assert_eq!(top[0].key, key("hot"));
    let off = top[0].operations.abs_diff(rounds) as f64 / rounds as f64;
    assert!(off < 0.1, "{top:?}");
    assert_eq!(top[0].error, 0, "there was room for all");
}

#[test]
fn what_was_hot_leaves() {
    let mut sketch = HotKeys::with(2, 1, 1);
    sketch.add(&key("old"), 1_000);
    for _ in 0..12 {
        sketch.decay();
    }
    assert_eq!(sketch.top(9), []);
    sketch.add(&key("new"), 3);
    sketch.add(&key("newer"), 5);
    let names: Vec<Key> = sketch.top(9).into_iter().map(|hot| hot.key).collect();
    assert_eq!(names, [key("newer"), key("new")]);
}

#[test]
fn lists_of_several_sketches_are_merged() {
    let hot = |name: &str, operations, error| HotKey {
        key: key(name),
        operations,
        error,
    };
    let lists = [
        vec![hot("a", 9, 1), hot("b", 5, 0)],
        vec![hot("c", 7, 0), hot("b", 3, 2)],
    ];
    let merged = hot::merge(lists, 2);
    assert_eq!(merged, [hot("a", 9, 1), hot("b", 8, 2)]);
}

#[test]
fn a_meter_shows_what_was_done() {
    let meter = Arc::new(ShardMeter::default());
    let mut recorder = Recorder::new(Arc::clone(&meter), 1, 5_000_000);
    meter.sent(7);
    recorder.took(4);
    recorder.took(1);
    for _ in 0..64_000 {
        recorder.wrote(&key("written"));
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..32_000).for_each(|_| meter.read(&key("read"))));
        }
    });
    meter.cold_read(300);
    meter.answered(20, 1);
    recorder.evicted(3);
    recorder.holds(10, 1_000, 2);
    recorder.tick(5_999_999);
    assert_eq!(meter.stats(0).hot, HotList::default(), "not a second yet");
    recorder.tick(9_000_000);
    let stats = meter.stats(3);
    assert_eq!((stats.index, stats.queue_depth, stats.batches), (3, 2, 2));
    assert_eq!((stats.reads, stats.cold_reads), (64_000, 1));
    assert_eq!((stats.writes, stats.evictions), (64_000, 3));
    assert_eq!(
        (stats.keys, stats.memory_bytes, stats.dirty_keys),
        (10, 1_000, 2)
    );
    assert_eq!(stats.write_latency_us.quantiles().p99, 20);
    assert_eq!(stats.cold_read_latency_us.max, 300);
    assert_eq!(stats.hot.window_us, 4_000_000);
    let mut names: Vec<Key> = stats.hot.keys.iter().map(|hot| hot.key.clone()).collect();
    names.sort();
    assert_eq!(names, [key("read"), key("written")]);
    for hot in &stats.hot.keys {
        let rate = stats.hot.rate(hot.operations);
        assert!((rate - 16_000.0).abs() < 4_000.0, "{hot:?}: {rate}");
    }
}

#[test]
fn rates_stay_while_the_window_fades() {
    let meter = Arc::new(ShardMeter::default());
    let mut recorder = Recorder::new(Arc::clone(&meter), 1, 0);
    for second in 1..=60 {
        for _ in 0..20_000 {
            recorder.wrote(&key("steady"));
        }
        recorder.tick(second * 1_000_000);
        let hot = meter.stats(0).hot;
        let rate = hot.rate(hot.keys[0].operations);
        assert!((rate - 20_000.0).abs() < 4_000.0, "{second}: {rate}");
        assert!(hot.window_us <= 20_000_000, "{second}");
    }
    // The clock is set back: nothing is lost, and the list goes on.
    recorder.tick(1_000_000);
    for second in 2..=60 {
        recorder.tick(second * 1_000_000);
    }
    let hot = meter.stats(0).hot;
    let rate = hot.keys.first().map_or(0.0, |key| hot.rate(key.operations));
    assert!(rate < 2_000.0, "{rate}");
}

#[test]
fn shards_are_put_together() {
    let shard = |index, hot: &str, operations| ShardStats {
        index,
        keys: 2,
        memory_bytes: 100,
        reads: 10,
        cold_reads: 4,
        hot: HotList {
            window_us: 2_000_000,
            keys: vec![HotKey {
                key: key(hot),
                operations,
                error: 2,
            }],
        },
        ..ShardStats::default()
    };
    let observed = Observed::new(
        vec![shard(0, "a", 10), shard(1, "b", 30)],
        EngineStats::default(),
        5,
        1_000,
    );
    let tiers = &observed.tiers;
    assert_eq!((tiers.memory_keys, tiers.memory_bytes), (4, 200));
    assert_eq!((tiers.memory_hits, tiers.disk_reads), (12, 8));
    let hottest = observed.hottest(1);
    assert_eq!(hottest.len(), 1);
    assert_eq!((hottest[0].shard, &hottest[0].hot.key), (1, &key("b")));
    assert_eq!(
        (hottest[0].per_second, hottest[0].error_per_second),
        (15.0, 1.0)
    );
}
