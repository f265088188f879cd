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
pub(super) struct Timed<'a, F, N> {
    run: Pin<Box<F>>,
    now_us: N,
    sum_us: &'a AtomicU64,
}

impl<'a, F: Future, N: Fn() -> u64 + Unpin> Timed<'a, F, N> {
    pub(super) fn new(now_us: N, sum_us: &'a AtomicU64, run: F) -> Self {
        Self {
            run: Box::pin(run),
            now_us,
            sum_us,
        }
    }
}

impl<F: Future, N: Fn() -> u64 + Unpin> Future for Timed<'_, F, N> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let before_us = INSIDE_US.replace(0);
        let begun_us = (self.now_us)();
        let polled = self.run.as_mut().poll(context);
        let took_us = (self.now_us)().saturating_sub(begun_us);
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
}
