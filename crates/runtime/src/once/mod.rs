//! A request takes effect once: what a caller's key means, which requests are on their way,
//! and what a record holds of one that has committed.
//!
//! The parts here are pure; `keyed` has the effects. None of them knows workers or HTTP.

mod answered;
mod identity;
mod inflight;
mod keyed;
pub(crate) mod recorded_step;

pub(crate) use answered::{Answered, Outputs};
pub(crate) use identity::{Identity, Recording, child_path, message_id, step_record_id};
pub(crate) use keyed::{Flights, Landed, Run, repeat};
