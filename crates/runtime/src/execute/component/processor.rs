//! What a component's run takes of the processor: the time spent within its polls, without that
//! of runs polled inside them.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

thread_local! {
    /// Microseconds that runs polled inside the poll that is going on have taken.
    static INSIDE_US: Cell<u64> = const { Cell::new(0) };
}

/// A run whose time is taken, by a clock of microseconds.
pub(super) struct Timed<F, N> {
    run: Pin<Box<F>>,
    now_us: N,
    own_us: u64,
}

impl<F: Future, N: Fn() -> u64 + Unpin> Timed<F, N> {
    pub(super) fn new(now_us: N, run: F) -> Self {
        Self {
            run: Box::pin(run),
            now_us,
            own_us: 0,
        }
    }
}

impl<F: Future, N: Fn() -> u64 + Unpin> Future for Timed<F, N> {
    /// What the run gave, and its microseconds.
    type Output = (F::Output, u64);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let before_us = INSIDE_US.replace(0);
        let begun_us = (self.now_us)();
        let polled = self.run.as_mut().poll(context);
        let took_us = (self.now_us)().saturating_sub(begun_us);
        let inside_us = INSIDE_US.replace(before_us.saturating_add(took_us));
        self.own_us += took_us.saturating_sub(inside_us);
        polled.map(|output| (output, self.own_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

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
        let outer = Timed::new(now_us, async {
            pass(100);
            let inner_us = Timed::new(now_us, inner).await.1;
            pass(10);
            inner_us
        });
        assert_eq!(outer.await, (330, 110));
    }
}
