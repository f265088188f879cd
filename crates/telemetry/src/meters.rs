//! What requests used: the newest ones singly, all of them as totals by function.
//! This module must not know prices or how the numbers are shown.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The outcome of a request that succeeded; any other outcome is a problem's code.
pub const OUTCOME_OK: &str = "ok";

/// Buckets of the latency histogram: bucket `i` counts durations up to `2^i`
/// microseconds, the last one all that are longer.
pub const LATENCY_BUCKETS: usize = 32;

/// Outcomes counted by name in one series; later ones are counted as `other`.
/// Above the number of problem codes, so it is met by a defect only.
const OUTCOMES_MAX: usize = 64;

/// The name under which the functions beyond the bound on series are counted.
const OTHER: &str = "other";

/// The upper bound of a latency bucket in microseconds; `None` for the last.
#[must_use]
pub fn latency_bound_us(bucket: usize) -> Option<u64> {
    (bucket + 1 < LATENCY_BUCKETS).then(|| 1 << bucket)
}

fn latency_bucket(duration_us: u64) -> usize {
    let bits = u64::BITS - duration_us.saturating_sub(1).leading_zeros();
    (bits as usize).min(LATENCY_BUCKETS - 1)
}

/// What one request used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Meter {
    /// The request.
    #[serde(serialize_with = "crate::serialize_hex")]
    pub request: u128,
    /// The app called.
    pub app: Arc<str>,
    /// The function called.
    pub function: Arc<str>,
    /// When it was admitted, in Unix microseconds.
    pub started_us: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// CPU time of its workers, in microseconds.
    pub cpu_us: u64,
    /// Memory of its workers times the time they ran: byte-milliseconds.
    pub memory_byte_ms: u64,
    /// Bytes of its arguments.
    pub bytes_in: u64,
    /// Bytes of its result.
    pub bytes_out: u64,
    /// Keys read.
    pub state_reads: u64,
    /// Operations written.
    pub state_writes: u64,
    /// [`OUTCOME_OK`], or the code of the problem it ended with.
    pub outcome: &'static str,
}

/// The sums of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Requests ended.
    pub calls: u64,
    /// Of these, the ones that did not succeed.
    pub errors: u64,
    /// Requests by outcome, in the order in which outcomes were first met.
    pub outcomes: Vec<(&'static str, u64)>,
    /// Time, in microseconds.
    pub duration_us: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Byte-milliseconds of memory.
    pub memory_byte_ms: u64,
    /// Bytes of arguments.
    pub bytes_in: u64,
    /// Bytes of results.
    pub bytes_out: u64,
    /// Keys read.
    pub state_reads: u64,
    /// Operations written.
    pub state_writes: u64,
    /// Requests by duration; see [`latency_bound_us`].
    pub latency: [u64; LATENCY_BUCKETS],
}

impl Totals {
    fn add(&mut self, meter: &Meter) {
        self.calls += 1;
        self.errors += u64::from(meter.outcome != OUTCOME_OK);
        self.count_outcome(meter.outcome);
        self.duration_us = self.duration_us.saturating_add(meter.duration_us);
        self.cpu_us = self.cpu_us.saturating_add(meter.cpu_us);
        self.memory_byte_ms = self.memory_byte_ms.saturating_add(meter.memory_byte_ms);
        self.bytes_in = self.bytes_in.saturating_add(meter.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(meter.bytes_out);
        self.state_reads = self.state_reads.saturating_add(meter.state_reads);
        self.state_writes = self.state_writes.saturating_add(meter.state_writes);
        if let Some(count) = self.latency.get_mut(latency_bucket(meter.duration_us)) {
            *count += 1;
        }
    }

    fn count_outcome(&mut self, outcome: &'static str) {
        let name = if self.outcomes.len() < OUTCOMES_MAX {
            outcome
        } else {
            OTHER
        };
        let held = self
            .outcomes
            .iter_mut()
            .find(|(held, _)| *held == outcome || *held == name);
        match held {
            Some((_, count)) => *count += 1,
            None => self.outcomes.push((name, 1)),
        }
    }
}

type Series = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Inner {
    recent: VecDeque<Meter>,
    totals: HashMap<Series, Totals>,
    other: Totals,
}

/// Meters of the newest requests, and totals of all.
#[derive(Debug)]
pub struct Meters {
    recent_max: usize,
    series_max: usize,
    inner: Mutex<Inner>,
}

impl Meters {
    /// Keeps `recent_max` single meters, and totals of up to `series_max`
    /// functions; the functions after that are summed up as `other`.
    #[must_use]
    pub fn new(recent_max: usize, series_max: usize) -> Self {
        Self {
            recent_max,
            series_max,
            inner: Mutex::default(),
        }
    }

