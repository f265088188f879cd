//! The engine from outside: its interface, and what is given to it.

mod fuzz;
mod interface;
