//! One hand-off: a fragment runs in a worker, which reads state and calls others
//! through here until it is done.

use super::children::{Children, Finished};
use super::{Effects, Execution, Items, Outcome, Place};
use crate::StreamEvent;
use crate::app::{Function, Version};
use crate::protocol::{
    self, Begin, CallHeader, Done, ErrorHeader, Failed, Frame, Item, Log, OpHeader, Payloads,
    ProtocolError, Reply, Run, Shared, State, Wait, kind,
};
use crate::state::{self, Reader};
use crate::worker::{ConnectionError, Death, Lease, NoWorker};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemill_flow::{Fragment, Input, Plan, StepId};
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Exception, Problem};
use tidemill_scheduler::RefuseReason;
use tidemill_session::{Buffer, View};
use tidemill_telemetry::{LogLine, SpanId, SpanKind, Stream};
use tokio::time::Instant;

/// What a hand-off is about.
pub(super) struct Handoff<'a> {
    pub(super) execution: &'a Arc<Execution>,
    pub(super) version: &'a Arc<Version>,
    pub(super) plan: &'a Plan,
    pub(super) fragment: &'a Fragment,
    /// The functions of the fragment's steps, in their order.
    pub(super) functions: &'a [Arc<Function>],
    pub(super) place: &'a Place,
    pub(super) items: &'a Items,
    pub(super) attempt: u32,
}

/// A hand-off that ended well.
pub(super) struct Ending {
    /// The fragment's outputs; of a generator its items.
    pub(super) outputs: Vec<Payload>,
    pub(super) buffers: Vec<(StepId, Arc<Buffer>)>,
    pub(super) messages: Vec<bytes::Bytes>,
}

/// A hand-off that did not.
pub(super) struct Failure {
    pub(super) problem: Problem,
    /// What may be done about it.
    pub(super) again: Again,
}

/// Whether a run that failed may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// No: it was stopped, or items have left already.
    Never,
    /// As often as its functions' retries say.
    AsRetries,
    /// As often as the node repeats runs whose own worker died.
    AsCrash,
}

impl Handoff<'_> {
    /// Runs the fragment once.
    pub(super) async fn run(
        &self,
        input: &Payload,
        values: &BTreeMap<StepId, Payload>,
        buffers: &BTreeMap<StepId, Arc<Buffer>>,
    ) -> Result<Ending, Failure> {
        let start_us = self.execution.now_us();
        let lease = match self.acquire().await {
            Ok(lease) => lease,
            Err(problem) => {
                return Err(Failure {
                    problem,
                    again: Again::Never,
                });
            }
        };
        let mut talk = Talk::new(self, lease, buffers, start_us);
        let result = match talk.send_run(input, values).await {
            Ok(()) => talk.listen().await,
            Err(trouble) => Err(trouble),
        };
        match result {
            Ok(ending) => {
                talk.close_spans(None);
                Ok(ending)
            }
            Err(trouble) => {
                let again = match trouble {
                    _ if talk.streamed => Again::Never,
                    Trouble::Failed(_) => Again::AsRetries,
                    Trouble::Connection(ConnectionError::Protocol(_)) | Trouble::Stopped(_) => {
                        Again::Never
                    }
                    Trouble::Connection(ConnectionError::Closed | ConnectionError::Socket(_)) => {
                        Again::AsCrash
                    }
                };
                let problem = talk.explain(trouble).await;
                talk.close_spans(Some(problem.code));
                Err(Failure { problem, again })
            }
        }
    }

    async fn acquire(&self) -> Result<Lease, Problem> {
        let group = self.version.group(self.fragment.group).ok_or_else(|| {
            Problem::new(
                Code::Internal,
                "a plan names a group that is not there; please report this",
            )
        })?;
        let acquire = group.acquire();
        let acquired = match self.execution.deadline {
            None => acquire.await,
            Some(deadline) => tokio::time::timeout_at(deadline, acquire)
                .await
                .map_err(|_| {
                    Problem::new(
                        Code::TimedOut,
                        "the call's time was over while it waited for a worker",
                    )
                })?,
        };
        acquired.map_err(|reason| match reason {
            NoWorker::Launch(error) => crate::app::load_failed(&error),
            NoWorker::Refused(RefuseReason::Draining) => Problem::new(
                Code::ShuttingDown,
                "the app is being replaced or removed; call again",
            ),
            NoWorker::Refused(RefuseReason::StartFailed) => Problem::new(
                Code::LoadFailed,
                "no worker could be started; see the node's log",
            ),
            NoWorker::Refused(RefuseReason::Overloaded) => {
                let mut problem = Problem::new(
                    Code::Overloaded,
                    "too many calls wait for this app's workers; try again a little later",
                );
                problem.retry_after_ms = Some(1000);
                problem
            }
        })
    }
}

