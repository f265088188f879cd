//! Operations: what a program asks of a key, before it becomes a delta.

use std::sync::Arc;

use crate::{Kind, Ordinal, Payload, Time};

/// Greatest size of one payload in bytes; what one frame of the worker protocol holds.
pub const PAYLOAD_MAX_BYTES: usize = 64 << 20;

/// Greatest length of a field's name, and of an id in a `top`, in bytes.
pub const FIELD_MAX_BYTES: usize = 2048;

/// One operation on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a register; the last writer wins.
    RegisterSet(Payload),
    /// Replaces the values seen and keeps those written concurrently.
    MultiSet(Payload),
    /// Adds to a counter.
    CounterAdd(i64),
    /// Raises a maximum.
    MaxPut(Ordinal),
    /// Lowers a minimum.
    MinPut(Ordinal),
    /// Raises a flag.
    FlagRaise,
    /// Adds an element; wins over a concurrent remove.
    SetAdd(Payload),
    /// Removes an element, as far as its adds have been seen.
    SetRemove(Payload),
    /// Appends an entry to a log.
    LogAppend {
        /// The entry.
        value: Payload,
        /// Keep only so many newest entries. The smallest bound ever given counts.
        keep: Option<u32>,
    },
    /// Offers a score to a leader board. The greatest score of an id counts.
    TopPut {
        /// A number.
        score: Ordinal,
        /// Whose score it is.
        id: Arc<str>,
        /// How many ids the board keeps. The smallest ever given counts.
        of: u32,
    },
    /// An operation on a field of a map. Fields hold register, multi, counter, max, min, flag
    /// and set.
    MapField {
        /// The field's name.
        field: Arc<str>,
        /// What to do with it.
        op: Box<Op>,
    },
    /// Removes a field of a map.
    MapRemove {
        /// The field's name.
        field: Arc<str>,
    },
    /// Deletes the key.
    Delete,
    /// Sets when the key expires; `None` for never. Nothing happens to an absent key.
    Expire(Option<Time>),
}

impl Op {
    /// The kind of value the operation is for; `None` for those that fit any.
    pub const fn kind(&self) -> Option<Kind> {
        match self {
            Op::RegisterSet(_) => Some(Kind::Register),
            Op::MultiSet(_) => Some(Kind::Multi),
            Op::CounterAdd(_) => Some(Kind::Counter),
            Op::MaxPut(_) => Some(Kind::Max),
            Op::MinPut(_) => Some(Kind::Min),
            Op::FlagRaise => Some(Kind::Flag),
            Op::SetAdd(_) | Op::SetRemove(_) => Some(Kind::Set),
            Op::LogAppend { .. } => Some(Kind::Log),
            Op::TopPut { .. } => Some(Kind::Top),
            Op::MapField { .. } | Op::MapRemove { .. } => Some(Kind::Map),
            Op::Delete | Op::Expire(_) => None,
        }
    }
}

/// Why an operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The key holds a value of another kind.
    #[error(
        "the key holds a {held}, not a {asked}: use the operations of {held}, or delete the key first"
    )]
    WrongKind {
        /// What the key holds.
        held: Kind,
        /// What the operation is for.
        asked: Kind,
    },
    /// The field holds a value of another kind.
    #[error(
        "the field `{field}` holds a {held}, not a {asked}: use the operations of {held}, or remove the field first"
    )]
    FieldKind {
        /// The field's name.
        field: Arc<str>,
        /// What the field holds.
        held: Kind,
        /// What the operation is for.
        asked: Kind,
    },
    /// A field cannot hold this kind.
    #[error(
        "a field cannot hold a {0}: use register, multi, counter, max, min, flag or set, or a key of its own"
    )]
    NestedMap(Kind),
    /// A payload or name is too large.
    #[error("the {what} has {size_bytes} bytes: use at most {limit_bytes}")]
    TooLarge {
        /// What is too large: `value`, `field` or `id`.
        what: &'static str,
        /// Its size in bytes.
        size_bytes: usize,
        /// The greatest size in bytes.
        limit_bytes: usize,
    },
    /// A score that is no finite number, or a value that is neither such a number nor a text.
    #[error(
        "the value is not a finite number: give an integer, or a float that is neither NaN nor infinite"
    )]
    NotANumber,
    /// `keep` or `of` is zero.
    #[error("`{0}` is 0: keep at least one, or delete the key")]
    ZeroBound(&'static str),
}
