//! What the crate promises, seen from outside.

mod admission;
mod observed;
mod pool;
mod pool_properties;