    /// Counts an ended request.
    pub fn record(&self, meter: Meter) {
        let series = (Arc::clone(&meter.app), Arc::clone(&meter.function));
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let full = inner.totals.len() >= self.series_max;
        match inner.totals.get_mut(&series) {
            Some(totals) => totals.add(&meter),
            None if full => inner.other.add(&meter),
            None => inner.totals.entry(series).or_default().add(&meter),
        }
        if self.recent_max == 0 {
            return;
        }
        if inner.recent.len() == self.recent_max {
            inner.recent.pop_front();
        }
        inner.recent.push_back(meter);
    }

    /// The newest meters, newest first, at most `limit`.
    #[must_use]
    pub fn recent(&self, limit: usize) -> Vec<Meter> {
        let inner = self.inner.lock();
        inner.recent.iter().rev().take(limit).cloned().collect()
    }

    /// The meter of a request, while it is among the recent ones.
    #[must_use]
    pub fn of_request(&self, request: u128) -> Option<Meter> {
        let inner = self.inner.lock();
        let mut newest_first = inner.recent.iter().rev();
        newest_first.find(|meter| meter.request == request).cloned()
    }

    /// The totals as `(app, function, totals)`, sorted by name. The last one is
    /// `("other", "other", …)` where there were more functions than series.
    #[must_use]
    pub fn totals(&self) -> Vec<(Arc<str>, Arc<str>, Totals)> {
        let inner = self.inner.lock();
        let mut all: Vec<_> = inner
            .totals
            .iter()
            .map(|((app, function), totals)| {
                (Arc::clone(app), Arc::clone(function), totals.clone())
            })
            .collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        if inner.other.calls > 0 {
            all.push((OTHER.into(), OTHER.into(), inner.other.clone()));
        }
        all
    }

    /// The totals of one function; `None` before its first request has ended.
    #[must_use]
    pub fn of_function(&self, app: &str, function: &str) -> Option<Totals> {
        let series = (Arc::from(app), Arc::from(function));
        self.inner.lock().totals.get(&series).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(function: &str, duration_us: u64, outcome: &'static str) -> Meter {
        Meter {
            request: u128::from(duration_us),
            app: "app".into(),
            function: function.into(),
            started_us: 0,
            duration_us,
            cpu_us: 2,
            memory_byte_ms: 3,
            bytes_in: 4,
            bytes_out: 5,
            state_reads: 6,
            state_writes: 7,
            outcome,
        }
    }

    #[test]
    fn buckets_are_powers_of_two_with_inclusive_bounds() {
        let cases = [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (1024, 10),
            (1025, 11),
        ];
        for (duration_us, bucket) in cases {
            assert_eq!(latency_bucket(duration_us), bucket, "{duration_us}");
            assert!(latency_bound_us(bucket).is_some_and(|bound| duration_us <= bound));
        }
        assert_eq!(latency_bucket(u64::MAX), LATENCY_BUCKETS - 1);
        assert_eq!(latency_bound_us(LATENCY_BUCKETS - 1), None);
    }

    #[test]
    fn totals_sum_up_by_function_and_outcome() {
        let meters = Meters::new(2, 10);
        meters.record(meter("f", 10, OUTCOME_OK));
        meters.record(meter("f", 20, "timed-out"));
        meters.record(meter("f", 30, OUTCOME_OK));
        meters.record(meter("a", 40, OUTCOME_OK));
        let all = meters.totals();
        let names: Vec<_> = all.iter().map(|(_, function, _)| &**function).collect();
        assert_eq!(names, ["a", "f"]);
        let totals = meters.of_function("app", "f").unwrap_or_default();
        assert_eq!((totals.calls, totals.errors), (3, 1));
        assert_eq!(totals.outcomes, [("ok", 2), ("timed-out", 1)]);
        assert_eq!((totals.duration_us, totals.cpu_us), (60, 6));
        assert_eq!((totals.bytes_in, totals.bytes_out), (12, 15));
        assert_eq!((totals.state_reads, totals.state_writes), (18, 21));
        assert_eq!(totals.memory_byte_ms, 9);
        assert_eq!(totals.latency.iter().sum::<u64>(), 3);
        assert_eq!(meters.recent(10).len(), 2);
        assert_eq!(meters.recent(1)[0].duration_us, 40);
        assert_eq!(
            meters.of_request(30).map(|meter| meter.duration_us),
            Some(30)
        );
        assert_eq!(meters.of_request(10), None);
    }

    #[test]
    fn series_beyond_the_bound_are_counted_together() {
        let meters = Meters::new(0, 1);
        meters.record(meter("f", 10, OUTCOME_OK));
        meters.record(meter("g", 10, OUTCOME_OK));
        meters.record(meter("h", 10, OUTCOME_OK));
        meters.record(meter("f", 10, OUTCOME_OK));
        let calls: Vec<_> = meters
            .totals()
            .iter()
            .map(|(_, function, totals)| (function.to_string(), totals.calls))
            .collect();
        assert_eq!(calls, [("f".to_owned(), 2), ("other".to_owned(), 2)]);
        assert!(meters.recent(10).is_empty());
    }
}
