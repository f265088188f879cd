//! What all connections share: the store, the settings, cursors and counts; and the two ways in,
//! a read at one snapshot and a write decided at its owner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use tidemill_lattice::{Cell, Clock, Entropy, Glance, Key, KeyError, Space, Time, Value};
use tidemill_store::{Commit, Committed, Durability, Look, Snapshot, Store, Update};
use tokio::sync::oneshot;

use crate::cursors::Cursors;
use crate::draft::Draft;
use crate::fault::Fault;
use crate::session::Client;
use crate::values;
use crate::{Limits, Reply, Threads, streams, threads};

/// What a door needs from its node.
pub struct Parts {
    /// Where keys are.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for the identities of commits.
    pub entropy: Arc<dyn Entropy>,
    /// The threads of the store's shards, where connections live.
    pub threads: Arc<Threads>,
}

/// How a door serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tenant of the app below.
    pub tenant: String,
    /// The app whose keys are shown.
    pub app: String,
    /// What an answer to a write promises.
    pub durability: Durability,
    /// What clients must say with `AUTH`; nothing is asked for without it.
    pub password: Option<String>,
    /// What one command may take.
    pub limits: Limits,
    /// Commands of a connection wait while more bytes than this have not been taken by the client.
    pub output_bytes_max: usize,
    /// Connections at a time.
    pub connections_max: usize,
    /// The node's version, for `INFO` and `HELLO`.
    pub version: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tenant: "default".to_owned(),
            app: "redis".to_owned(),
            durability: Durability::Durable,
            password: None,
            limits: Limits::default(),
            output_bytes_max: 1024 * 1024,
            connections_max: 10_000,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Counts since the door was opened.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) commands: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// State shown as Redis. Shared by all connections.
pub struct Door {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) threads: Arc<Threads>,
    pub(crate) options: Options,
    space: Space,
    pub(crate) started_us: u64,
    pub(crate) cursors: Mutex<Cursors>,
    pub(crate) clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    pub(crate) counts: Counts,
    /// The high half of the identities of commits, and the next low half.
    commits: (u64, AtomicU64),
}

/// How a write answers, once it is decided.
pub(crate) enum Answer {
    Reply(Reply),
    /// The id of a stream's new entry, whose time is the commit's.
    Entry {
        sequence: u32,
    },
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer::Reply(reply)
    }
}

