//! The headers of frames, by their names in the protocol.

use super::PayloadHeader;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `hello`: the first frame on a connection.
#[derive(Debug, Deserialize)]
pub(crate) struct Hello {
    /// The protocol version of the worker.
    pub protocol: u32,
    /// The secret it was given.
    pub token: String,
    /// Its process.
    pub pid: i32,
}

/// `load`.
#[derive(Debug, Serialize)]
pub(crate) struct Load<'a> {
    /// For the answer.
    pub seq: u64,
    /// The app.
    pub app: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The directory of the unpacked bundle.
    pub root: &'a str,
    /// Where the functions are, from the manifest.
    pub entry: Option<&'a crate::manifest::Entry>,
    /// The functions that must exist.
    pub functions: Vec<&'a str>,
    /// Variables to set first.
    pub env: &'a BTreeMap<String, String>,
}

/// `loaded`.
#[derive(Debug, Deserialize)]
pub(crate) struct Loaded {
    /// Why it could not be loaded.
    #[serde(default)]
    pub error: Option<ErrorHeader>,
}

/// `fork`.
#[derive(Debug, Serialize)]
pub(crate) struct Fork<'a> {
    /// The new worker's identity.
    pub worker: u64,
    /// The secret that it says hello with.
    pub token: &'a str,
}

/// `exited`.
#[derive(Debug, Deserialize)]
pub(crate) struct Exited {
    /// The worker that ended.
    pub worker: u64,
    /// Its exit status.
    #[serde(default)]
    pub status: Option<i32>,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
}

/// Where a step's argument comes from.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) enum Input {
    /// The output of an earlier step of the fragment.
    #[serde(rename = "s")]
    Step(u32),
    /// A payload of the frame.
    #[serde(rename = "p")]
    Payload(usize),
}

/// A step of a fragment.
#[derive(Debug, Serialize)]
pub(crate) struct Step<'a> {
    /// Its id in the flow.
    pub id: u32,
    /// The function.
    pub function: &'a str,
    /// Positional arguments.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<Input>>,
    /// The payload that holds the whole call, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<usize>,
    /// Its time limit.
    pub timeout_ms: u64,
}

/// `run`.
#[derive(Debug, Serialize)]
pub(crate) struct Run<'a> {
    /// The request's id.
    pub request: &'a str,
    /// From 1.
    pub attempt: u32,
    /// The app.
    pub app: &'a str,
    /// The consistency level.
    pub level: crate::Level,
    /// A traceparent.
    pub trace: &'a str,
    /// Who calls.
    pub caller: &'a crate::Caller,
    /// How long the fragment may take.
    pub deadline_ms: u64,
    /// The caller's idempotency key.
    pub key: Option<&'a str>,
    /// What to run, in order.
    pub steps: Vec<Step<'a>>,
    /// The steps whose results go back.
    pub outputs: &'a [u32],
    /// Payloads.
    pub p: &'a [PayloadHeader],
}

/// `cancel`.
#[derive(Debug, Serialize)]
pub(crate) struct Cancel<'a> {
    /// The request to stop.
    pub request: &'a str,
}

/// An empty header.
#[derive(Debug, Serialize)]
pub(crate) struct Empty {}

/// An error on the wire.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ErrorHeader {
    /// A code of docs/errors.
    pub code: String,
    /// What happened.
    pub message: String,
    /// The exception's type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The traceback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// The payload with the pickled exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<usize>,
}

/// A state operation.
#[derive(Debug, Deserialize)]
pub(crate) struct OpHeader {
    /// The step that it belongs to.
    pub s: u32,
    /// Which operation.
    pub o: String,
    /// The key.
    pub k: String,
    /// The field of a map.
    #[serde(default)]
    pub f: Option<Arc<str>>,
    /// A number or a text.
    #[serde(default)]
    pub v: Option<serde_json::Value>,
    /// A payload.
    #[serde(default)]
    pub p: Option<usize>,
    /// How many entries of a log to keep.
    #[serde(default)]
    pub keep: Option<u32>,
    /// The score of a top entry.
    #[serde(default)]
    pub score: Option<serde_json::Value>,
    /// The id of a top entry.
    #[serde(default)]
    pub id: Option<Arc<str>>,
    /// The k of a top.
    #[serde(default)]
    pub of: Option<u32>,
    /// When the key expires.
    #[serde(default)]
    pub at_ms: Option<u64>,
    /// The program's line.
    #[serde(default)]
    pub at: Option<String>,
}

/// A read.
#[derive(Debug, Deserialize)]
pub(crate) struct GetHeader {
    /// The step that reads.
    pub s: u32,
    /// The key.
    #[serde(default)]
    pub k: Option<String>,
    /// The type asked for.
    #[serde(default)]
    pub t: Option<String>,
    /// The field of a map.
    #[serde(default)]
    pub f: Option<String>,
    /// The payload to look for in a set.
    #[serde(default)]
    pub has: Option<usize>,
    /// Lists keys with this prefix instead.
    #[serde(default)]
    pub scan: Option<String>,
    /// Where to go on from.
    #[serde(default)]
    pub after: Option<String>,
    /// How many keys.
    #[serde(default)]
    pub limit: Option<usize>,
    /// The app whose state is read, when not the function's own.
    #[serde(default)]
    pub app: Option<String>,
}

