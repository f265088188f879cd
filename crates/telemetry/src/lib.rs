//! What happened lately, in bounded memory: log lines, spans and meters.
//!
//! Writers hand in finished records with their times; a write takes one short
//! lock, and the oldest records make room. Readers get copies. This room does no
//! I/O, reads no clock, draws no identifiers, and must not know who writes or who
//! reads: no functions, no HTTP, no export format.

mod logs;
mod meters;
mod spans;
mod trace;

pub use logs::{LogFilter, LogLine, Logs, Stream};
pub use meters::{LATENCY_BUCKETS, Meter, Meters, OUTCOME_OK, Totals, latency_bound_us};
pub use spans::{Span, SpanKind, Spans};
pub use trace::{ParseIdError, SpanId, TraceContext, TraceId};

/// How much is kept. Plain numbers, so that a settings file can hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of log lines kept, their bookkeeping included.
    pub log_bytes: usize,
    /// Spans kept.
    pub span_count: usize,
    /// Meters of single requests kept.
    pub meter_count: usize,
    /// Functions with totals of their own; the ones after that share one series.
    pub series_count: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_bytes: 32 << 20,
            span_count: 1 << 16,
            meter_count: 4096,
            series_count: 1024,
        }
    }
}

/// The three rings of a node.
#[derive(Debug)]
pub struct Telemetry {
    /// Output of functions and notices of the node.
    pub logs: Logs,
    /// Spans of requests.
    pub spans: Spans,
    /// What requests used.
    pub meters: Meters,
}

impl Telemetry {
    /// Empty rings of these sizes.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            logs: Logs::new(options.log_bytes),
            spans: Spans::new(options.span_count),
            meters: Meters::new(options.meter_count, options.series_count),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

/// Writes a 128-bit identity as JSON has it everywhere: 32 hexadecimal digits.
fn serialize_hex<S: serde::Serializer>(id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{id:032x}"))
}