/// Decides a write of one key.
pub(crate) type Decide = Box<dyn FnOnce(&mut Draft<'_>) -> Result<Answer, Fault> + Send>;

/// Makes the deltas of a write of several keys from one snapshot.
pub(crate) type Prepare = Box<dyn FnOnce(&Reader<'_>) -> Result<Batch, Fault> + Send>;

/// A write, checked as far as that takes no state.
pub(crate) enum Write {
    /// Of one key, decided where its newest state is.
    One { key: Key, decide: Decide },
    /// Of several, as one commit.
    Many(Prepare),
}

impl Write {
    /// A write of one key.
    pub(crate) fn one(
        key: Key,
        decide: impl FnOnce(&mut Draft<'_>) -> Result<Answer, Fault> + Send + 'static,
    ) -> Result<Write, Fault> {
        Ok(Write::One {
            key,
            decide: Box::new(decide),
        })
    }
}

/// Deltas with provisional dots, each key once, and the answer.
pub(crate) struct Batch {
    pub(crate) deltas: Vec<(Key, Cell)>,
    pub(crate) reply: Reply,
}

/// An answer that is still to come.
pub(crate) type Waiting = oneshot::Receiver<Reply>;

impl Door {
    /// A door to a store.
    ///
    /// # Errors
    /// [`KeyError`] if the tenant or the app in the options can not be named so.
    pub fn new(options: Options, parts: Parts) -> Result<Arc<Door>, KeyError> {
        let mut high = [0; 8];
        parts.entropy.fill(&mut high);
        Ok(Arc::new(Door {
            space: Space::new(&options.tenant, &options.app)?,
            threads: parts.threads,
            started_us: parts.clock.now_micros(),
            store: parts.store,
            clock: parts.clock,
            options,
            cursors: Mutex::default(),
            clients: Mutex::default(),
            counts: Counts::default(),
            commits: (u64::from_be_bytes(high), AtomicU64::new(0)),
        }))
    }

    /// The key that a client means.
    pub(crate) fn key(&self, name: &Bytes) -> Result<Key, Fault> {
        Ok(self.space.key(name)?)
    }

    /// Has these keys brought near, since commands with them come next.
    pub(crate) fn prefetch<'a>(&self, names: impl Iterator<Item = &'a Bytes>) {
        let mut before = None;
        let fresh = names.filter(|name| before.replace(*name) != Some(*name));
        let keys: Vec<Key> = fresh.filter_map(|name| self.key(name).ok()).collect();
        if keys.len() > 1 {
            self.store.prefetch(&keys);
        }
    }

    /// The encoded prefix of the keys that a client can see and that begin so.
    pub(crate) fn prefix(&self, name_prefix: &[u8]) -> Vec<u8> {
        self.space.prefix(name_prefix)
    }

    /// Whether a password opens the door.
    pub(crate) fn opens(&self, password: &[u8]) -> bool {
        match &self.options.password {
            // The length is no secret; the bytes are compared in constant time.
            Some(right) => bool::from(password.ct_eq(right.as_bytes())),
            None => true,
        }
    }

    /// Everything committed by now, to read.
    pub(crate) fn reader(&self) -> Reader<'_> {
        let snapshot = self.store.snapshot();
        // The clock may have been set back since a snapshot was taken.
        let at = snapshot
            .time()
            .max(Time::from_micros(self.clock.now_micros()));
        Reader {
            door: self,
            snapshot: Some(snapshot),
            at,
            written: BTreeMap::new(),
        }
    }

    /// What is here, to read one key.
    pub(crate) fn newest(&self) -> Reader<'_> {
        Reader {
            door: self,
            snapshot: None,
            at: Time::from_micros(self.clock.now_micros()),
            written: BTreeMap::new(),
        }
    }

    /// Whether a read of one key sees what is here, like its writes; else a snapshot, in which
    /// nothing is that could be lost.
    pub(crate) fn reads_newest(&self) -> bool {
        self.options.durability == Durability::Memory
    }

    /// Decides a write here and now, if this thread drives the key's shard. It is to be
    /// answered after the shard's flush.
    pub(crate) fn write_here(&self, key: &Key, decide: Decide) -> Result<Reply, Decide> {
        let mut decide = Some(decide);
        let written = threads::with(|shard| {
            let decide = if shard.owns(key) { decide.take() } else { None }?;
            let durability = self.options.durability;
            Some(shard.update(key, durability, |seen, at, dots| {
                let (delta, outcome) = decided(decide, Draft::lazy(seen, at, dots));
                (delta, (outcome, at.next()))
            }))
        });
        match (written.flatten(), decide) {
            (Some(Ok((outcome, time))), _) => {
                Ok(outcome.map_or_else(Reply::from, |answer| answer.into_reply(time)))
            }
            (Some(Err(error)), _) => Ok(Fault::from(error).into()),
            (None, Some(decide)) => Err(decide),
            (None, None) => Ok(undecided()),
        }
    }

    /// Hands a write of one key to its owner.
    pub(crate) fn update(&self, key: Key, decide: Decide) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        let decide = move |seen: Option<&Cell>, at: Time, dots: &mut dyn FnMut() -> _| {
            let (delta, outcome) = decided(decide, Draft::new(seen, at, dots));
            *slot.lock() = Some(outcome);
            delta
        };
        let done = move |committed: Result<Committed, tidemill_store::Error>| {
            let outcome = result.lock().take();
            // A connection that has gone needs no answer.
            drop(sender.send(reply(committed, outcome)));
        };
        let update = Update {
            key,
            durability: self.options.durability,
            decide: Box::new(decide),
        };
        self.store.update(update, Box::new(done));
        receiver
    }

    /// Commits a write of several keys.
    pub(crate) fn commit(&self, snapshot: &Snapshot, batch: Batch) -> Waiting {
        let reply = batch.reply;
        self.commit_all(snapshot, batch.deltas, move |_| reply)
    }

    /// Commits deltas, and answers with what the commit's time makes of it.
    pub(crate) fn commit_all(
        &self,
        snapshot: &Snapshot,
        deltas: Vec<(Key, Cell)>,
        answer: impl FnOnce(Time) -> Reply + Send + 'static,
    ) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        let (high, low) = &self.commits;
        let low = low.fetch_add(1, Ordering::Relaxed);
        let commit = Commit {
            request: u128::from(*high) << 64 | u128::from(low),
            snapshot: snapshot.time(),
            deltas,
            durability: self.options.durability,
            messages: Vec::new(),
            consumes: None,
            record: None,
        };
        self.store.commit(
            commit,
            Box::new(move |committed| {
                drop(sender.send(match committed {
                    Ok(committed) => answer(committed.time),
                    Err(error) => Fault::from(error).into(),
                }));
            }),
        );
        receiver
    }
}

