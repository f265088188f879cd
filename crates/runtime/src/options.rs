//! The runtime's settings.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use tidemill_problem::{Code, Problem};
use tidemill_scheduler::AdmissionPolicy;
use tidemill_store::Durability;

/// Settings of the runtime. Plain values; parts with behaviour come separately.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where bundles and environments are kept.
    pub directory: PathBuf,
    /// The interpreter that runs Python apps.
    pub python: PathBuf,
    /// The directory that holds the `tidemill` Python package, put before the
    /// interpreter's own path. Without it the interpreter must have the package.
    pub sdk_directory: Option<PathBuf>,
    /// Where secrets are read, one file each.
    pub secrets_directory: PathBuf,
    /// How safe a commit is before it is answered.
    pub durability: Durability,
    /// How long the results of requests with a key are kept.
    pub retention: Duration,
    /// What session tokens are signed with. Without it they are those of one life of the node.
    pub session_secret: Option<[u8; 32]>,
    /// Limits.
    pub limits: Limits,
    /// Workers of one group that may run at the same time.
    pub workers_max: usize,
    /// Processes of one group, those waiting for calls of their own included.
    pub processes_max: usize,
    /// Calls that may wait for a worker of one group.
    pub waiting_max: usize,
    /// How many requests may be in the node, and how many may wait.
    pub admission: AdmissionPolicy,
}

/// Limits on what calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest payload of a call, result or value, in bytes.
    pub payload_bytes: usize,
    /// How deep calls may nest.
    pub call_depth: u32,
    /// How often a request is run again when a worker of its died.
    pub crash_retries: u32,
    /// Calls that one run may have made and not waited for.
    pub calls_pending: usize,
    /// Bytes of shared memory for large values.
    pub shared_bytes: usize,
    /// Requests remembered after they have ended.
    pub requests_kept: usize,
    /// Bytes of results remembered for requests that were not waited for.
    pub results_bytes: usize,
    /// Instances of WebAssembly components at a time, resting ones included.
    pub instances: u32,
    /// Bytes of compiled components kept on disk.
    pub compiled_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes: 64 << 20,
            call_depth: 32,
            crash_retries: 2,
            calls_pending: 10_000,
            shared_bytes: 512 << 20,
            requests_kept: 10_000,
            results_bytes: 256 << 20,
            instances: 2000,
            compiled_bytes: 1 << 30,
        }
    }
}

impl Options {
    /// Settings for a node that keeps its files here, everything else by default.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            python: PathBuf::from("python3"),
            sdk_directory: None,
            secrets_directory: directory.join("secrets"),
            directory,
            durability: Durability::Durable,
            retention: Duration::from_secs(24 * 60 * 60),
            session_secret: None,
            limits: Limits::default(),
            workers_max: (2 * processors).max(4),
            processes_max: 64,
            waiting_max: 2048,
            admission: AdmissionPolicy::default(),
        }
    }

    /// A secret's value: the file of its name, else `TIDEMILL_SECRET_<NAME>`.
    ///
    /// # Errors
    /// `bad-manifest` when the node has no such secret.
    pub(crate) fn secret(&self, name: &str) -> Result<String, Problem> {
        if let Ok(text) = std::fs::read_to_string(self.secrets_directory.join(name)) {
            return Ok(text.trim_end_matches('\n').to_owned());
        }
        std::env::var(format!("TIDEMILL_SECRET_{name}")).map_err(|_| {
            Problem::new(
                Code::BadManifest,
                format!(
                    "the node has no secret {name}; write it to {} or start the node with \
                     TIDEMILL_SECRET_{name}",
                    self.secrets_directory.join(name).display()
                ),
            )
        })
    }
}
