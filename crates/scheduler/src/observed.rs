//! What a function's run time has been: an exponentially weighted mean, and whether that
//! makes it cheap or costly, with hysteresis so that plans do not flap.

use serde::{Deserialize, Serialize};

/// Each run moves the mean by this fraction of its distance: 1/8, as for TCP's smoothed
/// round-trip time (RFC 6298). The first runs count equally.
const WEIGHT_DIVISOR: u64 = 8;
/// The mean is kept in sixteenths of a microsecond, so that short runs still move it.
const SCALE: u64 = 16;
/// A cheap function becomes costly at 5/4 of the limit, a costly one cheap below 4/5.
const HYSTERESIS: (u128, u128) = (5, 4);

/// The run times of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    scaled_mean: u64,
    runs: u64,
    class: Option<CostClass>,
}

/// Which side of the cost limit a function is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CostClass {
    /// Not worth a hand-off of its own.
    Cheap,
    /// Worth a hand-off of its own, to run beside others.
    Costly,
}

impl Observed {
    /// Nothing observed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a run of `run_us` microseconds. `limit_us` is the cost limit of the
    /// [class](Self::class).
    pub fn record(&mut self, run_us: u64, limit_us: u64) {
        self.runs = self.runs.saturating_add(1);
        let divisor = self.runs.min(WEIGHT_DIVISOR);
        let run = run_us.saturating_mul(SCALE);
        // The distance is divided, not the terms, so that the mean never leaves the range
        // of what was seen.
        if run >= self.scaled_mean {
            self.scaled_mean += (run - self.scaled_mean) / divisor;
        } else {
            self.scaled_mean -= (self.scaled_mean - run) / divisor;
        }
        self.class = Some(self.classify(limit_us));
    }

    /// How many runs were taken in.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// The mean run time in microseconds; `None` before the first run.
    #[must_use]
    pub fn mean_us(&self) -> Option<u64> {
        (self.runs > 0).then_some(self.scaled_mean / SCALE)
    }

    /// The class, which changes only when the mean is clearly past the limit.
    #[must_use]
    pub fn class(&self) -> Option<CostClass> {
        self.class
    }

    /// The mean to plan with: on the side of `limit_us` that the class says, so that a mean
    /// that wavers around the limit gives one plan and not two.
    #[must_use]
    pub fn planning_cost_us(&self, limit_us: u64) -> Option<u64> {
        let mean_us = self.mean_us()?;
        Some(match self.class? {
            CostClass::Cheap => mean_us.min(limit_us.saturating_sub(1)),
            CostClass::Costly => mean_us.max(limit_us),
        })
    }

    fn classify(&self, limit_us: u64) -> CostClass {
        let mean = u128::from(self.scaled_mean);
        let limit = u128::from(limit_us) * u128::from(SCALE);
        let (more, less) = HYSTERESIS;
        let is_costly = match self.class {
            None => mean >= limit,
            Some(CostClass::Cheap) => mean * less >= limit * more,
            Some(CostClass::Costly) => mean * more >= limit * less,
        };
        if is_costly {
            CostClass::Costly
        } else {
            CostClass::Cheap
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT_US: u64 = 1_000;

    fn observed(runs: &[u64]) -> Observed {
        let mut observed = Observed::new();
        runs.iter()
            .for_each(|run_us| observed.record(*run_us, LIMIT_US));
        observed
    }

    #[test]
    fn the_first_runs_count_equally_and_later_ones_an_eighth() {
        assert_eq!(Observed::new().mean_us(), None);
        assert_eq!(observed(&[100]).mean_us(), Some(100));
        assert_eq!(observed(&[100, 200, 300, 400]).mean_us(), Some(250));
        let mut runs = vec![100; 8];
        runs.push(900);
        assert_eq!(observed(&runs).mean_us(), Some(200));
    }

    #[test]
    fn short_runs_still_move_the_mean() {
        let mut runs = vec![1; 8];
        runs.extend([3; 40]);
        assert_eq!(observed(&runs).mean_us(), Some(2));
        assert_eq!(observed(&[0; 9]).mean_us(), Some(0));
    }

    #[test]
    fn huge_runs_saturate() {
        let seen = observed(&[u64::MAX, u64::MAX, 0]);
        assert!(seen.mean_us().is_some_and(|mean| mean > LIMIT_US));
        assert_eq!(seen.class(), Some(CostClass::Costly));
    }

    #[test]
    fn the_class_changes_only_clearly_past_the_limit() {
        let mut seen = observed(&[900]);
        assert_eq!(seen.class(), Some(CostClass::Cheap));
        (0..200).for_each(|_| seen.record(1_200, LIMIT_US));
        assert_eq!(seen.class(), Some(CostClass::Cheap));
        assert_eq!(seen.planning_cost_us(LIMIT_US), Some(999));
        (0..200).for_each(|_| seen.record(1_300, LIMIT_US));
        assert_eq!(seen.class(), Some(CostClass::Costly));
        (0..200).for_each(|_| seen.record(850, LIMIT_US));
        assert_eq!(seen.class(), Some(CostClass::Costly));
        assert_eq!(seen.planning_cost_us(LIMIT_US), Some(1_000));
        (0..200).for_each(|_| seen.record(750, LIMIT_US));
        assert_eq!(seen.class(), Some(CostClass::Cheap));
    }
}
