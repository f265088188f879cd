//! What the crate promises, seen from outside.

mod plans;
mod properties;
mod rules;
mod support;
