//! Commands of very many keys: while they look, other connections are served.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use tidemill_lattice::{Cell, Key, Time};
use tidemill_redis::Options;
use tidemill_store::backup::{Summary, WriteError};
use tidemill_store::watch::{Wake, Watch, Watched};
use tidemill_store::{
    Commit, Done, Error, MessageId, Page, RecordedRequest, Snapshot, Stats, Store, Update,
};

use crate::support::{Served, encode};

/// More words than are looked up where connections are served.
const KEYS: usize = 2_000;
/// More connections than the door has threads.
const CONNECTIONS: usize = 4;

/// A store whose reads of keys with a slash wait until they are let go.
struct Gate {
    store: Arc<dyn Store>,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().expect("not poisoned") = true;
        self.opened.notify_all();
    }
}

impl Store for Gate {
    fn snapshot(&self) -> Snapshot {
        self.store.snapshot()
    }

    fn read_at(&self, key: &Key, at: &Snapshot) -> Result<Option<Arc<Cell>>, Error> {
        if key.name().contains(&b'/') {
            let is_open = self.is_open.lock().expect("not poisoned");
            let waited = self.opened.wait_while(is_open, |is_open| !*is_open);
            drop(waited.expect("not poisoned"));
        }
        self.store.read_at(key, at)
    }

    fn stable(&self) -> Time {
        self.store.stable()
    }

    fn when_stable(&self, time: Time, then: Box<dyn FnOnce() + Send>) {
        self.store.when_stable(time, then);
    }

    fn losses(&self) -> u32 {
        self.store.losses()
    }

    fn has_kept(&self, losses: u32, time: Time) -> bool {
        self.store.has_kept(losses, time)
    }

    fn watch(&self, what: Watched, wake: Wake) -> Watch {
        self.store.watch(what, wake)
    }

    fn backup(&self, out: &mut dyn std::io::Write) -> Result<Summary, WriteError> {
        self.store.backup(out)
    }

    fn newest(&self, key: &Key) -> Result<Option<Arc<Cell>>, Error> {
        self.store.newest(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: &Snapshot,
    ) -> Result<Page, Error> {
        self.store.scan(prefix, after, limit, at)
    }

    fn commit(&self, commit: Commit, done: Done) {
        self.store.commit(commit, done);
    }

    fn request(&self, id: u128) -> Result<Option<RecordedRequest>, Error> {
        self.store.request(id)
    }

    fn is_kept(&self, through: Time) -> bool {
        self.store.is_kept(through)
    }

    fn keep(&self, through: Time) -> Result<(), Error> {
        self.store.keep(through)
    }

    fn update(&self, update: Update, done: Done) {
        self.store.update(update, done);
    }

    fn apply(
        &self,
        prefix: &[u8],
        at: &Snapshot,
        each: &mut dyn FnMut(&Key, &Cell) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.store.apply(prefix, at, each)
    }

    fn pending_messages(&self) -> Result<Vec<(MessageId, Bytes)>, Error> {
        self.store.pending_messages()
    }

    fn stats(&self) -> Stats {
        self.store.stats()
    }
}

#[test]
fn others_are_served_while_many_keys_are_looked_up() {
    let mut gate = None;
    let served = Served::over(Options::default(), |store| {
        let made = Arc::new(Gate {
            store,
            is_open: Mutex::new(false),
            opened: Condvar::new(),
        });
        gate = Some(Arc::clone(&made));
        made
    });
    let gate = gate.expect("made");
    let names = (0..KEYS).map(|number| format!("k/{number}"));
    for (command, answer) in [("EXISTS", ":0"), ("DEL", ":0")] {
        *gate.is_open.lock().expect("not poisoned") = false;
        let words: Vec<String> = [command.to_owned()]
            .into_iter()
            .chain(names.clone())
            .collect();
        let mut wide: Vec<_> = (0..CONNECTIONS).map(|_| served.client()).collect();
        for client in &mut wide {
            client.send(&encode(&words));
        }
        let mut other = served.client();
        for _ in 0..50 {
            assert_eq!(other.ask(&["SET", "free", "1"]), "+OK", "beside {command}");
            assert_eq!(other.ask(&["GET", "free"]), "\"1\"");
        }
        gate.open();
        for client in &mut wide {
            assert_eq!(client.read(), answer);
        }
    }
}
