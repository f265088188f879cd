//! A whole cluster in one thread, from one seed.
//!
//! Drives the state machines of `tidemill-causal` with random clients over a fabric that loses,
//! doubles, delays and reorders, with hosts that crash, stand still and come back, and clocks that
//! step. What the clients saw is then read by a checker that knows nothing of the protocol. It
//! must not know threads, sockets, or any chance but the seed's.

pub mod checker;
pub mod clients;
pub mod disk;
pub mod faults;
pub mod figures;
pub mod histories;
pub mod objects;
pub mod profile;
pub mod rng;
mod run;
pub mod world;

pub use run::{Options, Outcome, run};
