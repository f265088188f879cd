//! Waiting until several threads have done their part.
//!
//! It knows nothing of what they do.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::Error;

#[derive(Debug, Default)]
struct State {
    open: usize,
    failure: Option<Error>,
}

/// A count of parts that are still to be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latch(Arc<(Mutex<State>, Condvar)>);

/// One part. Dropping it without [`Part::done`] says that it failed.
#[derive(Debug)]
pub(crate) struct Part {
    latch: Latch,
    outcome: Result<(), Error>,
}

impl Latch {
    /// A part to be done.
    pub(crate) fn part(&self) -> Part {
        self.0.0.lock().open += 1;
        Part {
            latch: self.clone(),
            outcome: Err(Error::Closed),
        }
    }

    /// Waits for all parts.
    ///
    /// # Errors
    /// The first failure of a part.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        let (state, changed) = &*self.0;
        let mut state = state.lock();
        while state.open > 0 {
            changed.wait(&mut state);
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Part {
    /// The part is done, or has failed.
    pub(crate) fn done(mut self, outcome: Result<(), Error>) {
        self.outcome = outcome;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let (state, changed) = &*self.latch.0;
        let mut state = state.lock();
        state.open -= 1;
        if let Err(error) = std::mem::replace(&mut self.outcome, Ok(())) {
            state.failure.get_or_insert(error);
        }
        if state.open == 0 {
            changed.notify_all();
        }
    }
}
