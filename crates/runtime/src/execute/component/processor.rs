//! What a component's run takes of the processor: the time spent within its polls, without that
//! of runs polled inside them.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

thread_local! {
    /// Microseconds that runs polled inside the poll that is going on have taken.
    static INSIDE_US: Cell<u64> = const { Cell::new(0) };
}

/// A run whose time is added to a sum, by a clock of microseconds: poll by poll, so that one
/// which is dropped in the middle has been counted, too.
pub(super) struct Timed<'a, F: Future, N> {
    run: Pin<Box<F>>,
    now_us: N,
    sum_us: &'a AtomicU64,
    begun_us: Option<u64>,
    ended_us: fn(&F::Output) -> Option<u64>,
}

impl<'a, F: Future, N: Fn() -> u64 + Unpin> Timed<'a, F, N> {
    pub(super) fn new(now_us: N, sum_us: &'a AtomicU64, run: F) -> Self {
        Self {
            run: Box::pin(run),
            now_us,
            sum_us,
            begun_us: None,
            ended_us: |_| None,
        }
    }

    /// Spares looks at the clock: one that was taken just before the first poll, and one that the
    /// run itself has taken at its end.
    pub(super) fn looked_at(
        mut self,
        begun_us: u64,
        ended_us: fn(&F::Output) -> Option<u64>,
    ) -> Self {
        self.begun_us = Some(begun_us);
        self.ended_us = ended_us;
        self
    }
}

impl<F: Future, N: Fn() -> u64 + Unpin> Future for Timed<'_, F, N> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let before_us = INSIDE_US.replace(0);
        let begun_us = self.begun_us.take().unwrap_or_else(|| (self.now_us)());
        let polled = self.run.as_mut().poll(context);
        let looked_us = match &polled {
            Poll::Ready(output) => (self.ended_us)(output),
            Poll::Pending => None,
        };
        let ended_us = looked_us.unwrap_or_else(|| (self.now_us)());
        let took_us = ended_us.saturating_sub(begun_us);
        let inside_us = INSIDE_US.replace(before_us.saturating_add(took_us));
        let own_us = took_us.saturating_sub(inside_us);
        self.sum_us.fetch_add(own_us, Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[tokio::test]
    async fn a_run_inside_another_is_counted_once_and_waiting_not_at_all() {
        let clock = AtomicU64::new(0);
        let now_us = || clock.load(Ordering::Relaxed);
        let pass = |us| clock.fetch_add(us, Ordering::Relaxed);
        let inner = async {
            pass(300);
            tokio::task::yield_now().await;
            pass(30);
        };
        let (outer_us, inner_us) = (AtomicU64::new(0), AtomicU64::new(0));
        let outer = Timed::new(now_us, &outer_us, async {
            pass(100);
            Timed::new(now_us, &inner_us, inner).await;
            pass(10);
        });
        outer.await;
        assert_eq!((inner_us.into_inner(), outer_us.into_inner()), (330, 110));
    }

    #[tokio::test]
    async fn looks_that_others_took_count_for_the_first_poll_and_the_last() {
        let clock = AtomicU64::new(50);
        let now_us = || clock.load(Ordering::Relaxed);
        let pass = |us| clock.fetch_add(us, Ordering::Relaxed) + us;
        let sum_us = AtomicU64::new(0);
        let begun_us = pass(1);
        // Between that look and the first poll, and between the run's own look and its end.
        pass(4);
        let run = async {
            pass(100);
            tokio::task::yield_now().await;
            let ended_us = pass(20);
            pass(7);
            ended_us
        };
        let ended_us = Timed::new(now_us, &sum_us, run)
            .looked_at(begun_us, |ended_us| Some(*ended_us))
            .await;
        assert_eq!((ended_us, sum_us.into_inner()), (175, 124));
    }
}
