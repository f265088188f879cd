//! Numbers by Zipf's law: rank k (from 1) with a weight of 1 / k^s. Exact, from the cumulated
//! weights; made before anything is timed, so that drawing costs the measurement nothing.

/// A generator of pseudo-random numbers: Steele, Lea, Flood, "Fast splittable pseudorandom
/// number generators" (2014), SplitMix64.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In [0, 1), with 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The law for a number of keys.
#[derive(Debug)]
pub(crate) struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    /// For keys 0 to `keys` - 1, the first of which is the most frequent.
    pub(crate) fn new(keys: u32, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let weights = (1..=keys).map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        });
        Zipf {
            cumulated: weights.collect(),
        }
    }

    /// So many keys, always the same for a seed.
    pub(crate) fn draw(&self, count: usize, seed: u64) -> Vec<u32> {
        let mut random = SplitMix(seed);
        let all = self.cumulated.last().copied().unwrap_or(0.0);
        let last = self.cumulated.len().saturating_sub(1);
        let one = |_| {
            let at = random.unit() * all;
            let key = self.cumulated.partition_point(|sum| *sum <= at).min(last);
            u32::try_from(key).unwrap_or(u32::MAX)
        };
        (0..count).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Zipf;

    #[test]
    fn keys_come_as_often_as_the_law_says() {
        const DRAWS: usize = 200_000;
        let zipf = Zipf::new(1_000, 1.1);
        let mut seen = vec![0_u32; 1_000];
        for key in zipf.draw(DRAWS, 7) {
            seen[key as usize] += 1;
        }
        let all: f64 = (1..=1_000).map(|rank| f64::from(rank).powf(-1.1)).sum();
        for rank in [1_u32, 2, 3, 10, 100] {
            let share = f64::from(rank).powf(-1.1) / all;
            let expected = share * DRAWS as f64;
            let deviation = (expected * (1.0 - share)).sqrt();
            let found = f64::from(seen[rank as usize - 1]);
            assert!(
                (found - expected).abs() < 4.0 * deviation,
                "rank {rank}: {found} instead of {expected:.0}"
            );
        }
    }

    #[test]
    fn seeds_tell_draws_apart_and_one_key_is_always_drawn() {
        let zipf = Zipf::new(1_000, 1.1);
        assert_eq!(zipf.draw(100, 1), zipf.draw(100, 1));
        assert_ne!(zipf.draw(100, 1), zipf.draw(100, 2));
        assert_eq!(Zipf::new(1, 1.1).draw(3, 1), [0, 0, 0]);
    }
}
