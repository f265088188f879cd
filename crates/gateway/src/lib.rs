//! The HTTP door: requests in, calls of the runtime out, and back.
//!
//! This room translates and guards: it checks the token and the host, reads
//! headers and bodies within their limits, and writes answers and problems. It
//! holds no logic that a test could not reach without HTTP, and must not know how
//! functions run, where state lies or how settings came to be. `docs/http.md` is
//! the reading version of what it serves, `openapi.json` the exact one.

mod access;
mod again;
mod apps;
mod backup;
mod body;
mod calls;
mod kv;
mod logs;
mod metrics;
mod node;
mod openapi;
mod ops;
mod problems;
mod query;
mod requests;
mod routes;
mod serve;
mod state;
mod store;
mod terms;
mod traces;
mod views;
mod watch;
mod web;

pub use access::Access;
pub use routes::router;
pub use serve::serve;
pub use state::{GatewayState, NodeInfo, Options, Parts};
