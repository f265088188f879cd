//! Functions for Tidemill, in Rust.
//!
//! A function is a WebAssembly component of the world `tidemill:platform/function`. This crate is
//! that world in Rust: payloads, state, calls to other functions, steps, the request and its log.
//! It knows nothing of the platform but its WIT.
//!
//! ```no_run
//! use tidemill_guest::{Error, Payload, state};
//!
//! fn visit(name: Payload) -> Result<Payload, Error> {
//!     let visits = state::counter(format!("visits/{}", name.as_text()?));
//!     visits.add(1)?;
//!     Ok(Payload::text(format!("visit {}", visits.get()?)))
//! }
//!
//! tidemill_guest::function!(visit);
//! # fn main() {}
//! ```
//!
//! Build it as a `cdylib` with `cargo build --release --target wasm32-wasip2`.
//!
//! Everything that a call reads is of one snapshot, and everything it writes is committed once its
//! request has ended well; an `Err` leaves nothing behind. So there is nothing to lock, and nothing
//! to undo.

#![forbid(unsafe_op_in_unsafe_fn)]

mod calls;
#[cfg(feature = "json")]
mod json;
pub mod log;
mod macros;
mod payload;
pub mod request;
pub mod state;
mod step;

pub use calls::{Call, call, enqueue, spawn};
#[cfg(feature = "json")]
pub use json::Json;
pub use payload::{FromPayload, IntoPayload};
pub use step::step;

pub use bindings::tidemill::platform::types::{Error, Payload, Scalar};

/// What `wit-bindgen` makes of the world, for what this crate has no words for.
#[allow(missing_docs, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "function",
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "tidemill_guest::bindings",
        additional_derives: [PartialEq],
    });
}
