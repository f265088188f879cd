//! Calls that the running function makes.

use super::Talk;
use crate::execute::children::{Finished, Run as ChildRun};
use crate::execute::reach::Named;
use crate::execute::trouble::{Trouble, nonsense};
use crate::execute::{Effects, Items, Outcome, Place};
use crate::protocol::{self, CallHeader, Frame, Payloads, Reply, Wait, kind};
use std::time::Duration;
use tidemill_flow::StepId;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tokio::time::Instant;

impl<'a> Talk<'a> {
    pub(super) async fn on_call(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: CallHeader = frame.header()?;
        let given = frame.payloads(&header.p, self.shared())?;
        self.apply(&header.ops, &given).await?;
        let input = given.into_iter().next().unwrap_or_else(Payload::null);
        if header.mode == protocol::Mode::Enqueue {
            self.enqueue(&header, input);
            return Ok(());
        }
        let max = self.execution.inner.options.limits.calls_pending;
        let child = if self.children.count() >= max {
            Err(Problem::new(
                Code::Overloaded,
                format!("{max} calls are pending already; wait for some of them first"),
            ))
        } else {
            self.start_child(&header, input)?
        };
        self.children.add(header.call, header.step, child);
        if header.mode == protocol::Mode::Remote {
            let seq = header
                .seq
                .ok_or_else(|| nonsense("a remote call without seq"))?;
            self.children.wait(header.call, seq, None);
            self.show_blocked();
        }
        Ok(())
    }

    /// The child's run, or why it cannot run.
    pub(super) fn start_child(
        &mut self,
        header: &CallHeader,
        input: Payload,
    ) -> Result<Result<ChildRun, Problem>, Trouble> {
        let named = Named {
            app: header.app.as_deref(),
            function: header.function.as_deref(),
            flow: header.flow.as_ref(),
        };
        let resolved = self.execution.resolve(self.handoff.version, named);
        let span = self.step_span;
        let depth = self.handoff.place.depth + 1;
        let path = self.child_path(header.step);
        let view = self.view(header.step)?;
        let place = Place {
            below: view.layers(),
            tag: view.tag() + 1,
            begun_us: None,
            depth,
            span,
            path,
        };
        Ok(resolved.map(|(version, target)| {
            self.execution
                .run(&version, &target, input, place, Items::Collect)
        }))
    }

    pub(super) fn enqueue(&mut self, header: &CallHeader, input: Payload) {
        let named = Named {
            app: header.app.as_deref(),
            function: header.function.as_deref(),
            flow: header.flow.as_ref(),
        };
        let message = self.execution.message(self.handoff.version, named, input);
        self.messages.push(message.encode());
    }

    pub(super) async fn on_wait(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: Wait = frame.header()?;
        if header.cancel {
            self.children.cancel(header.call);
            let reply = Reply {
                re: header.seq,
                r: None,
                p: &[],
                error: None,
            };
            return self.send(kind::REPLY, &reply, &Payloads::default()).await;
        }
        if !self.children.knows(header.call) {
            return Err(nonsense(format!("no call {}", header.call)));
        }
        let until = header
            .timeout_ms
            .map(|ms| Instant::now() + Duration::from_millis(ms));
        self.children.wait(header.call, header.seq, until);
        if let Some(finished) = self.children.take_finished(header.call) {
            return self.child_ended(finished).await;
        }
        self.show_blocked();
        Ok(())
    }

    /// A child has ended: its caller takes its writes over when it takes the result.
    pub(super) async fn child_ended(&mut self, child: Finished) -> Result<(), Trouble> {
        let Some(seq) = self.children.waiter(child.call) else {
            self.children.keep(child);
            return Ok(());
        };
        self.show_blocked();
        match child.result {
            Ok(outcome) => {
                let outputs = self.take_over(child.step, outcome)?;
                let mut payloads = Payloads::default();
                for output in &outputs {
                    payloads.push(output, self.shared());
                }
                let header = Reply {
                    re: seq,
                    r: None,
                    p: payloads.headers(),
                    error: None,
                };
                self.send(kind::REPLY, &header, &payloads).await
            }
            Err(problem) => self.reply_error(seq, &problem).await,
        }
    }

    pub(super) fn take_over(
        &mut self,
        step: StepId,
        outcome: Outcome,
    ) -> Result<Vec<Payload>, Trouble> {
        let Effects { buffers, messages } = outcome.effects;
        self.messages.extend(messages);
        if buffers.iter().any(|buffer| !buffer.is_empty()) {
            self.view(step)?.join(&buffers);
        }
        Ok(outcome.outputs)
    }

    /// Waits for the children that nobody waited for. One that fails fails the request.
    pub(super) async fn join_children(&mut self) -> Result<(), Trouble> {
        loop {
            while let Some(finished) = self.children.take_any_finished() {
                match finished.result {
                    Ok(outcome) => {
                        self.take_over(finished.step, outcome)?;
                    }
                    Err(problem) if problem.code == Code::Cancelled => {}
                    Err(problem) => return Err(Trouble::Stopped(problem)),
                }
            }
            if self.children.count() == 0 {
                return Ok(());
            }
            let deadline = self.deadline;
            tokio::select! {
                child = self.children.next() => self.children.keep(child),
                () = tokio::time::sleep_until(deadline) => self.clock().await?,
            }
        }
    }

    /// Others may have the worker's place while it waits.
    pub(super) fn show_blocked(&mut self) {
        let waits = self.children.is_waited_for();
        if let Some(blocked) = self.children.blocked_changed(waits)
            && let Some(lease) = &self.lease
        {
            lease.set_blocked(blocked);
        }
    }
}
