//! The runtime with a real store and real Python workers, without any door.

mod attacks;
mod calls;
mod components;
mod deploys;
mod faults;
mod flows;
mod levels;
mod node;
mod once;
mod standard;
mod state;
mod web;
