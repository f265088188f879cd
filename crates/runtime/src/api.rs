//! The types that cross the runtime's door: calls and their answers, requests,
//! apps. Doors (HTTP, command line) build on these and on nothing deeper.

use crate::{Level, SessionSeen};
use bytes::Bytes;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tidemill_lattice::Payload;
use tidemill_problem::Problem;
use tidemill_store::Durability;
use tidemill_telemetry::{Meter, TraceContext};
use tokio::sync::mpsc;

/// The identity of a request: 128 bits, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.0.to_be_bytes(), &mut digits).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 {
            return Err(());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| ())
    }
}

/// Who calls: carried to the function as `request.caller`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The tenant whose apps and state the call may reach.
    pub tenant: String,
    /// The principal, as the door knows it.
    pub subject: String,
}

/// One call from outside.
#[derive(Clone, Debug)]
pub struct Call {
    /// The app's name.
    pub app: String,
    /// A function, a method (`Class.method`) or a flow.
    pub function: String,
    /// The arguments (docs/http.md, "Calls").
    pub input: Payload,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// The trace to join; a new one begins without it.
    pub trace: Option<TraceContext>,
    /// Who calls.
    pub caller: Caller,
    /// How long the caller waits at the most.
    pub timeout: Option<Duration>,
    /// What the caller asks of state.
    pub asked: Asked,
}

/// What a caller asks of the state that it reaches.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The level; else the function's, else the app's.
    pub level: Option<Level>,
    /// How safe writes must be; else as the function, the app, the node say.
    pub durability: Option<Durability>,
    /// The token of what its session has seen.
    pub session: Option<String>,
}

/// The answer to a call.
#[derive(Debug)]
pub struct Answer {
    /// The request that ran.
    pub request: RequestId,
    /// Its trace.
    pub trace: TraceContext,
    /// It is the answer of an earlier call with the same key, which took effect then.
    pub is_repeated: bool,
    /// What its session has seen by now; a stream's is of its beginning.
    pub session: Option<SessionSeen>,
    /// What came of it.
    pub result: Result<Output, Problem>,
}

/// What a call that did not fail at once gives.
#[derive(Debug)]
pub enum Output {
    /// A value; its writes are committed.
    Value(Payload),
    /// A generator's items, as they come. Dropping the receiver cancels the request.
    Stream(mpsc::Receiver<StreamEvent>),
}

/// One event of a streamed answer. The last one is never an item.
#[derive(Debug)]
pub enum StreamEvent {
    /// The generator yielded; its writes are not committed yet.
    Item(Payload),
    /// The generator ended and its writes are committed.
    Committed {
        /// The token of what the session has seen by now.
        session: Option<String>,
    },
    /// The request failed; none of its writes is kept.
    Failed(Problem),
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestState {
    /// Admitted; waiting or running.
    Running,
    /// Committed and answered.
    Succeeded,
    /// Ended with a problem.
    Failed,
    /// Cancelled by its caller.
    Cancelled,
}

/// A request as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct RequestSummary {
    /// Its identity.
    pub id: String,
    /// The app called.
    pub app: String,
    /// The function or flow called.
    pub function: String,
    /// Where it stands.
    pub state: RequestState,
    /// The code of its problem, where it failed.
    pub code: Option<&'static str>,
    /// When it was admitted, in Unix milliseconds.
    pub created_ms: u64,
    /// How long it took, or has taken so far.
    pub duration_ms: f64,
    /// Its trace.
    pub trace: String,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// What it used, once it has ended.
    pub meter: Option<Meter>,
}

/// The result of a request that was not waited for.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// It has not ended.
    Running(Box<RequestSummary>),
    /// It ended with this.
    Ended(Result<Payload, Problem>),
    /// It has ended, and how is not kept.
    Forgotten,
}

/// What a deploy did.
#[derive(Clone, Debug, Serialize)]
pub struct Deployed {
    /// The app.
    pub app: String,
    /// The version now serving: a content hash.
    pub version: String,
    /// False when this very version was serving already.
    pub changed: bool,
    /// Functions, sorted.
    pub functions: Vec<String>,
    /// Flows, sorted.
    pub flows: Vec<String>,
}

/// An app as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct AppSummary {
    /// Its name.
    pub app: String,
    /// The version serving.
    pub version: String,
    /// When that version was deployed, in Unix milliseconds.
    pub deployed_ms: u64,
    /// Its functions.
    pub functions: Vec<FunctionSummary>,
    /// Its flows.
    pub flows: Vec<FlowSummary>,
    /// Worker processes alive.
    pub workers: usize,
    /// Instances of its components, at work and resting.
    pub instances: usize,
}

/// A function as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionSummary {
    /// The manifest's entry.
    #[serde(flatten)]
    pub spec: crate::manifest::FunctionSpec,
    /// Calls of this function since the node started.
    pub calls: u64,
    /// Its mean run time where it has run.
    pub mean_us: Option<u64>,
}

/// A flow as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct FlowSummary {
    /// Its name.
    pub name: String,
    /// The flow itself.
    pub flow: tidemill_flow::Flow,
    /// How the optimiser would run it now.
    pub plan: String,
}

/// The bytes of a deploy: a zip archive with `tidemill.json` at its root.
pub type Archive = Bytes;

/// Bytes that are not JSON, as JSON.
pub(crate) fn bytes_as_json(payload: &Payload) -> serde_json::Value {
    use base64::Engine;
    serde_json::json!({
        "content_type": payload.content_type.as_str(),
        "base64": base64::engine::general_purpose::STANDARD.encode(&payload.body),
    })
}

/// Whether a reader would take this JSON for what [`bytes_as_json`] writes. Such a value goes
/// in that form itself.
pub(crate) fn looks_like_bytes(json: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the shape counts")]
    struct Encoded {
        content_type: String,
        base64: String,
    }
    serde_json::from_slice::<Encoded>(json).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_the_form_of_bytes_is_told() {
        let payload = Payload::bytes(vec![1]);
        let text = bytes_as_json(&payload).to_string();
        assert!(looks_like_bytes(text.as_bytes()));
        for other in [
            r#"{"content_type":"x"}"#,
            r#"{"content_type":"x","base64":1}"#,
            r#"{"content_type":"x","base64":"","more":1}"#,
            "[]",
            "{",
        ] {
            assert!(!looks_like_bytes(other.as_bytes()), "{other}");
        }
    }
}
