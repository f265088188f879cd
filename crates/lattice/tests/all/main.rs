//! Tests of the lattice through its public interface.

mod again;
mod convergence;
mod fuzz;
mod golden;
mod json;
mod laws;
mod semantics;
mod world;
