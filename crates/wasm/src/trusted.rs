//! The one place where bytes become machine code without being compiled.
#![expect(
    unsafe_code,
    reason = "loading compiled code is unsafe unless its origin is known"
)]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Compiled code that this node made itself: its maker's code over it was found right.
pub(crate) struct Trusted<'a>(&'a [u8]);

impl<'a> Trusted<'a> {
    /// Vouches for bytes. To be called only with what a check of the node's own code over them
    /// has passed.
    pub(crate) fn checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Loads the code. Fails where another version or setting of the engine made it.
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes are what `Engine::precompile_component` gave to this node: they
        // carry a code that is made with the node's secret key, and nobody else has that.
        unsafe { Component::deserialize(engine, self.0) }
    }
}
