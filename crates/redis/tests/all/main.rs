//! The Redis door over real sockets, on a store in a directory of its own.

mod clocks;
mod commands;
mod connections;
mod faults;
mod fuzzing;
mod multi;
mod parsing;
mod races;
mod support;
mod wide;
