//! Values that merge, and the clocks and names they need.
//!
//! Everything Tidemill stores is a [`Cell`]: a join semilattice. A write is a *delta*, itself a
//! cell, and merging deltas in any order, any number of times, gives the same cell (delta-state
//! CRDTs: Almeida, Shoker, Baquero, "Delta state replicated data types", 2018). So the data path
//! never waits for agreement.
//!
//! This crate is pure: it knows no I/O, no store, no async, and reads no clock. Time and
//! randomness come in through [`Clock`] and [`Entropy`].

mod addition;
mod cell;
mod codec;
mod delta;
mod dot;
mod json;
mod key;
mod kind;
mod op;
mod ordinal;
mod overwrite;
mod payload;
mod time;
mod value;

pub use addition::Addition;
pub use cell::{Cell, Compacted};
pub use codec::{DecodeError, Glance};
pub use dot::{Dot, Writer};
pub use json::JsonError;
pub use key::{Key, KeyError, Space, is_name};
pub use kind::{Kind, UnknownKind};
pub use op::{FIELD_MAX_BYTES, Op, OpError, PAYLOAD_MAX_BYTES};
pub use ordinal::Ordinal;
pub use overwrite::Overwrite;
pub use payload::{ContentType, ContentTypeError, Payload};
pub use time::{Clock, DrawnAhead, Entropy, HybridClock, RisingClock, Time};
pub use value::{Counter, Flag, Log, Map, Max, Min, Multi, Register, Set, Top, Value};
