//! The attempts of a request: when a worker dies, all of it is run again from the start, on a
//! new snapshot and with empty buffers, a few times.

use super::Execution;
use std::sync::atomic::{AtomicU32, Ordering};
use tidemill_problem::{Code, Problem};
use tidemill_telemetry::SpanKind;

/// The numbers by which functions tell attempts apart: those of the request, and those of a function
/// that is run again for its own failures. None is given out twice for the same.
#[derive(Default)]
pub(super) struct Numbers {
    /// That of a function's first run in the request's attempt.
    first: AtomicU32,
    /// The greatest that was given out.
    last: AtomicU32,
}

impl Numbers {
    /// The request's next attempt counts on above all before it.
    fn go_on(&self) {
        let last = self.last.load(Ordering::Relaxed);
        self.first.store(last.saturating_add(1), Ordering::Relaxed);
    }

    /// That of a function which has failed so often in the request's attempt.
    pub(super) fn after(&self, failures: u32) -> u32 {
        let first = self.first.load(Ordering::Relaxed).max(1);
        let number = first.saturating_add(failures);
        self.last.fetch_max(number, Ordering::Relaxed);
        number
    }
}

impl Execution {
    /// The attempt that runs, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed).max(1)
    }

    /// Begins the next attempt. The first one's hand-offs hang on the request's own span.
    pub(crate) fn begin_attempt(&self) {
        let attempt = self.attempt.fetch_add(1, Ordering::Relaxed) + 1;
        if attempt > 1 {
            *self.attempt_span.lock() = self.span_id();
        }
        self.numbers.go_on();
        *self.died.lock() = None;
        *self.session.lock() = None;
        self.session();
    }

    /// Writes down an attempt that has ended. One alone is the request itself.
    pub(crate) fn end_attempt(&self, start_us: u64, error: Option<Code>) {
        let attempt = self.attempt();
        let is_crash = matches!(error, Some(Code::WorkerCrashed | Code::OutOfMemory));
        if attempt == 1 && !is_crash {
            return;
        }
        let id = if attempt == 1 {
            self.span_id()
        } else {
            *self.attempt_span.lock()
        };
        let name = format!("attempt {attempt}").into();
        let parent = Some(self.trace.span);
        self.span(SpanKind::Attempt, &name, id, parent, start_us, error);
    }

    /// Whether the request is run again because a worker died; if so, that is told.
    pub(super) fn is_run_again(&self, problem: &Problem) -> bool {
        let attempts = self.inner.options.limits.crash_retries.saturating_add(1);
        let can = self.attempt() < attempts && !self.has_streamed.load(Ordering::Relaxed);
        if can {
            *self.died.lock() = Some(problem.clone());
            self.death_bell.notify_one();
        }
        can
    }

    /// Waits until a worker has died, and says of what.
    pub(crate) async fn died(&self) -> Problem {
        loop {
            if let Some(problem) = self.died.lock().clone() {
                return problem;
            }
            // It may still ring for an attempt before.
            self.death_bell.notified().await;
        }
    }

    /// Some of the items that left were not kept.
    pub(crate) fn has_dropped_items(&self) -> bool {
        self.has_dropped_items.load(Ordering::Relaxed)
    }

    pub(super) fn drop_items(&self) {
        self.has_dropped_items.store(true, Ordering::Relaxed);
    }

    /// Whether a function's `step` has been recorded.
    pub(crate) fn has_recorded_steps(&self) -> bool {
        self.has_recorded_steps.load(Ordering::Relaxed)
    }

    pub(super) fn note_recorded_step(&self) {
        self.has_recorded_steps.store(true, Ordering::Relaxed);
    }
}
