//! How many writes of one thread are on their way at a time. Knows nothing of the writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};

/// Lets its thread have at most so many writes on their way, and wakes it when half are done,
/// so that it does not wait for each.
#[derive(Debug)]
pub(crate) struct Window {
    flying: AtomicUsize,
    most: usize,
    thread: Thread,
}

impl Window {
    /// For the thread that calls this; only that one may wait.
    pub(crate) fn new(most: usize) -> Arc<Window> {
        Arc::new(Window {
            flying: AtomicUsize::new(0),
            most,
            thread: thread::current(),
        })
    }

    /// Before a write.
    pub(crate) fn enter(&self) {
        if self.flying.fetch_add(1, Ordering::AcqRel) >= self.most {
            self.wait(self.most / 2);
        }
    }

    /// When a write is done, on any thread.
    pub(crate) fn leave(&self) {
        let left = self.flying.fetch_sub(1, Ordering::AcqRel) - 1;
        if left == 0 || left == self.most / 2 {
            self.thread.unpark();
        }
    }

    /// Until all writes are done.
    pub(crate) fn drain(&self) {
        self.wait(0);
    }

    fn wait(&self, most: usize) {
        while self.flying.load(Ordering::Acquire) > most {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Window;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_full_window_waits_and_an_emptied_one_goes_on() {
        let window = Window::new(8);
        let (send, receive) = mpsc::channel::<usize>();
        let other = std::sync::Arc::clone(&window);
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut most = 0;
                for _ in receive {
                    most = most.max(other.flying.load(Ordering::Acquire));
                    other.leave();
                }
                // One over: the write that is waiting to be let in counts.
                assert!(most <= 9, "{most} were on their way");
            });
            for number in 0..10_000 {
                window.enter();
                send.send(number).expect("the other end is there");
            }
            drop(send);
            window.drain();
            assert_eq!(window.flying.load(Ordering::Acquire), 0);
        });
    }
}
