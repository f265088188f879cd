//! The calls that a running function has made: which are running, which have ended
//! and wait to be asked for, and who waits for which.

use super::Outcome;
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use tidemill_flow::StepId;
use tidemill_problem::{Code, Problem};
use tokio::time::Instant;

/// A child's run.
pub(super) type Run = BoxFuture<'static, Result<Outcome, Problem>>;

/// A child that has ended.
pub(super) struct Finished {
    pub(super) call: u32,
    pub(super) step: StepId,
    pub(super) result: Result<Outcome, Problem>,
}

struct Waiter {
    seq: u64,
    until: Option<Instant>,
}

/// The children of one hand-off.
#[derive(Default)]
pub(super) struct Children {
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    handles: BTreeMap<u32, AbortHandle>,
    finished: BTreeMap<u32, Finished>,
    waiters: BTreeMap<u32, Waiter>,
    shown_blocked: bool,
}

impl Children {
    /// Calls that are running, or have ended and were not asked for.
    pub(super) fn count(&self) -> usize {
        self.running.len() + self.finished.len()
    }

    /// Starts a child, or notes that it could not be started.
    pub(super) fn add(&mut self, call: u32, step: StepId, run: Result<Run, Problem>) {
        let (handle, registration) = AbortHandle::new_pair();
        let run = match run {
            Ok(run) => run,
            Err(problem) => Box::pin(async move { Err(problem) }) as Run,
        };
        let run = Abortable::new(run, registration);
        self.handles.insert(call, handle);
        self.running.push(Box::pin(async move {
            let cancelled = |_| Err(Problem::new(Code::Cancelled, "the call was cancelled"));
            Finished {
                call,
                step,
                result: run.await.unwrap_or_else(cancelled),
            }
        }));
    }

    /// The next child to end. Never ends while none is running.
    pub(super) async fn next(&mut self) -> Finished {
        match self.running.next().await {
            Some(finished) => {
                self.handles.remove(&finished.call);
                finished
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn knows(&self, call: u32) -> bool {
        self.handles.contains_key(&call) || self.finished.contains_key(&call)
    }

    pub(super) fn cancel(&mut self, call: u32) {
        if let Some(handle) = self.handles.get(&call) {
            handle.abort();
        }
    }

    /// Notes that the frame `seq` waits for a call.
    pub(super) fn wait(&mut self, call: u32, seq: u64, until: Option<Instant>) {
        self.waiters.insert(call, Waiter { seq, until });
    }

    /// Who waits for this call, if anybody: no more after this.
    pub(super) fn waiter(&mut self, call: u32) -> Option<u64> {
        self.waiters.remove(&call).map(|waiter| waiter.seq)
    }

    /// Keeps a result until it is asked for.
    pub(super) fn keep(&mut self, finished: Finished) {
        self.finished.insert(finished.call, finished);
    }

    pub(super) fn take_finished(&mut self, call: u32) -> Option<Finished> {
        self.finished.remove(&call)
    }

    /// The kept result of the earliest call.
    pub(super) fn take_any_finished(&mut self) -> Option<Finished> {
        self.finished.pop_first().map(|(_, finished)| finished)
    }

    /// When the first of those who wait gives up.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.waiters
            .values()
            .filter_map(|waiter| waiter.until)
            .min()
    }

    /// Those who give up now.
    pub(super) fn timed_out(&mut self, now: Instant) -> Vec<u64> {
        let due = |waiter: &Waiter| waiter.until.is_some_and(|until| until <= now);
        let gone = self
            .waiters
            .values()
            .filter(|waiter| due(waiter))
            .map(|w| w.seq)
            .collect();
        self.waiters.retain(|_, waiter| !due(waiter));
        gone
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// What to tell the pool, when it is news.
    pub(super) fn blocked_changed(&mut self, blocked: bool) -> Option<bool> {
        (self.shown_blocked != blocked).then(|| {
            self.shown_blocked = blocked;
            blocked
        })
    }
}
