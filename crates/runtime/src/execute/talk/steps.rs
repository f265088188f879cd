//! The steps of a fragment: what each sees, how long it may take, what it used.

use super::Talk;
use crate::app::Function;
use crate::execute::handoff::ancestors;
use crate::execute::trouble::{Trouble, nonsense};
use crate::once::child_path;
use crate::protocol::Begin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemill_flow::StepId;
use tidemill_problem::Code;
use tidemill_session::View;
use tidemill_telemetry::SpanKind;
use tokio::time::Instant;

impl<'a> Talk<'a> {
    pub(super) fn function(&self) -> &'a Arc<Function> {
        &self.handoff.functions[self.current.min(self.handoff.functions.len() - 1)]
    }

    pub(super) fn set_deadline(&mut self) {
        let own = Instant::now() + Duration::from_millis(self.function().spec.timeout_ms);
        self.deadline = self.execution.deadline.map_or(own, |whole| whole.min(own));
    }

    /// The view of a step, begun if need be.
    pub(super) fn view(&mut self, step: StepId) -> Result<&mut View, Trouble> {
        if !self.views.contains_key(&step) {
            let here = self.handoff.fragment.steps.contains(&step);
            if !here || self.ended.contains_key(&step) {
                return Err(nonsense(format!("step {step} is not running")));
            }
            for ancestor in ancestors(self.handoff.plan, step) {
                self.end_step(ancestor);
            }
            let view = self.handoff.view(step, &self.ended);
            self.views.insert(step, view);
        }
        self.views
            .get_mut(&step)
            .ok_or_else(|| nonsense("a step that has just begun"))
    }

    /// The path of the next call that a step makes: it has made this one, that one before, in
    /// every attempt, however its plan was cut into fragments.
    pub(super) fn child_path(&mut self, step: StepId) -> u128 {
        let made = self.calls_made.entry(step).or_default();
        let path = child_path(self.handoff.place.path, step, *made);
        *made += 1;
        path
    }

    pub(super) fn end_step(&mut self, step: StepId) {
        if let Some(view) = self.views.remove(&step) {
            self.ended.insert(step, view.finish());
        }
    }

    pub(super) async fn on_begin(&mut self, begin: &Begin) -> Result<(), Trouble> {
        let steps = &self.handoff.fragment.steps;
        let place = steps.iter().position(|step| *step == begin.step);
        let place = place.filter(|place| *place == self.current + 1);
        let Some(place) = place else {
            return Err(nonsense(format!("step {} begins out of turn", begin.step)));
        };
        // The next step sees what the children of this one wrote, waited for or not.
        self.join_children().await?;
        self.close_step(None);
        self.current = place;
        self.step_span = self.execution.span_id();
        self.step_start_us = self.execution.now_us();
        self.set_deadline();
        Ok(())
    }

    pub(super) fn close_step(&mut self, error: Option<Code>) {
        let function = self.function();
        let now_us = self.execution.now_us();
        if error.is_none() {
            self.handoff
                .version
                .observe(function, now_us.saturating_sub(self.step_start_us));
        }
        self.execution.span(
            SpanKind::Step,
            &function.name,
            self.step_span,
            Some(self.handoff_span),
            self.step_start_us,
            error,
        );
    }

    pub(in crate::execute) fn close_spans(&mut self, error: Option<Code>) {
        self.close_step(error);
        self.execution.span(
            SpanKind::Handoff,
            &self.execution.inner.names.handoff,
            self.handoff_span,
            Some(self.handoff.place.span),
            self.handoff_start_us,
            error,
        );
    }

    pub(super) fn meter(&self, cpu_us: u64, rss_bytes: u64) {
        let used = &self.execution.used;
        let ran_us = self.execution.now_us().saturating_sub(self.step_start_us);
        used.cpu_us.fetch_add(cpu_us, Ordering::Relaxed);
        let byte_ms = rss_bytes.saturating_mul(ran_us) / 1000;
        used.memory_byte_ms.fetch_add(byte_ms, Ordering::Relaxed);
    }
}
