//! One binary: the checker against brute force, runs and their repetition, seeded bugs.

mod brute;
mod canaries;
mod checker;
mod runs;