/// `state`.
#[derive(Debug, Deserialize)]
pub(crate) struct State {
    /// For the answer.
    #[serde(default)]
    pub seq: Option<u64>,
    /// Writes, in order.
    #[serde(default)]
    pub ops: Vec<OpHeader>,
    /// Reads, after them.
    #[serde(default)]
    pub get: Vec<GetHeader>,
    /// Payloads.
    #[serde(default)]
    pub p: Vec<PayloadHeader>,
}

/// How a function calls another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// And waits.
    Remote,
    /// And may wait later.
    Spawn,
    /// As a request of its own, once this one has committed.
    Enqueue,
}

/// `call`.
#[derive(Debug, Deserialize)]
pub(crate) struct CallHeader {
    /// For the answer, with [`Mode::Remote`].
    #[serde(default)]
    pub seq: Option<u64>,
    /// The step that calls.
    pub step: u32,
    /// The number of the call.
    pub call: u32,
    /// How.
    pub mode: Mode,
    /// The app, when it is another.
    #[serde(default)]
    pub app: Option<String>,
    /// The function called.
    #[serde(default)]
    pub function: Option<String>,
    /// The flow called.
    #[serde(default)]
    pub flow: Option<tidemill_flow::Flow>,
    /// Writes made before the call.
    #[serde(default)]
    pub ops: Vec<OpHeader>,
    /// Payloads; the first is the call's.
    #[serde(default)]
    pub p: Vec<PayloadHeader>,
}

/// `wait`.
#[derive(Debug, Deserialize)]
pub(crate) struct Wait {
    /// For the answer.
    pub seq: u64,
    /// The number of the call waited for.
    pub call: u32,
    /// For how long.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Cancel it instead.
    #[serde(default)]
    pub cancel: bool,
}

/// `recall`.
#[derive(Debug, Deserialize)]
pub(crate) struct Recall {
    /// For the answer.
    pub seq: u64,
    /// The step of the fragment.
    pub step: u32,
    /// The name that the function gives what it is about to do.
    pub name: String,
}

/// `record`.
#[derive(Debug, Deserialize)]
pub(crate) struct RecordStep {
    /// For the answer.
    pub seq: u64,
    /// The step of the fragment.
    pub step: u32,
    /// What was done.
    pub name: String,
    /// Its number among those of its name, from the answer to `recall`.
    pub n: u32,
    /// What it gave.
    #[serde(default)]
    pub p: Vec<PayloadHeader>,
}

/// `item`.
#[derive(Debug, Deserialize)]
pub(crate) struct Item {
    /// The payload.
    pub p: Vec<PayloadHeader>,
}

/// `log`.
#[derive(Debug, Deserialize)]
pub(crate) struct Log {
    /// The step that wrote.
    pub step: u32,
    /// `stdout`, `stderr` or `log`.
    pub stream: String,
    /// The level, of `log`.
    #[serde(default)]
    pub level: Option<String>,
    /// The logger, of `log`.
    #[serde(default)]
    pub logger: Option<String>,
    /// The text.
    pub text: String,
}

/// `done`.
#[derive(Debug, Deserialize)]
pub(crate) struct Done {
    /// Writes not sent yet.
    #[serde(default)]
    pub ops: Vec<OpHeader>,
    /// Payload indices of the outputs.
    pub outputs: Vec<usize>,
    /// Payloads.
    #[serde(default)]
    pub p: Vec<PayloadHeader>,
    /// Processor time used.
    #[serde(default)]
    pub cpu_us: u64,
    /// Memory in use.
    #[serde(default)]
    pub rss_bytes: u64,
    /// True when the worker asks to be replaced.
    #[serde(default)]
    pub dirty: bool,
}

/// `failed`.
#[derive(Debug, Deserialize)]
pub(crate) struct Failed {
    /// The step that failed.
    pub step: u32,
    /// How.
    pub error: ErrorHeader,
    /// Payloads.
    #[serde(default)]
    pub p: Vec<PayloadHeader>,
    /// Processor time used.
    #[serde(default)]
    pub cpu_us: u64,
    /// Memory in use.
    #[serde(default)]
    pub rss_bytes: u64,
    /// True when the worker asks to be replaced.
    #[serde(default)]
    pub dirty: bool,
}

/// `begin`.
#[derive(Debug, Deserialize)]
pub(crate) struct Begin {
    /// The step that begins.
    pub step: u32,
}

/// `reply`.
#[derive(Debug, Serialize)]
pub(crate) struct Reply<'a> {
    /// The frame answered.
    pub re: u64,
    /// Results of reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<serde_json::Value>,
    /// Payloads.
    #[serde(skip_serializing_if = "<[PayloadHeader]>::is_empty")]
    pub p: &'a [PayloadHeader],
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorHeader>,
}
