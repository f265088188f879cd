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
//! This room knows the store by its interface. It must not know functions, workers,
//! flows, HTTP, or any async runtime.
//!
//! [`Dot`]: tidemill_lattice::Dot
//! [`PROVISIONAL`]: tidemill_store::PROVISIONAL

mod buffer;
mod view;

pub use buffer::Buffer;
pub use view::{Error, KeyPage, View};

use std::sync::Arc;
use tidemill_lattice::Time;
use tidemill_store::{Commit, Committed, Durability, MessageId, RequestRecord, Snapshot, Store};

/// What all views of one request share: its identity, the store and the snapshot.
pub struct Request {
    id: u128,
    store: Arc<dyn Store>,
    snapshot: Snapshot,
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
        let snapshot = store.snapshot();
        Arc::new(Self {
            id,
            store,
            snapshot,
        })
    }

    /// The time of the snapshot.
    #[must_use]
    pub fn snapshot_time(&self) -> Time {
        self.snapshot.time()
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
    /// request without writes, messages and a record is answered at once and writes nothing.
    pub fn commit(
        &self,
        buffers: &[Arc<Buffer>],
        durability: Durability,
        outgoing: Outgoing,
        done: Done,
    ) {
        let mut all = Buffer::new(0);
        all.absorb(buffers);
        self.store.commit(
            Commit {
                request: self.id,
                snapshot: self.snapshot.time(),
                deltas: all.into_deltas(),
                durability,
                messages: outgoing.messages,
                consumes: outgoing.consumes,
                record: outgoing.record,
            },
            done,
        );
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}
