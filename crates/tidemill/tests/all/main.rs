//! The whole node from outside: the real program on a directory of its own, over
//! HTTP and by its command line.

mod access;
mod backup;
mod bundle;
mod cli;
mod clients;
mod component_bounds;
mod components;
mod disk;
mod door;
mod functions;
mod kills;
mod kv;
mod leaks;
mod node;
mod once;
mod processes;
mod programs;
mod python;
mod redis;
mod redis_clients;
mod redis_faults;
mod redis_kills;
mod resp;
mod sessions;
mod support;
mod top;
mod watch;
mod wire;
