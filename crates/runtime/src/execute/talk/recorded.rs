//! Steps that a function records: what one gave is durable before the function goes on, so that
//! the request does not do it again when it is run again.

use super::Talk;
use crate::execute::reach::check_step_name;
use crate::execute::trouble::{Trouble, nonsense};
use crate::once::step_record_id;
use crate::protocol::{Frame, Payloads, Recall, RecordStep, Reply, kind};
use serde_json::json;
use tidemill_flow::StepId;
use tidemill_lattice::Payload;
use tokio::time::Instant;

impl<'a> Talk<'a> {
    /// Answers what a step gave before, if it is recorded, and its number among its name's.
    pub(super) async fn on_recall(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: Recall = frame.header()?;
        self.check_running(header.step)?;
        if let Err(problem) = check_step_name(&header.name) {
            return self.reply_error(header.seq, &problem).await;
        }
        let begun = self.steps_begun.entry((header.step, header.name.clone()));
        let begun = begun.or_default();
        let nth = *begun;
        *begun += 1;
        let id = self.step_record(header.step, &header.name, nth);
        match self.execution.recall_step(id) {
            Ok(value) => self.reply_step(header.seq, nth, value.as_ref()).await,
            Err(problem) => self.reply_error(header.seq, &problem).await,
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
        if let Err(problem) = self.execution.check_step_value(&header.name, &value) {
            return self.reply_error(header.seq, &problem).await;
        }
        let id = self.step_record(header.step, &header.name, header.n);
        let keeping = self.execution.record_step(id, &value);
        let kept = match tokio::time::timeout_at(self.deadline, keeping).await {
            Ok(kept) => kept,
            Err(_) => return Err(self.late(Instant::now())),
        };
        match kept {
            Ok(before) => self.reply_step(header.seq, header.n, before.as_ref()).await,
            Err(problem) => self.reply_error(header.seq, &problem).await,
        }
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
