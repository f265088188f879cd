//! What machines say to each other, and to whoever drives them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Op, Time, Writer};

use crate::record::{Applied, Entry};
use crate::standby::Tail;
use crate::streams::{Push, StreamId};
use crate::{
    Address, Buffer, Durability, Epoch, Generation, LogRead, LogWrite, Now, Outgoing, PartitionId,
    RequestId, Stamp, Ticket, Token,
};

/// What a step saw of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The group of steps, and the step in it.
    pub step: (u32, u32),
    /// The key.
    pub key: Key,
    /// What it held, with the request's own earlier writes; `None` where nothing was known of it.
    pub cell: Option<Arc<Cell>>,
}

/// The code of a step: what it writes, given what it saw.
///
/// It may be called again for the same step, on another node, with another snapshot.
pub trait Function: fmt::Debug + Send + Sync {
    /// The operations, in program order, on keys that the step reads.
    fn run(&self, seen: &[Seen], at: Time) -> Vec<(Key, Op)>;
}

/// One step of a request.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it reads; what it writes is among it.
    pub keys: Vec<Key>,
    /// Where it runs; `None` for where the request does.
    pub place: Option<Address>,
    /// Its code.
    pub code: Arc<dyn Function>,
}

/// A request as a client sends it: the same each time it tries.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its identity.
    pub id: RequestId,
    /// Its home.
    pub home: PartitionId,
    /// A hash of its arguments.
    pub arguments: u64,
    /// The session so far.
    pub token: Token,
    /// What its answer must promise.
    pub durability: Durability,
    /// Its steps: the groups one after the other, the steps of a group at the same time.
    pub steps: Arc<Vec<Vec<Step>>>,
    /// What it sends if it commits.
    pub messages: Vec<Outgoing>,
    /// Whether its id may come again: then it leaves a record whatever it wrote, since another
    /// attempt at it may write something else.
    pub is_keyed: bool,
    /// Whether it was sent before: then its home is asked first.
    pub is_retry: bool,
}

/// A request's answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It took effect once, or changed nothing.
    Done {
        /// Its commit; `None` if it wrote nothing.
        commit: Option<Stamp>,
        /// What it read from.
        snapshot: Time,
        /// What its steps saw.
        result: Arc<Vec<Seen>>,
        /// The session from here on.
        token: Token,
    },
    /// It did not, or nobody knows any more.
    Refused(Refusal),
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The partition is owned by another member, or is not open yet.
    #[error("the partition is not served here: ask its owner")]
    NotOwner,
    /// The owner has not seen for too long that it still is a member.
    #[error("the owner is not sure of being a member: ask again")]
    Unconfirmed,
    /// The snapshot is older than what may still be read or committed from.
    #[error("the snapshot is too old: run the request again from a new one")]
    SnapshotExpired,
    /// The id is older than the retention of results.
    #[error("the request is too old to be known: it is not run again")]
    RequestExpired,
    /// The id stands for a request with other arguments.
    #[error("the id was used for another request: take a new one")]
    OtherArguments,
    /// The work is further ahead of this clock than clocks may be apart.
    #[error("the session is ahead of this node's clock: ask another node")]
    ClockAhead,
    /// Commits may have been lost since the token was made.
    #[error("commits of this session may be lost: begin a new one")]
    StateLost,
    /// An operation does not fit what the key holds.
    #[error("an operation does not fit its key's type")]
    WrongKind,
}

/// What came of one run of a step.
#[derive(Clone, Debug)]
pub enum StepOutcome {
    /// What it saw and what it wrote.
    Done {
        /// What it saw.
        seen: Vec<Seen>,
        /// What it wrote.
        wrote: Arc<Buffer>,
    },
    /// It could not run.
    Failed(Refusal),
}

