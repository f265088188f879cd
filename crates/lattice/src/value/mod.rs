//! The value types. Each is a join semilattice in a normal form, so that equal states are `==`.
//!
//! A value knows nothing of keys, deletes or expiry: that is [`Cell`](crate::Cell)'s.

mod counter;
mod extremum;
mod log;
mod map;
mod multi;
mod register;
mod set;
mod top;

pub use counter::Counter;
pub use extremum::{Flag, Max, Min};
pub use log::Log;
pub use map::Map;
pub use multi::Multi;
pub use register::Register;
pub use set::Set;
pub use top::Top;

pub(crate) use set::{Dots, Slot};

use crate::{Dot, Kind, Time};

/// A value of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// See [`Register`].
    Register(Register),
    /// See [`Multi`].
    Multi(Multi),
    /// See [`Counter`].
    Counter(Counter),
    /// See [`Max`].
    Max(Max),
    /// See [`Min`].
    Min(Min),
    /// See [`Flag`].
    Flag(Flag),
    /// See [`Set`].
    Set(Set),
    /// See [`Map`].
    Map(Map),
    /// See [`Log`].
    Log(Log),
    /// See [`Top`].
    Top(Top),
}

impl Value {
    /// The value's kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Value::Register(_) => Kind::Register,
            Value::Multi(_) => Kind::Multi,
            Value::Counter(_) => Kind::Counter,
            Value::Max(_) => Kind::Max,
            Value::Min(_) => Kind::Min,
            Value::Flag(_) => Kind::Flag,
            Value::Set(_) => Kind::Set,
            Value::Map(_) => Kind::Map,
            Value::Log(_) => Kind::Log,
            Value::Top(_) => Kind::Top,
        }
    }

    /// Joins another value of the same kind. One of another kind changes nothing: a cell keeps
    /// kinds apart.
    pub(crate) fn merge(&mut self, other: &Value) {
        match (self, other) {
            (Value::Register(a), Value::Register(b)) => a.merge(b),
            (Value::Multi(a), Value::Multi(b)) => a.merge(b),
            (Value::Counter(a), Value::Counter(b)) => a.merge(b),
            (Value::Max(a), Value::Max(b)) => a.merge(b),
            (Value::Min(a), Value::Min(b)) => a.merge(b),
            (Value::Flag(_), Value::Flag(_)) => {}
            (Value::Set(a), Value::Set(b)) => a.merge(b),
            (Value::Map(a), Value::Map(b)) => a.merge(b),
            (Value::Log(a), Value::Log(b)) => a.merge(b),
            (Value::Top(a), Value::Top(b)) => a.merge(b),
            (a, b) => debug_assert_eq!(a.kind(), b.kind(), "kinds are kept apart"),
        }
    }

    pub(crate) fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        match self {
            Value::Register(value) => value.restamp(map),
            Value::Multi(value) => value.restamp(map),
            Value::Counter(value) => value.restamp(map),
            Value::Set(value) => value.restamp(map),
            Value::Map(value) => value.restamp(map),
            Value::Log(value) => value.restamp(map),
            Value::Max(_) | Value::Min(_) | Value::Flag(_) | Value::Top(_) => {}
        }
    }

    /// See [`Cell::compact`](crate::Cell::compact). Returns whether anything changed and how many
    /// conflicting values were dropped.
    pub(crate) fn compact(&mut self, through: Time, forget: Time) -> crate::Compacted {
        let changed = match self {
            Value::Multi(value) => value.compact(through),
            Value::Counter(value) => value.compact(through),
            Value::Set(value) => value.compact(through),
            Value::Map(value) => return value.compact(through, forget),
            _ => false,
        };
        crate::Compacted {
            changed,
            ..crate::Compacted::default()
        }
    }

    /// Approximate heap size.
    pub(crate) fn weight_bytes(&self) -> usize {
        match self {
            Value::Register(value) => value.weight_bytes(),
            Value::Multi(value) => value.weight_bytes(),
            Value::Counter(value) => value.weight_bytes(),
            Value::Max(Max(value)) | Value::Min(Min(value)) => extremum::weight_bytes(value),
            Value::Flag(_) => 0,
            Value::Set(value) => value.weight_bytes(),
            Value::Map(value) => value.weight_bytes(),
            Value::Log(value) => value.weight_bytes(),
            Value::Top(value) => value.weight_bytes(),
        }
    }
}

/// What an entry of a tree costs beside its contents, roughly.
pub(crate) const ENTRY_BYTES: usize = 48;

pub(crate) fn payload_weight_bytes(payload: &crate::Payload) -> usize {
    let name = match &payload.content_type {
        crate::ContentType::Other(text) => text.len(),
        _ => 0,
    };
    payload.body.len() + name
}