impl Answer {
    pub(crate) fn into_reply(self, time: Time) -> Reply {
        match self {
            Answer::Reply(reply) => reply,
            Answer::Entry { sequence } => Reply::bulk(streams::Id::new(time, sequence).to_string()),
        }
    }
}

/// The delta that a decision came to, and what it answers.
pub(crate) fn decided(
    decide: Decide,
    mut draft: Draft<'_>,
) -> (Option<Cell>, Result<Answer, Fault>) {
    let outcome = decide(&mut draft);
    let delta = outcome.is_ok().then(|| draft.finish()).flatten();
    (delta, outcome)
}

fn undecided() -> Reply {
    Fault::other("the write was not decided; please report this").into()
}

fn reply(
    committed: Result<Committed, tidemill_store::Error>,
    outcome: Option<Result<Answer, Fault>>,
) -> Reply {
    match (committed, outcome) {
        (Err(error), _) => Fault::from(error).into(),
        (Ok(committed), Some(Ok(answer))) => answer.into_reply(committed.time),
        (Ok(_), Some(Err(fault))) => fault.into(),
        (Ok(_), None) => undecided(),
    }
}

/// Reads at one snapshot, or without one what is here.
pub(crate) struct Reader<'a> {
    pub(crate) door: &'a Door,
    snapshot: Option<Snapshot>,
    at: Time,
    /// What a transaction has written so far, which its reads see.
    pub(crate) written: BTreeMap<Key, Cell>,
}

impl Reader<'_> {
    /// The time that expiry is judged by.
    pub(crate) fn at(&self) -> Time {
        self.at
    }

    /// A key's cell, tombstones included.
    pub(crate) fn cell(&self, key: &Key) -> Result<Option<Arc<Cell>>, Fault> {
        let store = &self.door.store;
        let mut cell = match &self.snapshot {
            Some(snapshot) => store.read_at(key, snapshot)?,
            None => store.newest(key)?,
        };
        if let Some(delta) = self.written.get(key) {
            match &mut cell {
                Some(cell) => Arc::make_mut(cell).merge(delta),
                None => cell = Some(Arc::new(delta.clone())),
            }
        }
        Ok(cell)
    }

    /// The snapshot of a reader that has one.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let taken = || self.door.store.snapshot();
        self.snapshot.clone().unwrap_or_else(taken)
    }

    /// Shows `look` what a key holds, and counts whether it holds anything.
    pub(crate) fn look<T>(
        &self,
        name: &Bytes,
        look: impl FnOnce(Option<&Value>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let cell = self.cell(&self.door.key(name)?)?;
        let value = values::held(cell.as_deref(), self.at);
        self.count(value.is_some());
        look(value)
    }

    /// A key as a Redis string; `None` where it holds nothing.
    pub(crate) fn string(&self, name: &Bytes) -> Result<Option<Bytes>, Fault> {
        if !self.written.is_empty() {
            return self.look(name, values::string_of);
        }
        let mut found = Ok(None);
        let mut see = |look: Look<'_>| {
            found = match look {
                Look::Plain(Glance::Register(body)) => Ok(Some(Bytes::copy_from_slice(body))),
                Look::Plain(Glance::Counter(sum)) => Ok(Some(sum.to_string().into())),
                Look::Cell(cell) => values::string_of(values::held(cell, self.at)),
            };
        };
        let store = &self.door.store;
        store.look(&self.door.key(name)?, self.snapshot.as_ref(), &mut see)?;
        self.count(!matches!(found, Ok(None)));
        found
    }

    fn count(&self, is_hit: bool) {
        let counts = &self.door.counts;
        count(if is_hit { &counts.hits } else { &counts.misses });
    }
}
