//! What every handler may reach. Parts are handed in; nothing here is made up
//! from the environment.

use crate::access::Access;
use crate::metrics::HttpCounts;
use std::path::PathBuf;
use std::sync::Arc;
use tidemill_lattice::Clock;
use tidemill_runtime::Runtime;
use tidemill_store::Store;
use tidemill_telemetry::Telemetry;
use tokio::sync::watch;

/// Limits of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The largest body of a call, a value or a flow, in bytes.
    pub body_bytes_max: usize,
    /// The largest archive of a deploy, in bytes.
    pub archive_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_bytes_max: 64 << 20,
            archive_bytes_max: 256 << 20,
        }
    }
}

/// What the node tells about itself at `/v1/node`.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The version of the program.
    pub version: &'static str,
    /// The directory that holds everything the node keeps.
    pub data_directory: PathBuf,
    /// When it started, in Unix microseconds.
    pub started_us: u64,
    /// The settings in force, without secrets.
    pub settings: serde_json::Value,
}

/// What the door is put together from.
pub struct Parts {
    /// Runs the calls and holds the state.
    pub runtime: Runtime,
    /// Holds the state: for what concerns it as a whole.
    pub store: Arc<dyn Store>,
    /// Logs, spans and meters, written by the runtime.
    pub telemetry: Arc<Telemetry>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Who may come in.
    pub access: Access,
    /// Limits.
    pub options: Options,
    /// About the node.
    pub node: NodeInfo,
    /// Turns true when the node begins to stop.
    pub stopping: watch::Receiver<bool>,
}

pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) access: Access,
    pub(crate) options: Options,
    pub(crate) node: NodeInfo,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) counts: HttpCounts,
}

/// The state of the door; a cheap handle.
#[derive(Clone)]
pub struct GatewayState(pub(crate) Arc<Shared>);

impl GatewayState {
    /// The door in front of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Shared {
            runtime: parts.runtime,
            store: parts.store,
            telemetry: parts.telemetry,
            clock: parts.clock,
            access: parts.access,
            options: parts.options,
            node: parts.node,
            stopping: parts.stopping,
            counts: HttpCounts::default(),
        }))
    }
}
