//! The worker protocol (docs/worker-protocol.md) as bytes and as values. Pure: takes
//! bytes, gives values; knows no sockets and no processes.

mod frame;
mod headers;

pub(crate) use frame::*;
pub(crate) use headers::*;
