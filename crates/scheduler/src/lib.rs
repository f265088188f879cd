//! Where and when to run, as pure state machines: an event goes in, a list of actions
//! comes out, and somebody else carries the actions out.
//!
//! - [`Admission`]: whether a node takes a call now, later, or not at all.
//! - [`Pool`]: which worker of a group runs what, and how many workers there are.
//! - [`Observed`]: what a function's run time has been, for the optimiser of flows.
//!
//! This crate must not know of processes, sockets, functions' code or state. All times
//! are handed in, in microseconds of one clock that does not go back; a time earlier
//! than one seen before counts as that one.

mod admission;
mod error;
mod observed;
mod pool;

pub use admission::{
    Admission, AdmissionAction, AdmissionActions, AdmissionEvent, AdmissionPolicy, AdmissionStats,
    FullBound, FunctionId,
};
pub use error::PolicyError;
pub use observed::{CostClass, Observed};
pub use pool::{
    Pool, PoolAction, PoolActions, PoolEvent, PoolPolicy, PoolStats, RefuseReason, WorkerId,
};

/// Somebody's wish, waiting for its answer. The asker chooses the number and does not use
/// it for two wishes at the same time.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Ticket(pub u64);
