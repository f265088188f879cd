//! Who waits for the newest complete state to pass a time.
//!
//! It knows times and what to call, not who draws times or why somebody waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tidemill_lattice::Time;

use crate::embedded::Inner;

/// What is called once a time is stable.
type Then = Box<dyn FnOnce() + Send>;

/// Those who wait, and how many: so that a release which nobody waits for costs one look.
#[derive(Default)]
pub(crate) struct Unstable {
    waiting: Mutex<Vec<(Time, Then)>>,
    count: AtomicUsize,
}

impl Unstable {
    fn add(&self, time: Time, then: Then) {
        let mut waiting = self.waiting.lock();
        waiting.push((time, then));
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Takes out those whom `stable` has passed.
    fn take(&self, stable: Time) -> Vec<(Time, Then)> {
        let mut waiting = self.waiting.lock();
        let passed = waiting
            .extract_if(.., |(time, _)| *time <= stable)
            .collect();
        self.count.store(waiting.len(), Ordering::SeqCst);
        passed
    }
}

impl Inner {
    /// Calls `then`, on some thread, once every new snapshot has what was committed at `time`:
    /// others may hold the frontier below it for a moment. Where writing has failed they may
    /// hold it for ever, and `then` is called at once.
    pub(crate) fn when_stable(&self, time: Time, then: impl FnOnce() + Send + 'static) {
        if self.advance() >= time || self.failure().is_some() {
            return then();
        }
        self.unstable.add(time, Box::new(then));
        // The frontier may have passed before anybody could see this one wait.
        self.wake_stable();
    }

    /// Calls those whom the frontier has passed. After every release of a slot.
    pub(crate) fn wake_stable(&self) {
        if self.unstable.is_empty() {
            return;
        }
        let stable = if self.failure().is_some() {
            Time::MAX
        } else {
            self.advance()
        };
        for (_, then) in self.unstable.take(stable) {
            then();
        }
    }
}
