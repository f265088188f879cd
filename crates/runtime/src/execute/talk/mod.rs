//! The conversation with the worker that runs a fragment: its frames are served until
//! it is done.

mod calls;
mod frames;
mod recorded;
mod steps;

use crate::execute::children::{Children, Finished};
use crate::execute::handoff::{Ending, Handoff};
use crate::execute::trouble::{Trouble, died, nonsense};
use crate::execute::{Execution, Items};
use crate::protocol::{self, Frame, Payloads, ProtocolError, Run, Shared, kind};
use crate::worker::{ConnectionError, Lease};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_flow::StepId;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_session::{Buffer, View};
use tidemill_telemetry::SpanId;
use tokio::time::Instant;

/// After so many frames others have their turn: those who watch for the caller to go or to
/// cancel are polled by the same task.
const FRAMES_IN_A_ROW: u32 = 32;

enum Event {
    Frame(Result<Frame, ConnectionError>),
    Child(Finished),
    Clock,
}

/// The conversation with the worker.
pub(super) struct Talk<'a> {
    handoff: &'a Handoff<'a>,
    execution: &'a Arc<Execution>,
    lease: Option<Lease>,
    /// Buffers of steps that have ended, here and in fragments before.
    ended: BTreeMap<StepId, Arc<Buffer>>,
    /// Views of this fragment's steps that have begun.
    views: BTreeMap<StepId, View>,
    children: Children,
    messages: Vec<bytes::Bytes>,
    collected: Vec<Payload>,
    collected_bytes: usize,
    pub(super) streamed: bool,
    /// How many calls each step has made so far.
    calls_made: BTreeMap<StepId, u32>,
    /// How many recorded steps of each name have begun.
    steps_begun: BTreeMap<(StepId, String), u32>,
    /// A write that did not fit. It fails the request however the function ends.
    poison: Option<Problem>,
    /// The place in the fragment of the step that runs.
    current: usize,
    step_span: SpanId,
    step_start_us: u64,
    handoff_span: SpanId,
    handoff_start_us: u64,
    deadline: Instant,
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.abandon(self.execution.id_text());
        }
    }
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        handoff: &'a Handoff<'a>,
        lease: Lease,
        buffers: &BTreeMap<StepId, Arc<Buffer>>,
        start_us: u64,
    ) -> Self {
        let execution = handoff.execution;
        let mut talk = Self {
            handoff,
            execution,
            lease: Some(lease),
            ended: buffers.clone(),
            views: BTreeMap::new(),
            children: Children::default(),
            messages: Vec::new(),
            collected: Vec::new(),
            collected_bytes: 0,
            streamed: false,
            calls_made: BTreeMap::new(),
            steps_begun: BTreeMap::new(),
            poison: None,
            current: 0,
            step_span: execution.span_id(),
            step_start_us: execution.now_us(),
            handoff_span: execution.span_id(),
            handoff_start_us: start_us,
            deadline: Instant::now(),
        };
        talk.set_deadline();
        talk
    }

    fn shared(&self) -> &'a dyn Shared {
        &*self.execution.inner.shared
    }

    async fn send<H: serde::Serialize>(
        &mut self,
        kind: u8,
        header: &H,
        payloads: &Payloads,
    ) -> Result<(), Trouble> {
        let Some(lease) = &mut self.lease else {
            return Ok(());
        };
        // A worker that does not read holds up nobody beyond its function's time.
        let sending = lease.connection().send(kind, header, payloads);
        match tokio::time::timeout_at(self.deadline, sending).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(self.late(Instant::now())),
        }
    }

    fn late(&self, now: Instant) -> Trouble {
        let name = &self.function().name;
        let whole = self.execution.deadline.is_some_and(|whole| now >= whole);
        let detail = if whole {
            format!("{name} was still running when the caller's time was over")
        } else {
            format!(
                "{name} ran longer than its timeout of {} ms; give it more with timeout=",
                self.function().spec.timeout_ms
            )
        };
        Trouble::Stopped(Problem::new(Code::TimedOut, detail))
    }

    pub(super) async fn send_run(
        &mut self,
        input: &Payload,
        values: &BTreeMap<StepId, Payload>,
    ) -> Result<(), Trouble> {
        let handoff = self.handoff;
        let mut payloads = Payloads::default();
        let call = handoff
            .fragment
            .takes_call
            .then(|| payloads.push(input, self.shared()));
        let mut places = BTreeMap::new();
        for id in &handoff.fragment.inputs {
            let value = values
                .get(id)
                .ok_or_else(|| nonsense("an input that has not run"))?;
            places.insert(*id, payloads.push(value, self.shared()));
        }
        let mut steps = Vec::with_capacity(handoff.fragment.steps.len());
        for (id, function) in handoff.fragment.steps.iter().zip(handoff.functions) {
            let step = handoff
                .plan
                .step(*id)
                .ok_or_else(|| nonsense("a step not in the plan"))?;
            let takes_call = step.takes_call();
            let inputs = step.sources().map(|source| match places.get(&source) {
                Some(place) => protocol::Input::Payload(*place),
                None => protocol::Input::Step(source),
            });
            steps.push(protocol::Step {
                id: *id,
                function: &function.name,
                inputs: (!takes_call).then(|| inputs.collect()),
                call: if takes_call { call } else { None },
                timeout_ms: function.spec.timeout_ms,
            });
        }
        let trace = tidemill_telemetry::TraceContext {
            span: self.handoff_span,
            ..self.execution.trace
        };
        let left = self.execution.deadline.map_or(u64::MAX, |deadline| {
            u64::try_from(
                deadline
                    .saturating_duration_since(Instant::now())
                    .as_millis(),
            )
            .unwrap_or(u64::MAX)
        });
        let header = Run {
            request: self.execution.id_text(),
            attempt: handoff.attempt,
            app: &handoff.version.app,
            level: self.execution.promise().level,
            trace: &trace.to_string(),
            caller: &self.execution.caller,
            deadline_ms: left.min(handoff.fragment.timeout_ms),
            key: self.execution.key.as_deref(),
            steps,
            outputs: &handoff.fragment.outputs,
            p: payloads.headers(),
        };
        self.send(kind::RUN, &header, &payloads).await
    }

    /// Serves the worker until the fragment has ended, and its children with it.
    pub(super) async fn listen(&mut self) -> Result<Ending, Trouble> {
        let mut frames = 0_u32;
        let done = loop {
            match self.next().await {
                Event::Frame(frame) => {
                    frames = frames.wrapping_add(1);
                    if frames.is_multiple_of(FRAMES_IN_A_ROW) {
                        tokio::task::yield_now().await;
                    }
                    if let Some(done) = self.serve(frame?).await? {
                        break done;
                    }
                }
                Event::Child(child) => self.child_ended(child).await?,
                Event::Clock => self.clock().await?,
            }
        };
        self.join_children().await?;
        if let Some(problem) = self.poison.take() {
            return Err(Trouble::Failed(problem));
        }
        for id in &self.handoff.fragment.steps {
            self.end_step(*id);
        }
        let outputs = match self.handoff.items {
            _ if self.is_generator() => std::mem::take(&mut self.collected),
            Items::Collect | Items::Stream(_) => done,
        };
        let buffers = self.handoff.fragment.steps.iter();
        let buffers = buffers.filter_map(|id| Some((*id, Arc::clone(self.ended.get(id)?))));
        Ok(Ending {
            ended_us: None,
            outputs,
            buffers: buffers.collect(),
            messages: std::mem::take(&mut self.messages),
        })
    }

    fn is_generator(&self) -> bool {
        self.function().spec.kind == crate::manifest::FunctionKind::Generator
    }

    async fn next(&mut self) -> Event {
        let wake = self
            .children
            .next_timeout()
            .map_or(self.deadline, |at| at.min(self.deadline));
        // A worker that never pauses is stopped in time, too.
        if Instant::now() >= wake {
            return Event::Clock;
        }
        let frame = async {
            match &mut self.lease {
                Some(lease) => lease.connection().receive().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            frame = frame => Event::Frame(frame),
            child = self.children.next() => Event::Child(child),
            () = tokio::time::sleep_until(wake) => Event::Clock,
        }
    }

    async fn clock(&mut self) -> Result<(), Trouble> {
        let now = Instant::now();
        if now >= self.deadline {
            return Err(self.late(now));
        }
        for seq in self.children.timed_out(now) {
            let problem = Problem::new(Code::TimedOut, "the call has not ended yet; it goes on");
            self.reply_error(seq, &problem).await?;
        }
        self.show_blocked();
        Ok(())
    }

    async fn serve(&mut self, frame: Frame) -> Result<Option<Vec<Payload>>, Trouble> {
        match frame.kind {
            kind::STATE => self.on_state(&frame).await?,
            kind::CALL => self.on_call(&frame).await?,
            kind::WAIT => self.on_wait(&frame).await?,
            kind::ITEM => self.on_item(&frame).await?,
            kind::LOG => self.on_log(&frame.header()?),
            kind::BEGIN => self.on_begin(&frame.header()?).await?,
            kind::RECALL => self.on_recall(&frame).await?,
            kind::RECORD => self.on_record(&frame).await?,
            kind::DONE => return self.on_done(&frame).await.map(Some),
            kind::FAILED => return Err(self.on_failed(&frame)?),
            other => return Err(ProtocolError::Unexpected(other).into()),
        }
        Ok(None)
    }

    /// What to tell the caller, and what becomes of the worker.
    pub(super) async fn explain(&mut self, trouble: Trouble) -> Problem {
        let error = match trouble {
            Trouble::Failed(problem) => return problem,
            Trouble::Stopped(problem) => {
                if let Some(lease) = self.lease.take() {
                    lease.abandon(self.execution.id_text());
                }
                return problem;
            }
            Trouble::Connection(error) => error,
        };
        let name = &self.function().name;
        let Some(lease) = self.lease.take() else {
            return Problem::new(Code::WorkerCrashed, format!("{name}: {error}"));
        };
        match error {
            ConnectionError::Protocol(ProtocolError::TooLong(size)) => {
                lease.kill();
                Problem::new(
                    Code::PayloadTooLarge,
                    format!("{name}: a frame of {size} bytes is too large; pass less at once"),
                )
            }
            ConnectionError::Protocol(error) => {
                lease.kill();
                Problem::new(
                    Code::WorkerCrashed,
                    format!("the worker that ran {name} broke the protocol: {error}"),
                )
            }
            ConnectionError::Closed | ConnectionError::Socket(_) => {
                died(name, self.function().spec.memory_bytes, &lease.bury().await)
            }
        }
    }
}
