//! Does a history keep the promises? Knows nothing of any protocol: requests, what they saw, what
//! they wrote.
//!
//! A history is right if there is a *visibility*: for each request the set of requests it has seen,
//! such that
//!
//! - visibility is transitive and has no cycle, and contains the order of each session and whatever
//!   a request is known to come after;
//! - each value read is explained by what is visible to the reader, all of it and nothing else;
//! - registers agree on one total order of requests that contains visibility.
//!
//! This is causal convergence (Bouajjani, Enea, Guerraoui, Hamza, "On verifying causal
//! consistency", 2017) for requests that write several objects at once. Each write has a name of
//! its own, so a value tells which writes it is made of, and the least visibility that contains
//! them decides: a greater one only has more to explain. What a delete hid does not show; where
//! only one delete can have hidden it, that one was visible, and where several can, each is tried
//! in turn, up to a budget. So what is reported is wrong, and with a budget that is not used up
//! nothing wrong is missed.

mod bits;
mod explain;

use std::collections::BTreeMap;
use std::fmt;

pub use explain::check;

/// A request's place in its history.
pub type Id = usize;

/// What a request did to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Added its name to a bag: a set's element, a counter's addend.
    Add,
    /// Set a register to its name.
    Put,
    /// Removed the names that it had seen in a bag.
    Remove(Vec<Id>),
    /// Deleted the object.
    Delete,
    /// Let the object expire at some time, or may have removed something: it can explain that
    /// names are gone, and does not say that they are.
    Hide,
}

/// What a request saw of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The names in a bag, each with how often it counts.
    Bag(BTreeMap<Id, u32>),
    /// The name in a register.
    Register(Option<Id>),
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// For reports.
    pub label: String,
    /// What it is known to come after, its session's answered requests among it.
    pub after: Vec<Id>,
    /// Of those, the ones of its own session.
    pub session: Vec<Id>,
    /// What it saw, before its own writes, by object.
    pub reads: Vec<(u32, Value)>,
    /// What it did, at most once to each object.
    pub writes: Vec<(u32, Write)>,
    /// Its place in the total order, if it was told: (time, writer).
    pub order: Option<(u64, u32)>,
    /// The request that this is another run of: whether it sees its effects is left open.
    pub attempt_at: Option<Id>,
    /// Whether it read when everything had come to rest.
    pub is_final: bool,
}

/// A history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The requests. Names in values are places in this list.
    pub requests: Vec<Request>,
}

/// A promise broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// A value holds a name that nobody wrote there.
    OutOfNowhere,
    /// One write counts twice.
    DuplicateEffect,
    /// A request saw the same object differently.
    NotRepeatable,
    /// A session does not see its own write.
    ReadYourWrites,
    /// A session no longer sees what it saw.
    MonotonicReads,
    /// A request sees a part of another one's writes.
    FracturedRead,
    /// A request sees a write and not what that write came after.
    CausalViolation,
    /// An answered write is not in the final state.
    LostUpdate,
    /// What was seen deleted is back.
    ResurrectedDelete,
    /// Visibility goes round in a circle.
    Cycle,
    /// No total order explains what registers held.
    NoTotalOrder,
    /// Two readers of the final state saw different ones.
    Diverged,
}

/// An anomaly, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub anomaly: Anomaly,
    /// The request that saw it.
    pub request: Id,
    /// The request whose write is missing or too many, where there is one.
    pub about: Option<Id>,
    /// What it saw wrongly.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.anomaly, self.detail)
    }
}
