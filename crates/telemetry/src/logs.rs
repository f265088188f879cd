//! The newest log lines, bounded by bytes, each with a sequence number so that a
//! reader can follow without missing or repeating one.
//! This module must not know where lines come from or how they are sent on.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::Arc;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// The function's standard output.
    Stdout,
    /// The function's standard error.
    Stderr,
    /// The language's logging library.
    Log,
    /// The node itself, about this app.
    Node,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Its place in the order of this node's lines, from 1; assigned by [`Logs::push`].
    pub sequence: u64,
    /// When it was received, in Unix microseconds.
    pub time_us: u64,
    /// The app that wrote it.
    pub app: Arc<str>,
    /// The function that wrote it; empty while an app is being loaded.
    pub function: Arc<str>,
    /// The request it was written for; zero outside requests.
    #[serde(serialize_with = "crate::serialize_hex")]
    pub request: u128,
    /// Where it came from.
    pub stream: Stream,
    /// The level, as the logging library names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The logger's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger: Option<String>,
    /// The text, without its line end.
    pub text: String,
}

impl LogLine {
    /// About how much memory the line takes.
    fn weight_bytes(&self) -> usize {
        size_of::<Self>()
            + self.text.len()
            + self.level.as_ref().map_or(0, String::len)
            + self.logger.as_ref().map_or(0, String::len)
    }
}

/// Which lines to read. The default is all that are held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Only this app's.
    pub app: Option<String>,
    /// Only this function's.
    pub function: Option<String>,
    /// Only this request's.
    pub request: Option<u128>,
    /// Only lines after this sequence number.
    pub after_sequence: Option<u64>,
    /// At most this many: the newest ones, or with `after_sequence` the ones that
    /// follow it, so that a reader who pages misses none.
    pub limit: Option<usize>,
}

impl LogFilter {
    fn wants(&self, line: &LogLine) -> bool {
        self.app.as_deref().is_none_or(|app| app == &*line.app)
            && self
                .function
                .as_deref()
                .is_none_or(|function| function == &*line.function)
            && self.request.is_none_or(|request| request == line.request)
    }
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    held_bytes: usize,
    latest_sequence: u64,
}

/// The newest lines of a node.
#[derive(Debug)]
pub struct Logs {
    max_bytes: usize,
    ring: Mutex<Ring>,
}

impl Logs {
    /// A ring for about `max_bytes` of lines.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            ring: Mutex::default(),
        }
    }

    /// Adds a line and gives it the next sequence number, which is returned.
    /// The oldest lines make room; the newest one stays even if it alone is
    /// larger than the ring.
    pub fn push(&self, mut line: LogLine) -> u64 {
        let weight = line.weight_bytes();
        let mut ring = self.ring.lock();
        ring.latest_sequence += 1;
        line.sequence = ring.latest_sequence;
        while ring.held_bytes + weight > self.max_bytes {
            let Some(oldest) = ring.lines.pop_front() else {
                break;
            };
            ring.held_bytes -= oldest.weight_bytes();
        }
        ring.held_bytes += weight;
        ring.lines.push_back(line);
        ring.latest_sequence
    }

    /// Lines that the filter wants, oldest first.
    #[must_use]
    pub fn query(&self, filter: &LogFilter) -> Vec<LogLine> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        let ring = self.ring.lock();
        let Some(after) = filter.after_sequence else {
            let newest = ring.lines.iter().rev().filter(|line| filter.wants(line));
            let mut found: Vec<_> = newest.take(limit).cloned().collect();
            found.reverse();
            return found;
        };
        let first = ring.lines.partition_point(|line| line.sequence <= after);
        let later = ring.lines.range(first..).filter(|line| filter.wants(line));
        later.take(limit).cloned().collect()
    }

    /// The number of the newest line ever pushed; zero before the first.
    #[must_use]
    pub fn latest_sequence(&self) -> u64 {
        self.ring.lock().latest_sequence
    }

    /// The number of the oldest line still held; one above
    /// [`Self::latest_sequence`] when none is.
    #[must_use]
    pub fn first_sequence(&self) -> u64 {
        let ring = self.ring.lock();
        let first = ring.lines.front().map(|line| line.sequence);
        first.unwrap_or(ring.latest_sequence + 1)
    }

    /// How many lines have made room for later ones.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.first_sequence() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(app: &str, request: u128, text: &str) -> LogLine {
        LogLine {
            sequence: 0,
            time_us: 1,
            app: app.into(),
            function: "f".into(),
            request,
            stream: Stream::Stdout,
            level: None,
            logger: None,
            text: text.into(),
        }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_are_numbered_and_filtered() {
        let logs = Logs::new(1 << 20);
        assert_eq!(logs.first_sequence(), 1);
        logs.push(line("a", 7, "one"));
        logs.push(line("b", 8, "two"));
        assert_eq!(logs.push(line("a", 9, "three")), 3);
        let of_a = LogFilter {
            app: Some("a".into()),
            ..LogFilter::default()
        };
        assert_eq!(texts(&logs.query(&of_a)), ["one", "three"]);
        let of_request = LogFilter {
            request: Some(8),
            ..LogFilter::default()
        };
        assert_eq!(texts(&logs.query(&of_request)), ["two"]);
        let of_function = LogFilter {
            function: Some("g".into()),
            ..LogFilter::default()
        };
        assert!(logs.query(&of_function).is_empty());
    }

    #[test]
    fn a_limit_means_the_newest_unless_one_follows() {
        let logs = Logs::new(1 << 20);
        for text in ["1", "2", "3", "4", "5"] {
            logs.push(line("a", 0, text));
        }
        let mut filter = LogFilter {
            limit: Some(2),
            ..LogFilter::default()
        };
        assert_eq!(texts(&logs.query(&filter)), ["4", "5"]);
        filter.after_sequence = Some(1);
        assert_eq!(texts(&logs.query(&filter)), ["2", "3"]);
        filter.after_sequence = Some(5);
        assert!(logs.query(&filter).is_empty());
    }

    #[test]
    fn bytes_bound_the_ring_and_the_dropped_are_counted() {
        let weight = line("a", 0, &"x".repeat(100)).weight_bytes();
        let logs = Logs::new(3 * weight);
        for _ in 0..10 {
            logs.push(line("a", 0, &"x".repeat(100)));
        }
        assert_eq!(logs.query(&LogFilter::default()).len(), 3);
        assert_eq!(logs.first_sequence(), 8);
        assert_eq!(logs.dropped(), 7);
        logs.push(line("a", 0, &"y".repeat(100 * weight)));
        assert_eq!(logs.query(&LogFilter::default()).len(), 1);
        assert_eq!(logs.latest_sequence(), 11);
    }

    #[test]
    fn a_line_shows_its_request_in_hexadecimal() {
        let json = serde_json::to_value(line("a", 0x2a, "hello")).unwrap_or_default();
        assert_eq!(json["request"], "0000000000000000000000000000002a");
        assert_eq!(json["stream"], "stdout");
        assert!(json.get("level").is_none());
    }
}
