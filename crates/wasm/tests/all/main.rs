//! The engine from outside: its interface, and what is given to it.

mod bounds;
mod fuzz;
mod interface;
