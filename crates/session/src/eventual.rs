//! Writes of the level `eventual`: each goes to its key's owner at once, alone.
//!
//! There is no snapshot, no buffer and no commit: an operation is decided on the newest state of
//! its key and stands whatever becomes of the request. What is kept here is how many are on
//! their way, so that whoever answers an operation can wait until it is applied.

use crate::Error;
use parking_lot::Mutex;
use std::sync::Arc;
use tidemill_lattice::{Cell, Dot, Key, Op, OpError, Time};
use tidemill_store::{Durability, Store, Update};

/// Called once all writes begun before are applied, with the first one's failure if one failed.
pub type Settled = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The writes of one request that are on their way.
#[derive(Default)]
pub(crate) struct Writes {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    flying: usize,
    /// The greatest time of a write that is applied.
    last: Time,
    /// The first failure since somebody asked.
    failed: Option<Error>,
    waiting: Vec<Settled>,
}

impl Writes {
    /// Sends one operation to its key's owner.
    pub(crate) fn send(
        self: &Arc<Self>,
        store: &dyn Store,
        durability: Durability,
        key: &Key,
        op: &Op,
    ) {
        self.state.lock().flying += 1;
        let refused: Arc<Mutex<Option<OpError>>> = Arc::default();
        let (op, slot) = (op.clone(), Arc::clone(&refused));
        let decide = move |seen: Option<&Cell>, at: Time, dots: &mut dyn FnMut() -> Dot| {
            Cell::delta(seen, &op, at, dots)
                .map_err(|error| *slot.lock() = Some(error))
                .ok()
        };
        let update = Update {
            key: key.clone(),
            durability,
            decide: Box::new(decide),
        };
        let (writes, key) = (Arc::clone(self), key.clone());
        let done = move |outcome: Result<tidemill_store::Committed, tidemill_store::Error>| {
            let refused = refused.lock().take();
            writes.landed(match (outcome, refused) {
                (Err(error), _) => Err(Error::Store(error)),
                (Ok(_), Some(source)) => Err(Error::Operation { key, source }),
                (Ok(committed), None) => Ok(committed.time),
            });
        };
        store.update(update, Box::new(done));
    }

    fn landed(&self, outcome: Result<Time, Error>) {
        let (waiting, failed) = {
            let mut state = self.state.lock();
            state.flying -= 1;
            match outcome {
                Ok(time) => state.last = state.last.max(time),
                Err(error) => {
                    state.failed.get_or_insert(error);
                }
            }
            if state.flying > 0 || state.waiting.is_empty() {
                return;
            }
            (std::mem::take(&mut state.waiting), state.failed.take())
        };
        tell(waiting, failed);
    }

    /// Whether nothing is on its way and nothing has failed.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.state.lock();
        state.flying == 0 && state.failed.is_none()
    }

    /// Calls `then` once nothing is on its way.
    pub(crate) fn settle(&self, then: Settled) {
        let failed = {
            let mut state = self.state.lock();
            if state.flying > 0 {
                state.waiting.push(then);
                return;
            }
            state.failed.take()
        };
        then(failed.map_or(Ok(()), Err));
    }

    /// The greatest time of a write that is applied; zero without one.
    pub(crate) fn last(&self) -> Time {
        self.state.lock().last
    }
}

/// One failure is told to the first who waits: it is one request's, and fails it.
fn tell(waiting: Vec<Settled>, failed: Option<Error>) {
    let mut failed = failed;
    for then in waiting {
        then(failed.take().map_or(Ok(()), Err));
    }
}
