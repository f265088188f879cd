//! A future that wakes itself while it is polled is polled again at once.
//!
//! A connection does so with each request that has a body: asking for the body wakes whoever reads
//! the connection, which is the same task. The runtime takes that for a task that gives way: it
//! queues it and wakes another thread to take it, which finds nothing to do. On a machine with few
//! processors that thread takes the one that the client needs. It must not know what is polled.

use futures_util::task::AtomicWaker;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// So often in a row; then others have their turn.
const POLLS_MAX: usize = 4;

const RESTING: u8 = 0;
const POLLED: u8 = 1;
/// Woken while it was polled.
const RUNG: u8 = 2;

/// Tells a wake in the middle of a poll from one at rest.
struct Bell {
    state: AtomicU8,
    outer: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let rung = |state| (state != RESTING).then_some(RUNG);
        let order = Ordering::AcqRel;
        if self
            .state
            .fetch_update(order, Ordering::Acquire, rung)
            .is_err()
        {
            self.outer.wake();
        }
    }
}

/// See the module.
pub(crate) struct Again<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

impl<F: Future> Again<F> {
    pub(crate) fn new(inner: F) -> Self {
        let bell = Arc::new(Bell {
            state: AtomicU8::new(RESTING),
            outer: AtomicWaker::new(),
        });
        Self {
            inner: Box::pin(inner),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
        }
    }
}

impl<F: Future> Future for Again<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { inner, bell, waker } = &mut *self;
        // Before the state says that it rests, so that no wake finds nobody.
        bell.outer.register(context.waker());
        for _ in 0..POLLS_MAX {
            bell.state.store(POLLED, Ordering::Release);
            if let Poll::Ready(output) = inner.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            let rests =
                bell.state
                    .compare_exchange(POLLED, RESTING, Ordering::AcqRel, Ordering::Acquire);
            if rests.is_ok() {
                return Poll::Pending;
            }
        }
        bell.state.store(RESTING, Ordering::Release);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::{ArcWake, waker};
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll::{Pending, Ready};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl ArcWake for Counting {
        fn wake_by_ref(counting: &Arc<Self>) {
            counting.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Wakes itself in its first `times` polls, and ends in the one after `ends`.
    fn future(times: usize, ends: usize, polls: &Arc<AtomicUsize>) -> impl Future<Output = ()> {
        let polls = Arc::clone(polls);
        futures_util::future::poll_fn(move |context| {
            let poll = polls.fetch_add(1, Ordering::SeqCst);
            if poll < times {
                context.waker().wake_by_ref();
            }
            if poll >= ends { Ready(()) } else { Pending }
        })
    }

    fn poll_once(times: usize, ends: usize) -> (Poll<()>, usize, usize) {
        let (polls, wakes) = (Arc::default(), Arc::new(Counting::default()));
        let mut again = Again::new(future(times, ends, &polls));
        let outer = waker(Arc::clone(&wakes));
        let polled = Pin::new(&mut again).poll(&mut Context::from_waker(&outer));
        (
            polled,
            polls.load(Ordering::SeqCst),
            wakes.0.load(Ordering::SeqCst),
        )
    }

    #[test]
    fn what_wakes_itself_is_polled_again_and_nobody_is_told() {
        assert_eq!(poll_once(0, 9), (Pending, 1, 0));
        assert_eq!(poll_once(1, 9), (Pending, 2, 0));
        assert_eq!(poll_once(1, 1), (Ready(()), 2, 0));
    }

    #[test]
    fn what_wakes_itself_for_ever_gives_way() {
        assert_eq!(poll_once(99, 999), (Pending, POLLS_MAX, 1));
    }

    #[test]
    fn a_wake_at_rest_reaches_the_task_that_polled_last() {
        let kept = Arc::new(AtomicWaker::new());
        let keeps = Arc::clone(&kept);
        let mut again = Again::new(futures_util::future::poll_fn(move |context| {
            keeps.register(context.waker());
            Poll::<()>::Pending
        }));
        let (first, second) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
        for wakes in [&first, &second] {
            let outer = waker(Arc::clone(wakes));
            let polled = Pin::new(&mut again).poll(&mut Context::from_waker(&outer));
            assert!(polled.is_pending());
        }
        kept.wake();
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
        assert_eq!(second.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_another_thread_is_lost() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let reading = tokio::spawn(Again::new(async move {
            let mut sum = 0_u64;
            while let Some(number) = receiver.recv().await {
                sum += number;
            }
            sum
        }));
        for number in 0..20_000 {
            sender.send(number).await.expect("it reads on");
        }
        drop(sender);
        assert_eq!(reading.await.expect("it ends"), 19_999 * 20_000 / 2);
    }
}
