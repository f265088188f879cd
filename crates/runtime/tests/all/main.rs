//! The runtime with a real store and real Python workers, without any door.

mod calls;
mod components;
mod deploys;
mod faults;
mod flows;
mod levels;
mod node;
mod once;
mod state;
mod web;