/// A message.
#[derive(Clone, Debug)]
pub enum Body {
    /// From a client, or from a home with a message's request.
    Call(Call),
    /// From a client: one write at level `eventual`, outside of any snapshot.
    Write {
        /// Its identity.
        id: RequestId,
        /// The key.
        key: Key,
        /// The operation.
        op: Op,
        /// The session so far.
        token: Token,
        /// What its answer must promise.
        durability: Durability,
    },
    /// To whoever called.
    Answered {
        /// The request.
        id: RequestId,
        /// Its answer.
        answer: Answer,
    },
    /// Asks a home for a request's record.
    Look {
        /// The attempt that asks.
        ticket: Ticket,
        /// The request.
        id: RequestId,
        /// Its home.
        home: PartitionId,
        /// A hash of its arguments.
        arguments: u64,
    },
    /// There is no record of the request.
    NotKnown {
        /// The attempt that asked.
        ticket: Ticket,
    },
    /// Asks for a pinned snapshot at or above a time.
    Pin {
        /// The attempt that asks.
        ticket: Ticket,
        /// The session's time.
        token: Time,
    },
    /// A pinned snapshot.
    Pinned {
        /// The attempt that asked.
        ticket: Ticket,
        /// The snapshot.
        snapshot: Time,
    },
    /// Releases a pin.
    Unpin {
        /// The attempt that asked for it.
        ticket: Ticket,
    },
    /// Reads a key at a snapshot.
    Read {
        /// The reading.
        ticket: Ticket,
        /// The key's partition.
        partition: PartitionId,
        /// The key.
        key: Key,
        /// The snapshot.
        at: Time,
        /// Whether to subscribe, and to which stream if there is one already.
        subscribe: Option<Option<StreamId>>,
    },
    /// What a key holds.
    Value {
        /// The reading.
        ticket: Ticket,
        /// The cell at the snapshot.
        cell: Option<Arc<Cell>>,
        /// What a cache may keep.
        entry: Option<crate::cache::Fill>,
    },
    /// Changes of the keys that a cache subscribes to.
    Push(Push),
    /// Asks a home to decide a request.
    Commit(CommitRequest),
    /// Writes one operation to one key at its owner, outside of any snapshot.
    Eventual {
        /// The writing.
        ticket: Ticket,
        /// The writer's incarnation and number as a request's id.
        id: RequestId,
        /// The key.
        key: Key,
        /// The operation.
        op: Op,
        /// The session's time.
        token: Time,
        /// What its answer must promise.
        durability: Durability,
    },
    /// A request's record stands.
    Decided {
        /// The attempt that asked.
        ticket: Ticket,
        /// Its commit.
        stamp: Stamp,
        /// What it read from.
        snapshot: Time,
        /// What its steps saw.
        result: Arc<Vec<Seen>>,
    },
    /// It was not done, and why.
    Refused {
        /// The attempt or reading that asked.
        ticket: Ticket,
        /// Why.
        refusal: Refusal,
    },
    /// Runs a step.
    StepCall {
        /// The attempt, and the step's place in it.
        run: (Ticket, u32, u32),
        /// The snapshot.
        at: Time,
        /// What the steps before wrote.
        before: Arc<Buffer>,
        /// The step.
        step: Step,
    },
    /// What came of a step.
    StepReply {
        /// The attempt, and the step's place in it.
        run: (Ticket, u32, u32),
        /// What came of it.
        outcome: StepOutcome,
    },
    /// What a member knows of all members in this epoch.
    Gossip(Gossip),
    /// A safe commit's deltas for a partition.
    Deliver {
        /// The partition.
        partition: PartitionId,
        /// The commit.
        applied: Applied,
    },
    /// They are applied.
    Delivered {
        /// The partition.
        partition: PartitionId,
        /// The commit.
        stamp: Stamp,
    },
    /// The unflushed end of a log, for the standby.
    Tail {
        /// The partition.
        partition: PartitionId,
        /// The owner's generation.
        generation: Generation,
        /// The position of the first entry.
        from: usize,
        /// The entries.
        entries: Vec<Arc<Entry>>,
        /// What is on stable storage.
        flushed: usize,
    },
    /// The standby holds the log up to a position; `None` if it is sealed.
    TailHeld {
        /// The partition.
        partition: PartitionId,
        /// The owner's generation.
        generation: Generation,
        /// The position.
        through: Option<usize>,
    },
    /// A new owner: nothing older is served or taken from now on. Asks for the tail.
    Seal {
        /// The partition.
        partition: PartitionId,
        /// The new owner's generation.
        generation: Generation,
    },
    /// The partition is sealed here.
    Sealed {
        /// The partition.
        partition: PartitionId,
        /// The new owner's generation.
        generation: Generation,
        /// Who answers.
        member: Writer,
        /// What it holds.
        tail: Option<Tail>,
    },
    /// Asks a home for its safe records above a time that touch a partition.
    Redo {
        /// The home asked.
        home: PartitionId,
        /// The partition that is being opened.
        partition: PartitionId,
        /// Its mark.
        above: Time,
    },
    /// A home's safe records that touch a partition.
    Redone {
        /// The home.
        home: PartitionId,
        /// The partition.
        partition: PartitionId,
        /// Their deltas for it.
        applied: Vec<Applied>,
    },
    /// Asks whether the new owner has opened a partition's log.
    IsOpen {
        /// The partition.
        partition: PartitionId,
    },
    /// It has.
    Open {
        /// The partition.
        partition: PartitionId,
    },
    /// The message was of an older epoch.
    Stale,
}