/// Why a conversation ended early.
pub(super) enum Trouble {
    /// The worker's socket.
    Connection(ConnectionError),
    /// The worker said that a step failed; it is free again.
    Failed(Problem),
    /// The node stops the run.
    Stopped(Problem),
}

impl From<ConnectionError> for Trouble {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<ProtocolError> for Trouble {
    fn from(error: ProtocolError) -> Self {
        Self::Connection(error.into())
    }
}

fn nonsense(what: impl Into<String>) -> Trouble {
    ProtocolError::Nonsense(what.into()).into()
}

enum Event {
    Frame(Result<Frame, ConnectionError>),
    Child(Finished),
    Clock,
}

/// The conversation with the worker.
struct Talk<'a> {
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
    streamed: bool,
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
            lease.abandon(&self.execution.id_text);
        }
    }
}

impl<'a> Talk<'a> {
    fn new(
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

    fn function(&self) -> &'a Arc<Function> {
        &self.handoff.functions[self.current.min(self.handoff.functions.len() - 1)]
    }

    fn set_deadline(&mut self) {
        let own = Instant::now() + Duration::from_millis(self.function().spec.timeout_ms);
        self.deadline = self.execution.deadline.map_or(own, |whole| whole.min(own));
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
        match &mut self.lease {
            Some(lease) => Ok(lease.connection().send(kind, header, payloads).await?),
            None => Ok(()),
        }
    }

