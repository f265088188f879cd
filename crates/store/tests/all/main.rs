//! What a partition promises, checked from outside.

mod backup;
mod chain;
mod clocks;
mod contract;
mod damage;
mod faults;
mod frontier;
mod fuzz;
mod golden;
mod kill;
mod losses;
mod meters;
mod model;
mod observed;
mod recovery;
mod requests;
mod snapshots;
mod support;
mod tiers;
mod turns;
mod updates;
mod watch;
