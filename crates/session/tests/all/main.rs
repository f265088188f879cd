//! Views, forks and joins over a real store.

mod eventual;
mod model;
mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use tidemill_lattice::{Clock, Key, Payload};
use tidemill_session::{Buffer, Outgoing, Request};
use tidemill_store::{Durability, Embedded, Options, Store};

/// A clock that moves by one microsecond a look.
struct Steps(AtomicU64);

impl Clock for Steps {
    fn now_micros(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(Steps(AtomicU64::new(1_000_000)));
        let store = Embedded::open(Options::new(directory.path().join("store")), clock).unwrap();
        Self {
            store: Arc::new(store),
            _directory: directory,
        }
    }

    pub(crate) fn begin(&self) -> Arc<Request> {
        Request::begin(1, Arc::clone(&self.store))
    }

    pub(crate) fn commit(&self, request: &Request, buffers: &[Arc<Buffer>]) {
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| sender.send(result).unwrap());
        request.commit(buffers, Durability::Memory, Outgoing::default(), done);
        receiver.recv().unwrap().unwrap();
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("default", "app", name).unwrap()
}

pub(crate) fn text(value: &str) -> Payload {
    Payload::json(&value.into())
}
