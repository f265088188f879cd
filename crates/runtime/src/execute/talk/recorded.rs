//! Steps that a function records: what one gave is durable before the function goes on, so that
//! the request does not do it again when it is run again.

use super::Talk;
use crate::execute::trouble::{Trouble, nonsense};
use crate::once::{Recording, recorded_step, step_record_id};
use crate::protocol::{Frame, Payloads, Recall, RecordStep, Reply, kind};
use crate::request::commit;
use serde_json::json;
use std::sync::Arc;
use tidemill_flow::StepId;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_session::{Outgoing, Request};
use tidemill_store::Durability;
use tokio::time::Instant;

/// The longest name of a step, in bytes.
const NAME_BYTES_MAX: usize = 255;

impl<'a> Talk<'a> {
    /// Answers what a step gave before, if it is recorded, and its number among its name's.
    pub(super) async fn on_recall(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: Recall = frame.header()?;
        self.check_running(header.step)?;
        if header.name.is_empty() || header.name.len() > NAME_BYTES_MAX {
            let detail = format!("a step's name has 1 to {NAME_BYTES_MAX} bytes");
            let problem = Problem::new(Code::BadRequest, detail);
            return self.reply_error(header.seq, &problem).await;
        }
        let begun = self.steps_begun.entry((header.step, header.name.clone()));
        let begun = begun.or_default();
        let nth = *begun;
        *begun += 1;
        let id = self.step_record(header.step, &header.name, nth);
        match self.execution.inner.store.request(id) {
            Ok(None) => self.reply_step(header.seq, nth, None).await,
            Ok(Some(recorded)) => {
                let value = recorded.answer.map(|answer| answer.result);
                self.reply_recorded(header.seq, nth, value).await
            }
            Err(error) => {
                let problem = crate::state::store_problem(&error);
                self.reply_error(header.seq, &problem).await
            }
        }
    }

    /// Records what a step gave, and answers once that is durable.
    pub(super) async fn on_record(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: RecordStep = frame.header()?;
        let given = frame.payloads(&header.p, self.shared())?;
        self.check_running(header.step)?;
        let begun = self.steps_begun.get(&(header.step, header.name.clone()));
        if begun.is_none_or(|begun| header.n >= *begun) {
            return Err(nonsense(format!(
                "step {:?} was not recalled before it was recorded",
                header.name
            )));
        }
        let value = given.into_iter().next().unwrap_or_else(Payload::null);
        let limit = self.execution.inner.options.limits.payload_bytes;
        if value.body.len() > limit {
            let problem = Problem::new(
                Code::PayloadTooLarge,
                format!(
                    "step {:?} gave {} bytes, more than {limit}, so it is not recorded; have it \
                     give less",
                    header.name,
                    value.body.len()
                ),
            );
            return self.reply_error(header.seq, &problem).await;
        }
        let id = self.step_record(header.step, &header.name, header.n);
        match self.keep(id, &value).await? {
            Ok(before) => self.reply_recorded(header.seq, header.n, before).await,
            Err(problem) => self.reply_error(header.seq, &problem).await,
        }
    }

    /// Commits the record. If another run of the request was first, what that one recorded.
    async fn keep(
        &mut self,
        id: u128,
        value: &Payload,
    ) -> Result<Result<Option<bytes::Bytes>, Problem>, Trouble> {
        let inner = &self.execution.inner;
        let recording = Recording::plain(self.execution.now_us(), inner.options.retention);
        // On a snapshot of its own: the request's may be older than is kept.
        let session = Request::begin(id, Arc::clone(&inner.store));
        let outgoing = Outgoing {
            record: Some(recording.record(recorded_step::encode(value))),
            ..Outgoing::default()
        };
        let committing = commit(&session, &[], Durability::Durable, outgoing);
        let committed = match tokio::time::timeout_at(self.deadline, committing).await {
            Ok(committed) => committed,
            Err(_) => return Err(self.late(Instant::now())),
        };
        Ok(committed.map(|committed| {
            self.execution.note_recorded_step();
            let before = committed.repeated.and_then(|before| before.answer);
            before.map(|answer| answer.result)
        }))
    }

    fn step_record(&self, step: StepId, name: &str, nth: u32) -> u128 {
        let path = self.handoff.place.path;
        step_record_id(self.execution.id, path, step, name, nth)
    }

    fn check_running(&self, step: StepId) -> Result<(), Trouble> {
        if self.handoff.fragment.steps.contains(&step) {
            return Ok(());
        }
        Err(nonsense(format!("step {step} is not running")))
    }

    async fn reply_recorded(
        &mut self,
        seq: u64,
        nth: u32,
        value: Option<bytes::Bytes>,
    ) -> Result<(), Trouble> {
        let Some(value) = value else {
            return self.reply_step(seq, nth, None).await;
        };
        self.execution.note_recorded_step();
        match recorded_step::decode(value) {
            Some(value) => self.reply_step(seq, nth, Some(&value)).await,
            None => {
                let problem = Problem::new(Code::Internal, "a step's record can not be read");
                self.reply_error(seq, &problem).await
            }
        }
    }

    async fn reply_step(
        &mut self,
        seq: u64,
        nth: u32,
        value: Option<&Payload>,
    ) -> Result<(), Trouble> {
        let mut payloads = Payloads::default();
        if let Some(value) = value {
            payloads.push(value, self.shared());
        }
        let header = Reply {
            re: seq,
            r: Some(json!({ "n": nth })),
            p: payloads.headers(),
            error: None,
        };
        self.send(kind::REPLY, &header, &payloads).await
    }
}
