//! A clock that a test moves, and short ways to write and read.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;
use tidemill_lattice::{Cell, Clock, Dot, Key, Op, Payload, Value, Writer};
use tidemill_store::{
    Commit, Committed, Disk, Durability, Embedded, Error, Options, PROVISIONAL, Snapshot, Step,
    Store,
};

/// A clock that stands still until moved.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicU64);

impl ManualClock {
    pub(crate) fn new() -> Arc<ManualClock> {
        Arc::new(ManualClock(AtomicU64::new(1_700_000_000_000_000)))
    }

    pub(crate) fn move_us(&self, micros: u64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A disk that fails when told to.
#[derive(Debug, Default)]
pub(crate) struct FaultyDisk {
    faults: Mutex<Vec<Step>>,
    free: AtomicU64,
    boots: AtomicU64,
}

impl FaultyDisk {
    pub(crate) fn new() -> Arc<FaultyDisk> {
        let disk = FaultyDisk::default();
        disk.set_free_bytes(1 << 40);
        Arc::new(disk)
    }

    pub(crate) fn fail_at(&self, step: Step) {
        self.faults.lock().push(step);
    }

    /// The machine goes down and comes up again.
    pub(crate) fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn set_free_bytes(&self, bytes: u64) {
        self.free.store(bytes, Ordering::SeqCst);
    }
}

impl Disk for FaultyDisk {
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.free.load(Ordering::SeqCst))
    }

    fn boot(&self) -> Option<String> {
        Some(format!("boot {}", self.boots.load(Ordering::SeqCst)))
    }

    fn step(&self, step: Step) -> io::Result<()> {
        if self.faults.lock().contains(&step) {
            return Err(io::Error::other(format!("injected at {step:?}")));
        }
        Ok(())
    }
}

/// Options of a small store.
pub(crate) fn options(directory: &Path) -> Options {
    Options {
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        ..Options::new(directory)
    }
}

pub(crate) fn open(directory: &Path) -> Embedded {
    Embedded::open(options(directory), ManualClock::new()).expect("the store opens")
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("acme", "shop", name).expect("a valid key")
}

pub(crate) fn prefix(name: &str) -> Vec<u8> {
    Key::prefix("acme", "shop", name)
}

pub(crate) fn text(body: &str) -> Payload {
    Payload::bytes(body.as_bytes().to_vec())
}

/// The deltas of some operations, each key once, as a request on `at` would make them.
pub(crate) fn deltas(store: &dyn Store, at: &Snapshot, ops: &[(Key, Op)]) -> Vec<(Key, Cell)> {
    let mut sequence = 0;
    let mut dots = || {
        sequence += 1;
        Dot {
            time: PROVISIONAL,
            writer: Writer(0),
            sequence,
        }
    };
    ops.iter()
        .map(|(key, op)| {
            let seen = store.read_at(key, at).expect("the key reads");
            let delta = Cell::delta(seen.as_deref(), op, at.time(), &mut dots);
            (key.clone(), delta.expect("the operation fits"))
        })
        .collect()
}

pub(crate) fn commit(at: &Snapshot, deltas: Vec<(Key, Cell)>) -> Commit {
    Commit {
        request: 7,
        snapshot: at.time(),
        deltas,
        durability: Durability::Memory,
        messages: Vec::new(),
        consumes: None,
        record: None,
    }
}

/// Commits and waits for the answer.
pub(crate) fn send(store: &dyn Store, commit: Commit) -> Result<Committed, Error> {
    let (sender, receiver) = mpsc::channel();
    store.commit(
        commit,
        Box::new(move |outcome| sender.send(outcome).expect("the test waits")),
    );
    receiver.recv().expect("an answer")
}

/// Reads, makes the deltas and commits them.
pub(crate) fn try_write(store: &dyn Store, ops: &[(Key, Op)]) -> Result<Committed, Error> {
    let at = store.snapshot();
    let deltas = deltas(store, &at, ops);
    send(store, commit(&at, deltas))
}

pub(crate) fn write(store: &dyn Store, ops: &[(Key, Op)]) -> Committed {
    try_write(store, ops).expect("the commit succeeds")
}

/// The same, durably, so that the log has it in a group of its own.
pub(crate) fn write_durable(store: &dyn Store, ops: &[(Key, Op)]) -> Committed {
    let at = store.snapshot();
    let mut commit = commit(&at, deltas(store, &at, ops));
    commit.durability = Durability::Durable;
    send(store, commit).expect("the commit succeeds")
}

pub(crate) fn set(name: &str, body: &str) -> (Key, Op) {
    (key(name), Op::RegisterSet(text(body)))
}

pub(crate) fn add(name: &str, by: i64) -> (Key, Op) {
    (key(name), Op::CounterAdd(by))
}

pub(crate) fn delete(name: &str) -> (Key, Op) {
    (key(name), Op::Delete)
}

/// What a reader sees: a register's body or a counter's number, as text.
pub(crate) fn show(cell: &Cell, at: &Snapshot) -> Option<String> {
    match cell.view(at.time())? {
        Value::Register(register) => {
            Some(String::from_utf8_lossy(&register.get().body).into_owned())
        }
        Value::Counter(counter) => Some(counter.value().to_string()),
        other => Some(format!("{other:?}")),
    }
}

pub(crate) fn get_at(store: &dyn Store, name: &str, at: &Snapshot) -> Option<String> {
    let cell = store.read_at(&key(name), at).expect("the key reads")?;
    show(&cell, at)
}

pub(crate) fn get(store: &dyn Store, name: &str) -> Option<String> {
    get_at(store, name, &store.snapshot())
}

pub(crate) fn number(store: &dyn Store, name: &str, at: &Snapshot) -> i64 {
    get_at(store, name, at).map_or(0, |shown| shown.parse().expect("a number"))
}
