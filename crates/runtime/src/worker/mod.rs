//! Worker processes: how they are started, reached, shared and ended. Knows the
//! worker protocol's frames; must not know requests, state or flows.

mod connection;
mod group;
mod launch;
mod listener;

pub(crate) use connection::ConnectionError;
pub(crate) use group::{Death, Group, Lease, NoWorker, Shop};
pub(crate) use launch::{LaunchError, Launcher, Printed, ProcessSpec, Program};
pub(crate) use listener::Listener;
