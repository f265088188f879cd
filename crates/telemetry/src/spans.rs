//! Spans of the requests that ended lately, in one ring.
//! This module must not know how spans come about or how they are drawn.

use crate::trace::{SpanId, TraceId};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a span measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpanKind {
    /// A whole request, from admission to answer.
    Request,
    /// One of the times that it was run, where a worker died.
    Attempt,
    /// One function within it.
    Step,
    /// Reading or buffering state.
    State,
    /// Handing values or work from one place to another.
    Handoff,
    /// Waiting for a worker or for another call.
    Wait,
    /// Committing the writes.
    Commit,
    /// Starting a worker.
    Start,
}

/// One measured stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The trace it belongs to.
    pub trace: TraceId,
    /// Its own identity.
    pub id: SpanId,
    /// The span around it; a parent in another process need not be in this ring.
    pub parent: Option<SpanId>,
    /// The request it served.
    #[serde(serialize_with = "crate::serialize_hex")]
    pub request: u128,
    /// What it measures.
    pub kind: SpanKind,
    /// A name for people, such as the function's.
    pub name: Arc<str>,
    /// When it began, in Unix microseconds.
    pub start_us: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The code of the problem it ended with.
    pub error: Option<&'static str>,
}

/// The newest spans of a node.
#[derive(Debug)]
pub struct Spans {
    capacity: usize,
    ring: Mutex<VecDeque<Span>>,
}

impl Spans {
    /// A ring for `capacity` spans. Its memory is taken at once, so that
    /// recording never grows it.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            ring: Mutex::new(VecDeque::with_capacity(capacity)),
        }
    }

    /// Records one span.
    pub fn record(&self, span: Span) {
        if self.capacity == 0 {
            return;
        }
        let mut ring = self.ring.lock();
        let oldest = if ring.len() == self.capacity {
            ring.pop_front()
        } else {
            None
        };
        ring.push_back(span);
        drop(ring);
        // The evicted span frees its name outside the lock.
        drop(oldest);
    }

    /// Records a request's spans under one lock and leaves the vector empty,
    /// with its memory, for the next request.
    pub fn record_all(&self, spans: &mut Vec<Span>) {
        let surplus = spans.len().saturating_sub(self.capacity);
        let mut ring = self.ring.lock();
        let kept = spans.len() - surplus;
        let room = self.capacity - ring.len();
        let evict = kept.saturating_sub(room);
        ring.drain(..evict);
        ring.extend(spans.drain(..).skip(surplus));
    }

    /// The spans of a trace, by their start.
    #[must_use]
    pub fn of_trace(&self, trace: TraceId) -> Vec<Span> {
        self.select(|span| span.trace == trace)
    }

    /// The spans of a request, by their start.
    #[must_use]
    pub fn of_request(&self, request: u128) -> Vec<Span> {
        self.select(|span| span.request == request)
    }

    fn select(&self, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        let mut found: Vec<Span> = {
            let ring = self.ring.lock();
            ring.iter().filter(|span| wanted(span)).cloned().collect()
        };
        // Parents before children that begin in the same microsecond: the longer first.
        found.sort_by_key(|span| (span.start_us, std::cmp::Reverse(span.duration_us)));
        found
    }

    /// How many spans are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.lock().len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(trace: u128, start_us: u64, duration_us: u64) -> Span {
        Span {
            trace: TraceId(trace),
            id: SpanId(start_us + 1),
            parent: None,
            request: trace + 1000,
            kind: SpanKind::Step,
            name: "clean".into(),
            start_us,
            duration_us,
            error: None,
        }
    }

    #[test]
    fn a_trace_comes_back_by_start_with_the_outer_span_first() {
        let spans = Spans::new(8);
        spans.record(span(1, 30, 1));
        spans.record(span(2, 20, 1));
        spans.record(span(1, 10, 5));
        spans.record(span(1, 10, 50));
        let found: Vec<_> = spans
            .of_trace(TraceId(1))
            .iter()
            .map(|span| (span.start_us, span.duration_us))
            .collect();
        assert_eq!(found, [(10, 50), (10, 5), (30, 1)]);
        assert_eq!(spans.of_request(1002).len(), 1);
    }

    #[test]
    fn the_oldest_spans_make_room() {
        let spans = Spans::new(3);
        for start in 0..5 {
            spans.record(span(1, start, 0));
        }
        let starts = |spans: &Spans| -> Vec<u64> {
            let found = spans.of_trace(TraceId(1));
            found.iter().map(|span| span.start_us).collect()
        };
        assert_eq!(starts(&spans), [2, 3, 4]);
        let mut batch = vec![span(1, 5, 0), span(1, 6, 0)];
        spans.record_all(&mut batch);
        assert!(batch.is_empty());
        assert_eq!(starts(&spans), [4, 5, 6]);
        let mut large: Vec<_> = (7..17).map(|start| span(1, start, 0)).collect();
        spans.record_all(&mut large);
        assert_eq!(starts(&spans), [14, 15, 16]);
        assert_eq!(spans.len(), 3);
    }

    #[test]
    fn a_ring_for_nothing_keeps_nothing() {
        let spans = Spans::new(0);
        spans.record(span(1, 0, 0));
        spans.record_all(&mut vec![span(1, 1, 0)]);
        assert!(spans.is_empty());
    }
}
