//! The whole node from outside: the real program on a directory of its own, over
//! HTTP and by its command line.

mod access;
mod cli;
mod door;
mod kv;
mod node;
mod python;
mod support;