/// A request's writes on their way to its home.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    /// The attempt that asks.
    pub ticket: Ticket,
    /// The request.
    pub id: RequestId,
    /// Its home.
    pub home: PartitionId,
    /// A hash of its arguments.
    pub arguments: u64,
    /// What it read from.
    pub snapshot: Time,
    /// The session's time.
    pub token: Time,
    /// What it wrote.
    pub buffer: Arc<Buffer>,
    /// What its steps saw.
    pub result: Arc<Vec<Seen>>,
    /// What it sends.
    pub messages: Vec<Outgoing>,
    /// What its answer must promise.
    pub durability: Durability,
}

/// What a member knows of all members in one epoch. Every table only ever rises.
#[derive(Clone, Debug, Default)]
pub struct Gossip {
    /// Who sends it.
    pub from: Writer,
    /// Whether it knows a time that all its commits are above.
    pub is_floored: bool,
    /// Heartbeats.
    pub beats: BTreeMap<Writer, u64>,
    /// Frontiers.
    pub frontiers: BTreeMap<Writer, Time>,
    /// The oldest snapshot pinned.
    pub pinned: BTreeMap<Writer, Time>,
    /// The oldest snapshot pinned or committed from and not delivered.
    pub held: BTreeMap<Writer, Time>,
    /// Flushed marks of partitions.
    pub marks: BTreeMap<PartitionId, Time>,
}

/// A message with what every message carries.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Where it comes from.
    pub from: Address,
    /// The sender's epoch; 0 for clients, which have none.
    pub epoch: u64,
    /// The sender's hybrid time.
    pub time: Time,
    /// What it says.
    pub body: Body,
}

/// What happens to a machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed. Due every few milliseconds.
    Tick,
    /// A message has come.
    Message(Envelope),
    /// The newest epoch, as read from where epochs are stored.
    Epoch(Arc<Epoch>),
    /// A log was opened by this generation: nobody older writes to it any more.
    LogOpened {
        /// Which log.
        partition: PartitionId,
        /// Who asked.
        generation: Generation,
        /// What is in it.
        read: LogRead,
    },
    /// A write is on stable storage.
    LogWritten {
        /// Which log.
        partition: PartitionId,
        /// Who wrote.
        generation: Generation,
        /// The position after its last entry.
        end: usize,
    },
    /// A newer generation has opened the log.
    LogFenced {
        /// Which log.
        partition: PartitionId,
        /// Who asked.
        generation: Generation,
    },
}

/// What a machine asks for.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends a message; it may be lost, doubled, late. To the own address it is not.
    Send {
        /// To whom.
        to: Address,
        /// What.
        envelope: Envelope,
    },
    /// Reads the newest epoch, to come back as [`Event::Epoch`].
    ReadEpoch,
    /// Stores an epoch unless its number is taken.
    Propose(Epoch),
    /// Opens a log, to come back as [`Event::LogOpened`] or [`Event::LogFenced`].
    OpenLog {
        /// Which log.
        partition: PartitionId,
        /// Who asks.
        generation: Generation,
    },
    /// Writes to a log, to come back as [`Event::LogWritten`] or [`Event::LogFenced`].
    WriteLog(LogWrite),
    /// This incarnation is no member any more: go on as a new one.
    Rejoin,
    /// Something for a trace.
    Note(String),
}

/// Time and randomness do not come from here: see [`Now`].
pub(crate) fn envelope(from: Address, epoch: u64, time: Time, body: Body) -> Envelope {
    Envelope {
        from,
        epoch,
        time,
        body,
    }
}

impl Now {
    /// Whether a deadline has come.
    #[must_use]
    pub fn is_past(&self, deadline_us: u64) -> bool {
        self.monotonic_us >= deadline_us
    }
}
