//! The observed cost under random runs.

use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_scheduler::{CostClass, Observed};

const LIMIT_US: u64 = 1_000;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_mean_stays_within_what_was_seen(runs in vec(any::<u32>(), 1..200)) {
        let mut observed = Observed::new();
        runs.iter().for_each(|run_us| observed.record(u64::from(*run_us), LIMIT_US));
        let mean_us = observed.mean_us().unwrap();
        let least = u64::from(*runs.iter().min().unwrap());
        let most = u64::from(*runs.iter().max().unwrap());
        prop_assert!((least..=most).contains(&mean_us), "{} is not in {}..={}", mean_us, least, most);
    }

    #[test]
    fn a_mean_that_wavers_around_the_limit_keeps_its_class(
        first in 0..3_000_u64,
        runs in vec(801..1_250_u64, 1..500),
    ) {
        let mut observed = Observed::new();
        // Settled in the band first: the class of the way there does not count.
        observed.record(first, LIMIT_US);
        (0..100).for_each(|_| observed.record(1_000, LIMIT_US));
        let class = observed.class();
        for run_us in runs {
            observed.record(run_us, LIMIT_US);
            prop_assert_eq!(observed.class(), class);
        }
    }

    #[test]
    fn the_planning_cost_is_on_the_class_side(runs in vec(0..3_000_u64, 1..100)) {
        let mut observed = Observed::new();
        for run_us in runs {
            observed.record(run_us, LIMIT_US);
            let is_costly = observed.planning_cost_us(LIMIT_US).unwrap() >= LIMIT_US;
            prop_assert_eq!(is_costly, observed.class() == Some(CostClass::Costly));
        }
    }
}
