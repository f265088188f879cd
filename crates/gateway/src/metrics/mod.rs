//! `/metrics`: the node's numbers in the OpenMetrics text format.
//!
//! Everything is read when asked for, so that counting costs the calls nothing
//! beyond what telemetry does anyway.

mod store;

use crate::routes::{Context, ROUTES, Route, WEB};
use crate::state::Shared;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemill_problem::{Code, Problem};
use tidemill_runtime::Gauges;
use tidemill_scheduler::PoolStats;
use tidemill_telemetry::{Totals, latency_bound_us};

/// The classes of HTTP status, by their first digit less one.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All that answers are counted of.
fn routes() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain([&WEB])
}

/// How often each route answered with each class of status.
pub(crate) struct HttpCounts {
    counts: Box<[[AtomicU64; CLASSES.len()]]>,
}

impl Default for HttpCounts {
    fn default() -> Self {
        Self {
            counts: routes().map(|_| Default::default()).collect(),
        }
    }
}

impl HttpCounts {
    /// Counts one answer.
    pub(crate) fn count(&self, route: &Route, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        let row = self.counts.get(route.operation as usize);
        if let Some(count) = row.and_then(|row| row.get(class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers of all kinds.
    pub(crate) fn answers(&self) -> u64 {
        let counts = self.counts.iter().flatten();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn family(&self) -> Family {
        let mut family = Family::new("tidemill_http_answers", "HTTP answers.", Shape::Counter);
        for route in routes() {
            let Some(row) = self.counts.get(route.operation as usize) else {
                continue;
            };
            for (class, count) in CLASSES.iter().zip(row) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = [("operation", route.id), ("status", class)];
                    family.add(&labels, Number::Whole(count));
                }
            }
        }
        family
    }
}

/// `GET /metrics`
pub(crate) fn show(context: &Context<'_>) -> Result<Response, Problem> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(gather(context.state))));
    let mut text = String::new();
    text::encode(&mut text, &registry).map_err(|error| {
        Problem::new(
            Code::Internal,
            format!("the metrics cannot be written: {error}"),
        )
    })?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    Ok(response)
}

fn gather(state: &Shared) -> Vec<Family> {
    let gauges = state.runtime.gauges();
    let now_us = state.clock.now_micros();
    let uptime_s = now_us.saturating_sub(state.node.started_us) as f64 / 1e6;
    let logs = &state.telemetry.logs;
    let mut families = vec![
        Family::single(
            "tidemill_uptime_seconds",
            "Time since the node started.",
            Shape::Gauge,
            Number::Real(uptime_s),
        ),
        Family::single(
            "tidemill_log_lines",
            "Log lines received.",
            Shape::Counter,
            Number::Whole(logs.latest_sequence()),
        ),
        Family::single(
            "tidemill_log_lines_dropped",
            "Log lines that made room for later ones.",
            Shape::Counter,
            Number::Whole(logs.dropped()),
        ),
        state.counts.family(),
    ];
    families.extend(of_functions(&state.telemetry.meters.totals()));
    families.extend(of_runtime(&gauges));
    families.extend(store::families(&gauges.store));
    families.extend(store::inside(&state.runtime.observe()));
    families
}

type Series = (Arc<str>, Arc<str>, Totals);

fn of_functions(totals: &[Series]) -> Vec<Family> {
    let sum = |name, help, of: fn(&Totals) -> Number| {
        let mut family = Family::new(name, help, Shape::Counter);
        for (app, function, totals) in totals {
            family.add(&[("app", app), ("function", function)], of(totals));
        }
        family
    };
    let mut requests = Family::new(
        "tidemill_requests",
        "Requests ended, by outcome.",
        Shape::Counter,
    );
    let mut latency = Family::new(
        "tidemill_request_seconds",
        "Time of requests.",
        Shape::Histogram,
    );
    for (app, function, totals) in totals {
        for (outcome, count) in &totals.outcomes {
            let labels = [
                ("app", &**app),
                ("function", &**function),
                ("outcome", outcome),
            ];
            requests.add(&labels, Number::Whole(*count));
        }
        let labels = [("app", &**app), ("function", &**function)];
        latency.add(&labels, histogram(totals));
    }
    vec![
        requests,
        latency,
        sum("tidemill_cpu_seconds", "CPU time of workers.", |totals| {
            Number::Real(totals.cpu_us as f64 / 1e6)
        }),
        sum(
            "tidemill_memory_byte_seconds",
            "Memory of workers times the time they ran.",
            |totals| Number::Real(totals.memory_byte_ms as f64 / 1e3),
        ),
        sum("tidemill_argument_bytes", "Bytes of arguments.", |totals| {
            Number::Whole(totals.bytes_in)
        }),
        sum("tidemill_result_bytes", "Bytes of results.", |totals| {
            Number::Whole(totals.bytes_out)
        }),
        sum(
            "tidemill_state_reads",
            "Keys read by functions.",
            |totals| Number::Whole(totals.state_reads),
        ),
        sum(
            "tidemill_state_writes",
            "Operations on keys by functions.",
            |totals| Number::Whole(totals.state_writes),
        ),
    ]
}

fn histogram(totals: &Totals) -> Number {
    let buckets = totals.latency.iter().enumerate();
    Number::Histogram {
        sum: totals.duration_us as f64 / 1e6,
        count: totals.calls,
        buckets: buckets
            .map(|(index, count)| {
                // The encoder writes the greatest float as +Inf.
                let bound_s = latency_bound_us(index).map_or(f64::MAX, |us| us as f64 / 1e6);
                (bound_s, *count)
            })
            .collect(),
    }
}

fn of_runtime(gauges: &Gauges) -> Vec<Family> {
    let gauge = |name, help, value: usize| {
        Family::single(name, help, Shape::Gauge, Number::Whole(value as u64))
    };
    let mut waiting = Family::new(
        "tidemill_requests_waiting",
        "Requests that wait for a worker.",
        Shape::Gauge,
    );
    let mut workers = Family::new(
        "tidemill_workers",
        "Worker processes, by what they do.",
        Shape::Gauge,
    );
    for (app, pool) in sum_by_app(&gauges.pools) {
        waiting.add(&[("app", app)], Number::Whole(pool.waiting as u64));
        let states = [
            ("active", pool.active),
            ("blocked", pool.blocked),
            ("idle", pool.idle),
            ("starting", pool.starting),
            ("stopping", pool.stopping),
        ];
        for (state, count) in states {
            workers.add(
                &[("app", app), ("state", state)],
                Number::Whole(count as u64),
            );
        }
    }
    let mut instances = Family::new(
        "tidemill_instances",
        "Instances of components, by what they do.",
        Shape::Gauge,
    );
    for (app, all) in &gauges.instances {
        for (state, count) in [("active", all.active), ("idle", all.idle)] {
            instances.add(
                &[("app", app), ("state", state)],
                Number::Whole(count as u64),
            );
        }
    }
    vec![
        gauge("tidemill_apps", "Apps deployed.", gauges.apps),
        gauge(
            "tidemill_requests_running",
            "Requests admitted and not ended.",
            gauges.requests_running,
        ),
        waiting,
        workers,
        instances,
    ]
}

/// What the pools of an app do together.
#[derive(Default)]
struct Pool {
    waiting: usize,
    active: usize,
    blocked: usize,
    idle: usize,
    starting: usize,
    stopping: usize,
}

fn sum_by_app(pools: &[(Arc<str>, PoolStats)]) -> BTreeMap<&str, Pool> {
    let mut sums: BTreeMap<&str, Pool> = BTreeMap::new();
    for (app, pool) in pools {
        let sum = sums.entry(app).or_default();
        sum.waiting += pool.waiting;
        sum.active += pool.active;
        sum.blocked += pool.blocked;
        sum.idle += pool.idle;
        sum.starting += pool.starting;
        sum.stopping += pool.stopping;
    }
    sums
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
enum Number {
    Whole(u64),
    Real(f64),
    Histogram {
        sum: f64,
        count: u64,
        buckets: Vec<(f64, u64)>,
    },
}

/// One metric with its samples.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    shape: Shape,
    samples: Vec<(Vec<(&'static str, String)>, Number)>,
}

impl Family {
    fn new(name: &'static str, help: &'static str, shape: Shape) -> Self {
        Self {
            name,
            help,
            shape,
            samples: Vec::new(),
        }
    }

    fn single(name: &'static str, help: &'static str, shape: Shape, number: Number) -> Self {
        let mut family = Self::new(name, help, shape);
        family.samples.push((Vec::new(), number));
        family
    }

    fn add(&mut self, labels: &[(&'static str, &str)], number: Number) {
        let labels = labels.iter().map(|(name, value)| (*name, escaped(value)));
        self.samples.push((labels.collect(), number));
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.samples.is_empty() {
            return Ok(());
        }
        let metric_type = match self.shape {
            Shape::Counter => MetricType::Counter,
            Shape::Gauge => MetricType::Gauge,
            Shape::Histogram => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, metric_type)?;
        for (labels, number) in &self.samples {
            if labels.is_empty() {
                number.encode(self.shape, &mut metric)?;
            } else {
                number.encode(self.shape, &mut metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Number {
    fn encode(&self, shape: Shape, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (shape, self) {
            (Shape::Counter, Self::Whole(value)) => {
                encoder.encode_counter::<NoLabelSet, _, f64>(value, None)
            }
            (Shape::Counter, Self::Real(value)) => {
                encoder.encode_counter::<NoLabelSet, _, f64>(value, None)
            }
            (_, Self::Whole(value)) => encoder.encode_gauge(value),
            (_, Self::Real(value)) => encoder.encode_gauge(value),
            (
                _,
                Self::Histogram {
                    sum,
                    count,
                    buckets,
                },
            ) => encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None),
        }
    }
}

/// A label's value as the text format has it; the encoder writes it as it is.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn encoded(families: Vec<Family>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Families(families)));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes everything");
        text
    }

    #[test]
    fn functions_show_outcomes_and_a_cumulative_histogram() {
        let mut totals = Totals {
            calls: 3,
            outcomes: vec![("ok", 2), ("timed-out", 1)],
            duration_us: 1_000_000,
            cpu_us: 500_000,
            ..Totals::default()
        };
        totals.latency[0] = 1;
        totals.latency[10] = 1;
        totals.latency[31] = 1;
        let text = encoded(of_functions(&[("a".into(), "f\"".into(), totals)]));
        let expected = [
            "tidemill_requests_total{app=\"a\",function=\"f\\\"\",outcome=\"ok\"} 2",
            "tidemill_requests_total{app=\"a\",function=\"f\\\"\",outcome=\"timed-out\"} 1",
            "tidemill_request_seconds_sum{app=\"a\",function=\"f\\\"\"} 1.0",
            "tidemill_request_seconds_bucket{le=\"0.001024\",app=\"a\",function=\"f\\\"\"} 2",
            "tidemill_request_seconds_bucket{le=\"+Inf\",app=\"a\",function=\"f\\\"\"} 3",
            "tidemill_cpu_seconds_total{app=\"a\",function=\"f\\\"\"} 0.5",
        ];
        for line in expected {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn answers_are_counted_by_route_and_class() {
        let counts = HttpCounts::default();
        let call = ROUTES
            .iter()
            .find(|route| route.id == "call")
            .expect("the route");
        counts.count(call, StatusCode::OK);
        counts.count(call, StatusCode::OK);
        counts.count(call, StatusCode::from_u16(499).expect("a status"));
        let text = encoded(vec![counts.family()]);
        assert!(
            text.contains("{operation=\"call\",status=\"2xx\"} 2"),
            "{text}"
        );
        assert!(
            text.contains("{operation=\"call\",status=\"4xx\"} 1"),
            "{text}"
        );
        assert!(!text.contains("5xx"), "{text}");
    }

    #[test]
    fn routes_stand_in_the_order_of_their_operations() {
        for (index, route) in ROUTES.iter().enumerate() {
            assert_eq!(route.operation as usize, index, "{}", route.id);
        }
    }
}
