//! A partition: versions of keys in memory, with a log and a durable tier behind them.
//!
//! Keys belong to shards, each written by one thread at a time. A commit gets its time
//! from one sequencer, is logged as one entry, and becomes visible all at once when the newest
//! complete state passes its time. Readers pin a [`Snapshot`] and never wait for a writer.
//! [`Store`] is the interface that everybody else holds; [`Embedded`] keeps a partition in a
//! directory of this machine.
//!
//! This crate knows the lattice types. It must not know an async runtime, HTTP, or what a
//! function is: a commit reaches it as finished deltas, and its answer leaves by a callback.

pub mod backup;
pub mod chain;
mod checkpoint;
mod combine;
mod company;
mod disk;
mod embedded;
mod engine;
mod entry;
mod error;
mod export;
mod fence;
pub mod frontier;
mod group;
pub mod histogram;
mod history;
pub mod hot;
mod journal;
mod latch;
mod lock;
mod loss;
mod mailbox;
mod manifest;
pub mod meter;
pub mod observed;
mod opening;
mod options;
mod owner;
mod packed;
pub mod pins;
mod prefetch;
mod queue;
pub mod record;
mod recovery;
mod requests;
mod restore;
mod rewritten;
mod scan;
mod sequencer;
mod shard;
mod sizes;
mod slab;
mod space;
mod stable;
mod stats;
mod sweep;
mod table;
mod turns;
mod verify;
pub mod watch;
mod writing;

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_lattice::{Cell, Dot, Key, Time};

pub use disk::{Disk, Step, SystemDisk};
pub use embedded::Embedded;
pub use error::Error;
pub use observed::Observed;
pub use options::Options;
pub use pins::{Pins, Snapshot};
pub use requests::{RecordedAnswer, RecordedRequest, RequestRecord, StoredRequest};
pub use restore::{RestoreError, restore};
pub use shard::{Driver, Shard, Sleeper, Told, Turn};
pub use stats::Stats;
pub use table::Look;
pub use turns::Turns;
pub use verify::{Damage, Range, Report, verify};
use watch::{Wake, Watch, Watched};
pub use writing::Seen;

/// The time in the dots of a write that is not committed yet. A commit replaces it.
pub const PROVISIONAL: Time = Time::MAX;

/// What a commit's answer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// In this process; the log follows within milliseconds, in the order of what was seen. A
    /// commit that leaves a record or messages, or consumes one, is with the operating system
    /// before it is answered, since whoever repeats it must be told the same: it outlives the
    /// process, but the last moments are lost with the machine.
    Memory,
    /// On stable storage (a data sync, shared by all commits of one group).
    Durable,
}

/// The identity of an outgoing message: the time of the commit that sent it, and its place
/// in that commit.
pub type MessageId = (Time, u32);

/// What to call with the outcome of a commit.
pub type Done = Box<dyn FnOnce(Result<Committed, Error>) + Send>;

/// Everything that one request wants to change, applied together or not at all.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The request's identity, kept in the log.
    pub request: u128,
    /// The snapshot that the request read from, still pinned when the commit is handed in; the
    /// commit's time is drawn above it.
    pub snapshot: Time,
    /// At most one delta a key, in any order. Dots whose time is
    /// [`PROVISIONAL`] get the commit's time and this store's writer.
    pub deltas: Vec<(Key, Cell)>,
    /// What the answer must promise.
    pub durability: Durability,
    /// Outgoing messages; they are pending from this commit on until a commit consumes them.
    pub messages: Vec<Bytes>,
    /// The message that this commit is the handling of. Of several commits that name the
    /// same message one succeeds; the others fail with [`Error::Consumed`].
    pub consumes: Option<MessageId>,
    /// What to keep of the request. Of several commits with such a record and one identity the
    /// first takes effect; the others change nothing and are answered with what it recorded.
    /// Without it nothing is looked up and nothing kept.
    pub record: Option<RequestRecord>,
}

impl Commit {
    /// Whether it may be seen and answered before the log has it, as what shards write is: nobody
    /// waits for the disk, and nothing of it is looked for there.
    pub(crate) fn may_wait(&self) -> bool {
        self.durability == Durability::Memory
            && self.record.is_none()
            && self.messages.is_empty()
            && self.consumes.is_none()
    }

    /// Whether it leaves nothing. Such a commit is answered at once and not logged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty()
            && self.messages.is_empty()
            && self.consumes.is_none()
            && self.record.is_none()
    }
}

/// The answer to a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The commit's time: visible to every snapshot at or above it. A commit that changed
    /// nothing answers with its snapshot.
    pub time: Time,
    /// The ids of the outgoing messages, in the order given.
    pub messages: Vec<MessageId>,
    /// The request had taken effect before: this commit changed nothing, and `time` is the
    /// first one's.
    pub repeated: Option<RecordedRequest>,
}

/// What decides an update: gets the key's newest cell (tombstones included, `None` if nothing
/// was ever written), the time to judge expiry by, and the next dots; gives the delta, or
/// `None` to write nothing. Called once, by whoever has the turn of the key's shard: it must be short and
/// must not block.
pub type Decide =
    Box<dyn FnOnce(Option<&Cell>, Time, &mut dyn FnMut() -> Dot) -> Option<Cell> + Send>;

/// A write of one key that has to look before it writes: set if absent, an increment whose
/// sum is the answer.
pub struct Update {
    /// The key.
    pub key: Key,
    /// What the answer must promise.
    pub durability: Durability,
    /// The decision.
    pub decide: Decide,
}

/// Part of a scan, ordered by encoded key.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Visible keys with their cells at the snapshot.
    pub entries: Vec<(Key, Arc<Cell>)>,
    /// Where to go on: pass it as `after`. `None` when the prefix is exhausted.
    pub next: Option<Vec<u8>>,
}