    async fn send_run(
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
            request: &self.execution.id_text,
            attempt: handoff.attempt,
            app: &handoff.version.app,
            level: crate::Level::Causal,
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
    async fn listen(&mut self) -> Result<Ending, Trouble> {
        let done = loop {
            match self.next().await {
                Event::Frame(frame) => {
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
            Items::Collect if self.is_generator() => std::mem::take(&mut self.collected),
            Items::Collect | Items::Stream(_) => done,
        };
        let buffers = self.handoff.fragment.steps.iter();
        let buffers = buffers.filter_map(|id| Some((*id, Arc::clone(self.ended.get(id)?))));
        Ok(Ending {
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
            return Err(Trouble::Stopped(Problem::new(Code::TimedOut, detail)));
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
            kind::DONE => return self.on_done(&frame).map(Some),
            kind::FAILED => return Err(self.on_failed(&frame)?),
            other => return Err(ProtocolError::Unexpected(other).into()),
        }
        Ok(None)
    }

    async fn on_state(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let start_us = self.execution.now_us();
        let header: State = frame.header()?;
        let given = frame.payloads(&header.p, self.shared())?;
        self.apply(&header.ops, &given)?;
        let Some(seq) = header.seq else { return Ok(()) };
        if let Some(problem) = self.poison.clone() {
            return self.reply_error(seq, &problem).await;
        }
        self.execution
            .used
            .reads
            .fetch_add(header.get.len() as u64, Ordering::Relaxed);
        let mut out = Payloads::default();
        let mut answers = Vec::with_capacity(header.get.len());
        let shared = self.shared();
        let app = Arc::clone(&self.handoff.version.app);
        for get in &header.get {
            let view = self.view(get.s)?;
            let mut reader = Reader {
                app: &app,
                payloads: &given,
                out: &mut out,
                shared,
            };
            match reader.get(view, get) {
                Ok(answer) => answers.push(answer),
                Err(problem) => return self.reply_error(seq, &problem).await,
            }
        }
        let header = Reply {
            re: seq,
            r: Some(Json::Array(answers)),
            p: out.headers(),
            error: None,
        };
        let sent = self.send(kind::REPLY, &header, &out).await;
        let id = self.execution.span_id();
        let name = &self.execution.inner.names.state;
        self.execution.span(
            SpanKind::State,
            name,
            id,
            Some(self.step_span),
            start_us,
            None,
        );
        match sent {
            Err(Trouble::Connection(ConnectionError::Protocol(ProtocolError::TooLong(size)))) => {
                let limit = protocol::FRAME_BYTES_MAX;
                let problem = Problem::new(
                    Code::PayloadTooLarge,
                    format!(
                        "the values read at once take {size} bytes, more than {limit}; read fewer"
                    ),
                );
                self.reply_error(seq, &problem).await
            }
            other => other,
        }
    }

    /// Applies writes. The first that does not fit poisons the request.
    fn apply(&mut self, ops: &[OpHeader], payloads: &[Payload]) -> Result<(), Trouble> {
        self.execution
            .used
            .writes
            .fetch_add(ops.len() as u64, Ordering::Relaxed);
        let app = Arc::clone(&self.handoff.version.app);
        for header in ops {
            let poisoned = self.poison.is_some();
            let view = self.view(header.s)?;
            if poisoned {
                continue;
            }
            let written = state::key(&app, &header.k).and_then(|key| {
                let op = state::op(header, payloads)?;
                view.write(&key, &op)
                    .map_err(|error| state::problem_of(&error))
            });
            if let Err(mut problem) = written {
                if let Some(at) = &header.at {
                    problem.detail = format!("{} (written at {at})", problem.detail);
                }
                self.poison = Some(problem);
            }
        }
        Ok(())
    }

    /// The view of a step, begun if need be.
    fn view(&mut self, step: StepId) -> Result<&mut View, Trouble> {
        if !self.views.contains_key(&step) {
            let here = self.handoff.fragment.steps.contains(&step);
            if !here || self.ended.contains_key(&step) {
                return Err(nonsense(format!("step {step} is not running")));
            }
            let mut below = self.handoff.place.below.clone();
            for ancestor in ancestors(self.handoff.plan, step) {
                self.end_step(ancestor);
                below.extend(
                    self.ended
                        .get(&ancestor)
                        .filter(|buffer| !buffer.is_empty())
                        .cloned(),
                );
            }
            let view = self
                .execution
                .session
                .view(below, self.handoff.place.tag + step);
            self.views.insert(step, view);
        }
        self.views
            .get_mut(&step)
            .ok_or_else(|| nonsense("a step that has just begun"))
    }

    fn end_step(&mut self, step: StepId) {
        if let Some(view) = self.views.remove(&step) {
            self.ended.insert(step, view.finish());
        }
    }

    async fn on_call(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: CallHeader = frame.header()?;
        let given = frame.payloads(&header.p, self.shared())?;
        self.apply(&header.ops, &given)?;
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
    fn start_child(
        &mut self,
        header: &CallHeader,
        input: Payload,
    ) -> Result<Result<super::children::Run, Problem>, Trouble> {
        let inner = &self.execution.inner;
        let own = self.handoff.version;
        // The own app's calls stay on the version that began the request.
        let version = match &header.app {
            Some(app) if **app != *own.app => inner.version(app),
            _ => Ok(Arc::clone(own)),
        };
        let resolved = version.and_then(|version| {
            let target = match (&header.function, &header.flow) {
                (Some(name), _) => inner.target(&version, name)?,
                (None, Some(flow)) => crate::app::Target::Flow(version.flowing("inline", flow)?),
                (None, None) => {
                    return Err(Problem::new(Code::BadRequest, "a call names no function"));
                }
            };
            Ok((version, target))
        });
        let span = self.step_span;
        let depth = self.handoff.place.depth + 1;
        let view = self.view(header.step)?;
        let place = Place {
            below: view.layers(),
            tag: view.tag() + 1,
            depth,
            span,
        };
        Ok(resolved.map(|(version, target)| {
            self.execution
                .run(&version, &target, input, place, Items::Collect)
        }))
    }

    fn enqueue(&mut self, header: &CallHeader, input: Payload) {
        let app = header
            .app
            .clone()
            .unwrap_or_else(|| self.handoff.version.app.to_string());
        let message = super::Message {
            header: super::message::MessageHeader {
                app,
                function: header.function.clone(),
                flow: header.flow.clone(),
                tenant: self.execution.caller.tenant.clone(),
                subject: self.execution.caller.subject.clone(),
                trace: self.execution.trace.to_string(),
                content_type: input.content_type.as_str().to_owned(),
            },
            input,
        };
        self.messages.push(message.encode());
    }

    async fn on_wait(&mut self, frame: &Frame) -> Result<(), Trouble> {
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
    async fn child_ended(&mut self, child: Finished) -> Result<(), Trouble> {
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

    fn take_over(&mut self, step: StepId, outcome: Outcome) -> Result<Vec<Payload>, Trouble> {
        let Effects { buffers, messages } = outcome.effects;
        self.messages.extend(messages);
        if buffers.iter().any(|buffer| !buffer.is_empty()) {
            self.view(step)?.join(&buffers);
        }
        Ok(outcome.outputs)
    }

    /// Waits for the children that nobody waited for. One that fails fails the request.
    async fn join_children(&mut self) -> Result<(), Trouble> {
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
    fn show_blocked(&mut self) {
        let waits = self.children.is_waited_for();
        if let Some(blocked) = self.children.blocked_changed(waits)
            && let Some(lease) = &self.lease
        {
            lease.set_blocked(blocked);
        }
    }

    async fn on_item(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: Item = frame.header()?;
        let item = frame.payloads(&header.p, self.shared())?.into_iter().next();
        let item = item.ok_or(ProtocolError::NoPayload(0))?;
        self.execution
            .used
            .bytes_out
            .fetch_add(item.body.len() as u64, Ordering::Relaxed);
        match self.handoff.items {
            Items::Collect => {
                self.collected_bytes += item.body.len() + 64;
                self.check_size(self.collected_bytes, "the items")?;
                self.collected.push(item);
            }
            Items::Stream(to) => {
                self.streamed = true;
                let send = to.send(StreamEvent::Item(item));
                match tokio::time::timeout_at(self.deadline, send).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => {
                        let detail = "the caller stopped reading";
                        return Err(Trouble::Stopped(Problem::new(Code::Cancelled, detail)));
                    }
                    Err(_) => self.clock().await?,
                }
            }
        }
        Ok(())
    }

    fn check_size(&self, bytes: usize, what: &str) -> Result<(), Trouble> {
        let limit = self.execution.inner.options.limits.payload_bytes;
        if bytes <= limit {
            return Ok(());
        }
        Err(Trouble::Stopped(Problem::new(
            Code::PayloadTooLarge,
            format!(
                "{what} of {} take {bytes} bytes, more than {limit}",
                self.function().name
            ),
        )))
    }

    fn on_log(&self, log: &Log) {
        let place = self
            .handoff
            .fragment
            .steps
            .iter()
            .position(|step| *step == log.step);
        let function = place.map_or(self.function(), |place| &self.handoff.functions[place]);
        let stream = match log.stream.as_str() {
            "stderr" => Stream::Stderr,
            "log" => Stream::Log,
            _ => Stream::Stdout,
        };
        self.execution.inner.telemetry.logs.push(LogLine {
            sequence: 0,
            time_us: self.execution.now_us(),
            app: Arc::clone(&self.handoff.version.app),
            function: Arc::clone(&function.name),
            request: self.execution.id.0,
            stream,
            level: log.level.clone(),
            logger: log.logger.clone(),
            text: log.text.clone(),
        });
    }

    async fn on_begin(&mut self, begin: &Begin) -> Result<(), Trouble> {
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

    fn close_step(&mut self, error: Option<Code>) {
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

    fn close_spans(&mut self, error: Option<Code>) {
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

    fn meter(&self, cpu_us: u64, rss_bytes: u64) {
        let used = &self.execution.used;
        let ran_us = self.execution.now_us().saturating_sub(self.step_start_us);
        used.cpu_us.fetch_add(cpu_us, Ordering::Relaxed);
        let byte_ms = rss_bytes.saturating_mul(ran_us) / 1000;
        used.memory_byte_ms.fetch_add(byte_ms, Ordering::Relaxed);
    }

    fn on_done(&mut self, frame: &Frame) -> Result<Vec<Payload>, Trouble> {
        let done: Done = frame.header()?;
        let given = frame.payloads(&done.p, self.shared())?;
        self.apply(&done.ops, &given)?;
        self.meter(done.cpu_us, done.rss_bytes);
        if let Some(lease) = self.lease.take() {
            lease.release(done.dirty);
        }
        let outputs: Option<Vec<Payload>> = done
            .outputs
            .iter()
            .map(|index| given.get(*index).cloned())
            .collect();
        let outputs = outputs
            .filter(|outputs| outputs.len() == self.handoff.fragment.outputs.len())
            .ok_or_else(|| nonsense("the outputs are not those asked for"))?;
        for output in &outputs {
            self.check_size(output.body.len(), "the result")?;
        }
        Ok(outputs)
    }

    fn on_failed(&mut self, frame: &Frame) -> Result<Trouble, Trouble> {
        let failed: Failed = frame.header()?;
        let given = frame.payloads(&failed.p, self.shared())?;
        self.meter(failed.cpu_us, failed.rss_bytes);
        if let Some(lease) = self.lease.take() {
            lease.release(failed.dirty);
        }
        let steps = &self.handoff.fragment.steps;
        if let Some(place) = steps.iter().position(|step| *step == failed.step) {
            self.current = place;
        }
        // The write that did not fit is why, whatever the function made of it.
        if let Some(problem) = self.poison.take() {
            return Ok(Trouble::Failed(problem));
        }
        Ok(Trouble::Failed(problem_from(failed.error, &given)))
    }

    async fn reply_error(&mut self, seq: u64, problem: &Problem) -> Result<(), Trouble> {
        let mut payloads = Payloads::default();
        let error = error_header(problem, &mut payloads, self.shared());
        let header = Reply {
            re: seq,
            r: None,
            p: payloads.headers(),
            error: Some(error),
        };
        self.send(kind::REPLY, &header, &payloads).await
    }

    /// What to tell the caller, and what becomes of the worker.
    async fn explain(&mut self, trouble: Trouble) -> Problem {
        let error = match trouble {
            Trouble::Failed(problem) => return problem,
            Trouble::Stopped(problem) => {
                if let Some(lease) = self.lease.take() {
                    lease.abandon(&self.execution.id_text);
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

fn died(name: &str, memory_bytes: u64, death: &Death) -> Problem {
    let how = match death {
        Death::OutOfMemory => {
            return Problem::new(
                Code::OutOfMemory,
                format!(
                    "{name} used more than its {} MiB of memory; give it more with memory=",
                    memory_bytes >> 20
                ),
            );
        }
        Death::Exited(Some(exited)) => match (exited.signal, exited.status) {
            (Some(signal), _) => format!("was ended by signal {signal}"),
            (None, Some(status)) => format!("exited with status {status}"),
            (None, None) => "ended".to_owned(),
        },
        Death::Exited(None) => "ended".to_owned(),
    };
    Problem::new(
        Code::WorkerCrashed,
        format!("the worker that ran {name} {how}"),
    )
}

/// The steps whose results reach this one, in rising order.
fn ancestors(plan: &Plan, step: StepId) -> Vec<StepId> {
    let mut found = std::collections::BTreeSet::new();
    let mut open = vec![step];
    while let Some(id) = open.pop() {
        let Some(step) = plan.step(id) else { continue };
        for input in step.inputs() {
            if let Input::Step(source) = input
                && found.insert(*source)
            {
                open.push(*source);
            }
        }
    }
    found.into_iter().collect()
}

fn problem_from(error: ErrorHeader, payloads: &[Payload]) -> Problem {
    let code = Code::parse(&error.code).unwrap_or(Code::FunctionFailed);
    let mut problem = Problem::new(code, error.message.clone());
    if let Some(kind) = error.kind {
        problem.detail = format!("{kind}: {}", error.message);
        problem.exception = Some(Box::new(Exception {
            kind,
            message: error.message,
            traceback: error.traceback.unwrap_or_default(),
            pickle: error
                .p
                .and_then(|index| payloads.get(index))
                .map(|p| p.body.clone()),
        }));
    }
    problem
}

fn error_header(problem: &Problem, payloads: &mut Payloads, shared: &dyn Shared) -> ErrorHeader {
    let exception = problem.exception.as_deref();
    let pickle = exception
        .and_then(|exception| exception.pickle.as_ref())
        .map(|pickle| Payload {
            content_type: tidemill_lattice::ContentType::Pickle5,
            body: pickle.clone(),
        });
    ErrorHeader {
        code: problem.code.as_str().to_owned(),
        message: exception.map_or_else(|| problem.detail.clone(), |e| e.message.clone()),
        kind: exception.map(|exception| exception.kind.clone()),
        traceback: exception.map(|exception| exception.traceback.clone()),
        p: pickle.map(|pickle| payloads.push(&pickle, shared)),
    }
}
