//! Runs WebAssembly components: compiled once, kept warm, bounded, with nothing but what they
//! are given.
//!
//! An [`Engine`] makes a [`Component`] of bytes, from a cache of compiled code where it can. A
//! component gives [`Instance`]s; an instance handles one call at a time, and whatever the guest
//! asks of its platform meanwhile goes to the call's [`Platform`]. A [`Pool`] keeps the instances
//! that rest between calls.
//!
//! The worlds are `tidemill:platform/function` (see `wit/`) and the standard
//! `wasi:http/incoming-handler`, both on WASI 0.2. Either may import `wasi:keyvalue`,
//! `wasi:config/store` and `wasi:logging` (see `crates/wasm/wit`). A guest has clocks, random numbers, standard
//! output and the variables it was granted; it has no files and no sockets, and speaks HTTP to
//! granted hosts only.
//!
//! This room must not know requests, apps, the store, or who calls: only what a guest may ask.

mod bindings;
mod cache;
mod component;
mod data;
mod engine;
mod error;
mod exchange;
mod host;
mod instance;
mod output;
mod platform;
mod pool;
mod ticker;
mod trusted;
mod warm;

pub use cache::{Cache, CacheKey};
pub use component::{Component, World};
pub use engine::{Engine, Options};
pub use error::{ComponentError, EngineError, Failure};
pub use exchange::{EXCHANGE_CONTENT_TYPE, Exchange, ExchangeError, Head};
pub use instance::Instance;
pub use output::{Lines, OutputStream};
pub use platform::{Called, Caller, Context, Keys, Level, LogLevel, Platform, Step};
pub use pool::{Grants, Lease, NoInstance, Pool};