/// A partition, as everybody above this crate sees it.
pub trait Store: Send + Sync + 'static {
    /// Pins the newest complete state until the snapshot is dropped. Never waits.
    fn snapshot(&self) -> Snapshot;

    /// The time of the newest complete state, without pinning it. Never waits.
    fn stable(&self) -> Time;

    /// Calls `then` once, as soon as every new snapshot has what was committed at `time`: at
    /// once, or on a thread of the store's, where it must be short and must not block. Where
    /// writing has failed that may never be, and `then` is called at once.
    fn when_stable(&self, time: Time, then: Box<dyn FnOnce() + Send>);

    /// How often a tail of what had been answered was lost, see [`Store::has_kept`].
    fn losses(&self) -> u32;

    /// Whether everything through `time`, as somebody saw it when there had been so many losses,
    /// is still here. False where that can not be known.
    fn has_kept(&self, losses: u32, time: Time) -> bool;

    /// The cell of `key`, merged up to the snapshot. A tombstone is returned as a cell, since
    /// a writer needs its incarnation; `None` if nothing was ever written or all is forgotten.
    ///
    /// # Errors
    /// [`Error::SnapshotExpired`] if the snapshot outlived its lifetime; [`Error::Io`] or
    /// [`Error::Corrupt`] if the durable tier can not give the value.
    fn read_at(&self, key: &Key, at: &Snapshot) -> Result<Option<Arc<Cell>>, Error>;

    /// The newest cell of a key that is here, as writes of level `eventual` see it: it may be of
    /// a commit whose other keys are not to be seen yet. Tombstones are returned as cells.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] if the durable tier can not give the value.
    fn newest(&self, key: &Key) -> Result<Option<Arc<Cell>>, Error>;

    /// Shows `see` what a key holds, once, at the snapshot or else the newest that is here:
    /// what [`Store::read_at`] or [`Store::newest`] would give, but lent, so that nothing is
    /// copied. `see` must be short, and must not call the store.
    ///
    /// # Errors
    /// As [`Store::read_at`].
    fn look(
        &self,
        key: &Key,
        at: Option<&Snapshot>,
        see: &mut dyn FnMut(Look<'_>),
    ) -> Result<(), Error> {
        let cell = match at {
            Some(at) => self.read_at(key, at)?,
            None => self.newest(key)?,
        };
        see(Look::Cell(cell.as_deref()));
        Ok(())
    }

    /// Says that these keys are looked at next, one by one. It may make that faster, and does
    /// nothing else.
    fn prefetch(&self, _keys: &[Key]) {}

    /// The keys with this encoded prefix that are visible at the snapshot, in order, after
    /// `after` (exclusive), at most `limit` of them.
    ///
    /// # Errors
    /// As [`Store::read_at`].
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: &Snapshot,
    ) -> Result<Page, Error>;

    /// Hands a commit to the sequencer. `done` is called once, from a thread of the store's or of any who writes (or
    /// at once, if there is nothing to commit or nowhere to commit it), so it must be short and
    /// must not block; when it is called with `Ok`, every new
    /// snapshot sees the commit.
    fn commit(&self, commit: Commit, done: Done);

    /// What is recorded of a request, if it has taken effect and every new snapshot sees that.
    /// Cheap where nothing is: the engine's filters answer from memory.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] if the durable tier can not give it.
    fn request(&self, id: u128) -> Result<Option<RecordedRequest>, Error>;

    /// Whether the commits with a record at or below a time, and what they have read, are as safe as
    /// durable ones.
    fn is_kept(&self, through: Time) -> bool;

    /// Makes them so. Waits for the disk.
    ///
    /// # Errors
    /// That of the disk, after which the store takes no more writes.
    fn keep(&self, through: Time) -> Result<(), Error>;

    /// Decides a write of one key where its newest state is: no other write of the key comes
    /// between what `decide` sees and what it writes. `done` is called as by
    /// [`Store::commit`]; where nothing was written, once what was seen is as safe as asked.
    fn update(&self, update: Update, done: Done);

    /// Runs `each` over every visible key with this encoded prefix, in order, where the data
    /// is, until it breaks.
    ///
    /// # Errors
    /// As [`Store::read_at`].
    fn apply(
        &self,
        prefix: &[u8],
        at: &Snapshot,
        each: &mut dyn FnMut(&Key, &Cell) -> ControlFlow<()>,
    ) -> Result<(), Error>;

    /// Outgoing messages of committed requests that no commit has consumed yet, in order.
    /// Read it after a restart to send them again.
    ///
    /// # Errors
    /// None in [`Embedded`], which keeps them in memory; a store elsewhere may fail to ask.
    fn pending_messages(&self) -> Result<Vec<(MessageId, Bytes)>, Error>;

    /// Watches a key or a prefix from now on: every change once, in order for each key, see
    /// [`watch`]. `wake` is called when there is something to take, from the thread that commits.
    fn watch(&self, what: Watched, wake: Wake) -> Watch;

    /// Writes everything at the newest complete state as one stream, while commits go on, see
    /// [`backup`]. It holds a snapshot until it is done, at the most for a snapshot's lifetime.
    ///
    /// # Errors
    /// [`backup::WriteError`] if the store can not be read or the stream not be written; the
    /// stream then says itself that it is not whole, or is cut off.
    fn backup(&self, out: &mut dyn Write) -> Result<backup::Summary, backup::WriteError>;

    /// What the store has done and holds.
    fn stats(&self) -> Stats;

    /// Its inside, by shard and by tier. A store without one shows nothing.
    fn observe(&self) -> Observed {
        Observed::default()
    }
}
