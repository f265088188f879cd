//! The Redis door: state by the protocol of Redis.
//!
//! RESP2 and RESP3 with Redis's own limits, one table of commands, and what each command means
//! over values that merge. Connections live on the threads of the store's shards. A write is
//! decided by the shard that owns its key, where the newest state is, so of two that race (`SET
//! NX`, `INCR`) exactly one wins.
//!
//! This crate knows the lattice and the store. It must not know HTTP, functions, apps' code or
//! the runtime: a key of the door is a key of the app named in [`Options`], and nothing more.

mod command;
mod connection;
mod cursors;
mod door;
mod draft;
mod fault;
mod glob;
mod hashes;
mod keys;
mod multi;
mod number;
mod parser;
mod reply;
mod serve;
mod server;
mod session;
mod sets;
mod streams;
mod strings;
mod threads;
mod values;

pub use door::{Door, Options, Parts};
pub use parser::{Limits, Parser, ProtocolError};
pub use reply::{Protocol, Reply};
pub use serve::serve;
pub use threads::Threads;
