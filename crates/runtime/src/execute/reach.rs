//! What a running function reaches beyond its own state, whatever runs it: other functions,
//! messages, recorded steps.

use super::Execution;
use super::message::{Message, MessageHeader};
use crate::app::{Target, Version};
use crate::once::{Recording, recorded_step};
use crate::request::commit;
use std::sync::Arc;
use tidemill_flow::Flow;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_session::{Outgoing, Request};
use tidemill_store::Durability;

/// The longest name of a recorded step, in bytes.
const STEP_NAME_BYTES_MAX: usize = 255;

/// Whom a function calls: a function by name or a flow, of its own app or of another.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) app: Option<&'a str>,
    pub(super) function: Option<&'a str>,
    pub(super) flow: Option<&'a Flow>,
}

impl Execution {
    /// What a name means to a function of the version `own`.
    pub(super) fn resolve(
        &self,
        own: &Arc<Version>,
        named: Named<'_>,
    ) -> Result<(Arc<Version>, Target), Problem> {
        // The own app's calls stay on the version that began the request.
        let version = match named.app {
            Some(app) if *app != *own.app => self.inner.version(app)?,
            _ => Arc::clone(own),
        };
        let target = match (named.function, named.flow) {
            (Some(name), _) => self.inner.target(&version, name)?,
            (None, Some(flow)) => Target::Flow(version.flowing("inline", flow)?),
            (None, None) => {
                return Err(Problem::new(Code::BadRequest, "a call names no function"));
            }
        };
        Ok((version, target))
    }

    /// A request that begins once this one has committed.
    pub(super) fn message(&self, own: &Version, named: Named<'_>, input: Payload) -> Message {
        Message {
            header: MessageHeader {
                app: named.app.unwrap_or(&own.app).to_owned(),
                function: named.function.map(str::to_owned),
                flow: named.flow.cloned(),
                tenant: self.caller.tenant.clone(),
                subject: self.caller.subject.clone(),
                trace: self.trace.to_string(),
                content_type: input.content_type.as_str().to_owned(),
            },
            input,
        }
    }

    /// What a recorded step gave, if it is recorded.
    pub(super) fn recall_step(&self, id: u128) -> Result<Option<Payload>, Problem> {
        let recorded = self.inner.store.request(id);
        let recorded = recorded.map_err(|error| crate::state::store_problem(&error))?;
        let answer = recorded.and_then(|recorded| recorded.answer);
        self.decode_step(answer.map(|answer| answer.result))
    }

    /// Records what a step gave; durable afterwards. If another run of the request was first,
    /// gives what that one recorded.
    pub(super) async fn record_step(
        &self,
        id: u128,
        value: &Payload,
    ) -> Result<Option<Payload>, Problem> {
        let inner = &self.inner;
        let recording = Recording::plain(self.now_us(), inner.options.retention);
        // On a snapshot of its own: the request's may be older than is kept.
        let session = Request::begin(id, Arc::clone(&inner.store));
        let outgoing = Outgoing {
            record: Some(recording.record(recorded_step::encode(value))),
            ..Outgoing::default()
        };
        let committed = commit(&session, &[], Durability::Durable, outgoing).await?;
        self.note_recorded_step();
        let before = committed.repeated.and_then(|before| before.answer);
        self.decode_step(before.map(|answer| answer.result))
    }

    fn decode_step(&self, value: Option<bytes::Bytes>) -> Result<Option<Payload>, Problem> {
        let Some(value) = value else { return Ok(None) };
        self.note_recorded_step();
        let value = recorded_step::decode(value);
        value
            .map(Some)
            .ok_or_else(|| Problem::new(Code::Internal, "a step's record can not be read"))
    }

    /// Whether what a step gave can be recorded.
    pub(super) fn check_step_value(&self, name: &str, value: &Payload) -> Result<(), Problem> {
        let (bytes, limit) = (value.body.len(), self.inner.options.limits.payload_bytes);
        if bytes <= limit {
            return Ok(());
        }
        Err(Problem::new(
            Code::PayloadTooLarge,
            format!(
                "step {name:?} gave {bytes} bytes, more than {limit}, so it is not recorded; have \
                 it give less"
            ),
        ))
    }
}

/// Whether a recorded step may be called so.
pub(super) fn check_step_name(name: &str) -> Result<(), Problem> {
    if (1..=STEP_NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(Problem::new(
        Code::BadRequest,
        format!("a step's name has 1 to {STEP_NAME_BYTES_MAX} bytes"),
    ))
}
