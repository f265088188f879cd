//! One request's view of state: snapshot reads, the write buffer, the commit.
//!
//! A request reads one snapshot and buffers its writes. Its steps form a graph;
//! each step writes into a [`Buffer`] of its own and sees the snapshot, what its
//! ancestors wrote and what it wrote itself, through a [`View`]. When the
//! outermost call returns, all buffers are flattened into one delta a key, in
//! program order, siblings in the order of their step ids, and committed at once.
//! Steps write nothing: a step that failed leaves nothing because its buffer is
//! dropped.
//!
//! **Order without a clock.** Until the commit time is known, a write is named by
//! a provisional [`Dot`]: time [`PROVISIONAL`], the *tag* of its step as writer, and
//! its place among the step's writes as sequence. A step's tag is above the tags of
//! all it can see, so the order of dots is program order, and merging needs no order
//! of its own. Flattening renames tags to sequences, monotonically; the store then
//! renames the time.
//!
//! **The level `eventual`** has the same views with another inside ([`Request::begin_eventual`]):
//! reads give what is here, and a write is sent to its key's owner at once, alone. Its buffers
//! stay empty, and the commit holds messages only.
//!
//! This room knows the store by its interface. It must not know functions, workers,
//! flows, HTTP, or any async runtime.
//!
//! [`Dot`]: tidemill_lattice::Dot
//! [`PROVISIONAL`]: tidemill_store::PROVISIONAL

mod buffer;
mod eventual;
mod token;
mod view;

pub use buffer::Buffer;
pub use eventual::Settled;
pub use token::{Seen, TokenError, Tokens};
pub use view::{Error, KeyPage, View};

use eventual::Writes;
use std::sync::Arc;
use tidemill_lattice::{Cell, Key, Op, Time};
use tidemill_store::{Commit, Committed, Durability, MessageId, RequestRecord, Snapshot, Store};

/// What all views of one request share: its identity, the store, and what it reads from.
pub struct Request {
    id: u128,
    store: Arc<dyn Store>,
    source: Source,
}

/// Where reads come from and writes go to.
enum Source {
    /// One snapshot; writes are buffered.
    Snapshot(Snapshot),
    /// What is here; each write is sent at once.
    Newest(Arc<Writes>, Durability),
}

/// What a request hands to the store besides its writes.
#[derive(Default)]
pub struct Outgoing {
    /// Messages that become due once the request has committed.
    pub messages: Vec<bytes::Bytes>,
    /// The message that this request was started by, consumed with its commit.
    pub consumes: Option<MessageId>,
    /// What to keep of it, for whoever asks it again.
    pub record: Option<RequestRecord>,
}

/// Takes the outcome of a commit; called once, on a thread of the store's.
pub type Done = Box<dyn FnOnce(Result<Committed, tidemill_store::Error>) + Send>;

impl Request {
    /// Pins the store's stable snapshot for a request. Never waits.
    #[must_use]
    pub fn begin(id: u128, store: Arc<dyn Store>) -> Arc<Self> {
        let source = Source::Snapshot(store.snapshot());
        Arc::new(Self { id, store, source })
    }

    /// Begins a request of the level `eventual`, whose writes are each applied as safely as this.
    #[must_use]
    pub fn begin_eventual(id: u128, store: Arc<dyn Store>, durability: Durability) -> Arc<Self> {
        let source = Source::Newest(Arc::default(), durability);
        Arc::new(Self { id, store, source })
    }

    /// The time at which values are seen: the snapshot's, or without one the newest complete
    /// state's.
    #[must_use]
    pub fn time(&self) -> Time {
        match &self.source {
            Source::Snapshot(snapshot) => snapshot.time(),
            Source::Newest(..) => self.store.stable(),
        }
    }

    /// The greatest time that the request has written at so far; zero if nothing was. Writes
    /// that are buffered have none yet.
    #[must_use]
    pub fn written(&self) -> Time {
        match &self.source {
            Source::Snapshot(_) => Time::ZERO,
            Source::Newest(writes, _) => writes.last(),
        }
    }

    /// Whether no write is on its way and none has failed. Always so but for the level
    /// `eventual`.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match &self.source {
            Source::Snapshot(_) => true,
            Source::Newest(writes, _) => writes.is_settled(),
        }
    }

    /// Calls `then` once every write begun so far is applied or has failed: on this thread, or
    /// on one of the store's, where it must be short and must not block. A failure is told once.
    pub fn settle(&self, then: Settled) {
        match &self.source {
            Source::Snapshot(_) => then(Ok(())),
            Source::Newest(writes, _) => writes.settle(then),
        }
    }

    /// The view of a step that sees these buffers, which are its ancestors' in
    /// the order of their tags, and writes with this tag.
    #[must_use]
    pub fn view(self: &Arc<Self>, below: Vec<Arc<Buffer>>, tag: u32) -> View {
        View::new(Arc::clone(self), below, tag)
    }

    /// Commits the buffers of the outermost call, all or none.
    ///
    /// `done` is called once the outcome is known at the asked durability. A
    /// request without writes, messages and a record is answered at once and writes nothing; so
    /// is one of the level `eventual` without messages and a record, whose writes stand already.
    pub fn commit(
        &self,
        buffers: &[Arc<Buffer>],
        durability: Durability,
        outgoing: Outgoing,
        done: Done,
    ) {
        if let Some(committed) = self.unchanged(buffers, &outgoing) {
            return done(Ok(committed));
        }
        let snapshot = self.snapshot();
        let mut all = Buffer::new(0);
        all.absorb(buffers);
        self.store.commit(
            Commit {
                request: self.id,
                snapshot: snapshot.time(),
                deltas: all.into_deltas(),
                durability,
                messages: outgoing.messages,
                consumes: outgoing.consumes,
                record: outgoing.record,
            },
            done,
        );
    }

    /// What a commit comes to that has nothing to write, and so nothing to ask of the store.
    #[must_use]
    pub fn unchanged(&self, buffers: &[Arc<Buffer>], outgoing: &Outgoing) -> Option<Committed> {
        let leaves_nothing = outgoing.messages.is_empty()
            && outgoing.consumes.is_none()
            && outgoing.record.is_none()
            && buffers.iter().all(|buffer| buffer.is_empty());
        leaves_nothing.then(|| Committed {
            time: match &self.source {
                Source::Snapshot(snapshot) => snapshot.time(),
                Source::Newest(writes, _) => writes.last(),
            },
            messages: Vec::new(),
            repeated: None,
        })
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The snapshot, or for the level `eventual` a new one: for reads of many keys.
    fn snapshot(&self) -> Snapshot {
        match &self.source {
            Source::Snapshot(snapshot) => snapshot.clone(),
            Source::Newest(..) => self.store.snapshot(),
        }
    }

    fn read(&self, key: &Key) -> Result<Option<Arc<Cell>>, tidemill_store::Error> {
        match &self.source {
            Source::Snapshot(snapshot) => self.store.read_at(key, snapshot),
            Source::Newest(..) => self.store.newest(key),
        }
    }

    /// Sends a write at once, where writes are not buffered. False where they are.
    fn send(&self, key: &Key, op: &Op) -> bool {
        match &self.source {
            Source::Snapshot(_) => false,
            Source::Newest(writes, durability) => {
                writes.send(self.store(), *durability, key, op);
                true
            }
        }
    }
}
