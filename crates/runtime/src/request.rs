//! From a call to its answer: admission, the run, the commit, the list of requests.

use crate::app::{Target, Version};
use crate::execute::{Execution, Items, Message, Outcome};
use crate::gate::Pass;
use crate::inner::Inner;
use crate::level::Promise;
use crate::once::{Answered, Identity, Landed, Outputs, Recording, Run, message_id, repeat};
use crate::requests::Admitted;
use crate::{Answer, Asked, Call, Caller, Level, Output, RequestId, Runtime, StreamEvent};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_session::{Buffer, Outgoing};
use tidemill_store::{Committed, Durability, MessageId, RequestRecord};
use tidemill_telemetry::SpanKind;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};

/// Items that may wait for a slow reader of a stream.
const STREAM_ITEMS: usize = 16;
/// How long to wait before a request is run again whose worker died; longer each time.
const CRASH_PAUSE: Duration = Duration::from_millis(10);

/// A request that was admitted and has not begun to run.
pub(crate) struct Admission {
    execution: Arc<Execution>,
    version: Arc<Version>,
    target: Target,
    input: Payload,
    cancel: Arc<Notify>,
    consumes: Option<MessageId>,
    /// Who it is, where it may be asked again.
    identity: Option<Identity>,
    /// When it was over, once it has run and committed.
    over_us: Option<u64>,
    ended: bool,
}

impl Drop for Admission {
    // A caller who goes away drops the future of its call.
    fn drop(&mut self) {
        if !self.ended {
            let problem = Problem::new(Code::Cancelled, "the caller went away");
            self.end(Some(&problem), None);
        }
    }
}

impl Runtime {
    /// Makes a call and waits for its answer. Dropping the future cancels it, unless others
    /// wait for the same request or it commits already.
    pub async fn call(&self, mut call: Call) -> Answer {
        let problem = match self.identify(&call) {
            Ok(Some(identity)) => return self.call_keyed(call, identity).await,
            Ok(None) => None,
            Err(problem) => Some(problem),
        };
        let execution = Execution::new(&self.inner, &mut call, None);
        let (id, trace) = (execution.id, execution.trace);
        let seen = Arc::clone(&execution);
        let admitted = match problem {
            None => self.inner.admit(execution, call, None, None),
            Some(problem) => Err(problem),
        };
        let result = match admitted {
            Ok(admission) if admission.is_stream() => Ok(admission.stream(None)),
            Ok(admission) => admission.finish(false).await.map(Output::Value),
            Err(problem) => Err(problem),
        };
        Answer {
            request: id,
            trace,
            is_repeated: false,
            session: seen.session_seen(),
            result,
        }
    }

    /// Makes a call that nobody waits for; its result is kept for a while.
    ///
    /// # Errors
    /// Why it is not admitted, such as `unknown-function`.
    pub fn submit(&self, mut call: Call) -> Result<RequestId, Problem> {
        if let Some(identity) = self.identify(&call)? {
            return self.submit_keyed(call, identity);
        }
        let execution = Execution::new(&self.inner, &mut call, None);
        let id = execution.id;
        let admission = self.inner.admit(execution, call, None, None)?;
        tokio::spawn(admission.finish(true));
        Ok(id)
    }

    fn identify(&self, call: &Call) -> Result<Option<Identity>, Problem> {
        let promise = || self.inner.promise_of(call);
        if call.key.is_some() && promise().is_some_and(|promise| promise.level == Level::Eventual) {
            // That level gives up deduplication.
            return Ok(None);
        }
        if call.key.is_none() {
            return Ok(None);
        }
        let retention = self.inner.options.retention;
        Identity::of(call, self.inner.clock.now_micros(), retention)
    }

    /// Starts the requests that were due when the node stopped.
    pub(crate) fn resend(&self) -> Result<(), Problem> {
        let pending = self.inner.store.pending_messages();
        let pending = pending.map_err(|error| crate::state::store_problem(&error))?;
        for (id, body) in pending {
            self.inner.deliver(id, body);
        }
        Ok(())
    }
}

impl Inner {
    /// What a call would be promised, if its target is there.
    pub(crate) fn promise_of(self: &Arc<Self>, call: &Call) -> Option<Promise> {
        let version = self.version(&call.app).ok()?;
        let target = self.target(&version, &call.function).ok()?;
        Some(Promise::of(call, &version, &target, &self.options))
    }

    /// Takes up what the caller's session has seen.
    pub(crate) fn admit_session(&self, execution: &Execution, call: &Call) -> Result<(), Problem> {
        if let Some(token) = &call.asked.session {
            execution.has_seen(self.since(token)?);
        }
        Ok(())
    }

    pub(crate) fn admit(
        self: &Arc<Self>,
        execution: Arc<Execution>,
        call: Call,
        consumes: Option<MessageId>,
        identity: Option<Identity>,
    ) -> Result<Admission, Problem> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Problem::new(
                Code::ShuttingDown,
                "the node is stopping; call another one",
            ));
        }
        self.admit_session(&execution, &call)?;
        let limit = self.options.limits.payload_bytes;
        if call.input.body.len() > limit {
            return Err(Problem::new(
                Code::PayloadTooLarge,
                format!(
                    "the arguments take {} bytes, more than {limit}",
                    call.input.body.len()
                ),
            ));
        }
        let version = self.version(&call.app)?;
        let target = self.target(&version, &call.function)?;
        execution.set_promise(Promise::of(&call, &version, &target, &self.options));
        let admitted = Admitted {
            app: Arc::clone(&version.app),
            function: Arc::clone(target.name()),
            created_us: execution.started_us,
            trace: execution.trace.trace,
            key: call.key,
        };
        let cancel = self.requests.admit(execution.id, admitted);
        let input = call.input;
        Ok(Admission {
            execution,
            version,
            target,
            input,
            cancel,
            consumes,
            identity,
            over_us: None,
            ended: false,
        })
    }

    /// Delivers what a request sends, once it is committed.
    fn sending(self: &Arc<Self>, bodies: Vec<bytes::Bytes>) -> impl FnOnce(&Committed) + use<> {
        let (inner, runtime) = (Arc::clone(self), Handle::current());
        move |committed: &Committed| {
            if committed.repeated.is_some() || bodies.is_empty() {
                return;
            }
            let _entered = runtime.enter();
            for (id, body) in committed.messages.iter().zip(bodies) {
                inner.deliver(*id, body);
            }
        }
    }

    /// Starts the request that a committed one has sent.
    fn deliver(self: &Arc<Self>, message: MessageId, body: bytes::Bytes) {
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let admitted = match Message::decode(body) {
                Some(decoded) => inner.admit_message(message, decoded),
                None => Err(Problem::new(
                    Code::Internal,
                    "a message that cannot be read",
                )),
            };
            let result = match admitted {
                Ok(admission) => admission.finish(true).await.map(|_| ()),
                Err(problem) => Err(problem),
            };
            // Unless the node is stopping, a message is done with once it was tried:
            // its function's retries are how often that is.
            if let Err(problem) = result
                && problem.code != Code::ShuttingDown
            {
                tracing::warn!(%problem, "an enqueued request failed");
                let session = tidemill_session::Request::begin(0, Arc::clone(&inner.store));
                let outgoing = Outgoing {
                    consumes: Some(message),
                    ..Outgoing::default()
                };
                let _ = commit(&session, &[], inner.options.durability, outgoing).await;
            }
        });
    }

    fn admit_message(
        self: &Arc<Self>,
        id: MessageId,
        message: Message,
    ) -> Result<Admission, Problem> {
        let caller = message.caller();
        let header = message.header;
        let mut call = Call {
            app: header.app,
            function: header.function.unwrap_or_default(),
            input: message.input,
            key: None,
            trace: tidemill_telemetry::TraceContext::parse(&header.trace),
            caller: Caller { ..caller },
            timeout: None,
            asked: Asked::default(),
        };
        if let Some(flow) = header.flow {
            let app = self.app(&call.app)?;
            call.function = format!("enqueued-{:x}-{:x}", id.0.as_u64(), id.1);
            app.register(
                call.function.clone(),
                app.current().flowing(&call.function, &flow)?,
            );
        }
        // Its steps are recorded under a name that it has again after a restart.
        let execution = Execution::new(self, &mut call, Some(message_id(id)));
        self.admit(execution, call, Some(id), None)
    }
}

impl Admission {
    /// Whether its items leave as they come.
    pub(crate) fn is_stream(&self) -> bool {
        self.target.is_generator()
    }

    /// Runs the request, commits it, and gives its result.
    async fn finish(mut self, keep: bool) -> Result<Payload, Problem> {
        let concluded = self
            .conclude(Items::Collect, None, std::future::pending())
            .await;
        let result = concluded.and_then(|outputs| outputs.payload());
        let kept = keep.then(|| result.clone());
        self.end(result.as_ref().err(), kept);
        result
    }

    /// The same for all who wait for this run. To `keep` its result is for one that nobody waits
    /// for: it may leave no record.
    pub(crate) async fn land(mut self, run: Run, keep: bool) {
        let result = self
            .conclude(Items::Collect, Some(&run), run.unwanted())
            .await;
        // What went wrong is never recorded.
        let kept = (keep || result.is_err()).then(|| match &result {
            Ok(outputs) => outputs.payload(),
            Err(problem) => Err(problem.clone()),
        });
        self.end(result.as_ref().err(), kept);
        run.end(Landed {
            trace: self.execution.trace,
            seen: self.execution.seen_by_now(),
            result,
        });
    }

    /// Runs a generator whose items leave as they come.
    pub(crate) fn stream(mut self, run: Option<Run>) -> Output {
        let (sender, receiver) = mpsc::channel(STREAM_ITEMS);
        tokio::spawn(async move {
            let items = Items::Stream(sender.clone());
            let result = self.conclude(items, run.as_ref(), sender.closed()).await;
            self.end(result.as_ref().err(), None);
            // Whoever asks again from here on finds the record.
            drop(run);
            let last = match result {
                Ok(_) => StreamEvent::Committed {
                    session: self.execution.token(),
                },
                Err(problem) => StreamEvent::Failed(problem),
            };
            let _ = sender.send(last).await;
        });
        Output::Stream(receiver)
    }

    /// Runs and commits. A cancel, or a caller who is `gone`, ends it until it commits.
    async fn conclude(
        &mut self,
        items: Items,
        run: Option<&Run>,
        gone: impl Future<Output = ()>,
    ) -> Result<Outputs, Problem> {
        let is_stream = matches!(items, Items::Stream(_));
        let cancelled = |detail| Err(Problem::new(Code::Cancelled, detail));
        let work = async {
            let pass = self.enter().await?;
            Ok((pass, self.attempts(items).await?))
        };
        let (pass, outcome) = tokio::select! {
            biased;
            ran = work => ran,
            () = self.cancel.notified() => cancelled("the request was cancelled"),
            () = gone => cancelled("the caller went away"),
        }?;
        if let Some(run) = run {
            run.detach();
        }
        let committed = self.commit(outcome, is_stream).await;
        let now_us = self.execution.now_us();
        pass.leave(now_us);
        self.over_us = Some(now_us);
        committed
    }

    /// Waits to be let in; the snapshot is of that moment.
    async fn enter(&self) -> Result<Pass, Problem> {
        let execution = &self.execution;
        let (deadline, came_us) = (execution.deadline, execution.started_us);
        let pass = execution.inner.gate.enter(deadline, came_us).await?;
        let since = execution.seen();
        execution.inner.catch_up(since, deadline).await?;
        execution.begin_attempt();
        Ok(pass)
    }

    /// Runs the request, from the start again on a new snapshot where a worker died in it.
    async fn attempts(&self, items: Items) -> Result<Outcome, Problem> {
        let execution = &self.execution;
        loop {
            let start_us = execution.now_us();
            let place = execution.root(start_us);
            let run = execution.run(
                &self.version,
                &self.target,
                self.input.clone(),
                place,
                items.clone(),
            );
            let died = tokio::select! {
                biased;
                ran = run => {
                    let code = ran.as_ref().err().map(|problem| problem.code);
                    execution.end_attempt(start_us, code);
                    return ran;
                }
                died = execution.died() => died,
            };
            execution.end_attempt(start_us, Some(died.code));
            let attempt = execution.attempt();
            tracing::warn!(%died, attempt, request = %execution.id, "running a request again");
            tokio::time::sleep(CRASH_PAUSE * attempt).await;
            execution.begin_attempt();
        }
    }

    async fn commit(&self, outcome: Outcome, is_stream: bool) -> Result<Outputs, Problem> {
        let execution = &self.execution;
        let inner = &execution.inner;
        let Outcome {
            outputs,
            effects,
            ended_us,
        } = outcome;
        let outputs = self.outputs(outputs)?;
        let bodies = effects.messages.clone();
        let writes_nothing = effects.buffers.iter().all(|buffer| buffer.is_empty());
        let is_reading = writes_nothing && bodies.is_empty() && self.consumes.is_none();
        let start_us = ended_us.unwrap_or_else(|| execution.now_us());
        let outgoing = Outgoing {
            messages: effects.messages,
            consumes: self.consumes,
            record: self.record(&outputs, is_reading),
        };
        let durability = execution.promise().durability;
        let session = execution.session();
        let (committed, end_us) = match session.unchanged(&effects.buffers, &outgoing) {
            Some(unchanged) => (Ok(unchanged), start_us),
            None => {
                // The one who waits may go meanwhile; what is committed is sent all the same.
                let send = inner.sending(bodies);
                let commit = commit_then(&session, &effects.buffers, durability, outgoing, send);
                (commit.await, execution.now_us())
            }
        };
        let code = committed.as_ref().err().map(|problem| problem.code);
        let (id, parent) = (execution.span_id(), Some(execution.trace.span));
        let (name, times_us) = (&inner.names.commit, (start_us, end_us));
        execution.span_of(SpanKind::Commit, name, id, parent, times_us, code);
        let committed = committed?;
        execution.has_seen(committed.time);
        if let Some(before) = committed.repeated {
            let digest = self.identity.map_or(0, |identity| identity.digest);
            let before = repeat(before, digest)?;
            if is_stream {
                let detail =
                    "another run of the request took effect first; ask again for its items";
                return Err(Problem::new(Code::RequestInFlight, detail));
            }
            return Ok(before.outputs);
        }
        Ok(outputs)
    }

    /// What the request gives. A generator that was not streamed gives its items.
    fn outputs(&self, mut outputs: Vec<Payload>) -> Result<Outputs, Problem> {
        if self.target.is_generator() {
            return Ok(match self.execution.has_dropped_items() {
                true => Outputs::Dropped,
                false => Outputs::Items(outputs),
            });
        }
        let output = outputs.pop().ok_or_else(|| {
            Problem::new(
                Code::Internal,
                "a request without a result; please report this",
            )
        })?;
        let bytes = output.body.len() as u64;
        let used = &self.execution.used;
        used.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        Ok(Outputs::Value(output))
    }

    /// What is kept of one that may be asked again, or that has recorded steps.
    fn record(&self, outputs: &Outputs, is_reading: bool) -> Option<RequestRecord> {
        let execution = &self.execution;
        let is_own = self.identity.is_some_and(|identity| identity.is_own());
        if is_reading && !is_own && !execution.has_recorded_steps() {
            return None;
        }
        let (now_us, retention) = (execution.now_us(), execution.inner.options.retention);
        let recording = match &self.identity {
            Some(identity) => identity.recording(now_us, retention),
            None if execution.has_recorded_steps() => Recording::plain(now_us, retention),
            None => return None,
        };
        let answered = Answered {
            app: self.version.app.to_string(),
            function: self.target.name().to_string(),
            trace: execution.trace.to_string(),
            key: execution.key.clone(),
            created_us: execution.started_us,
            duration_us: now_us.saturating_sub(execution.started_us),
            outputs: outputs.clone(),
        };
        Some(recording.record(answered.encode()))
    }

    fn end(&mut self, problem: Option<&Problem>, kept: Option<Result<Payload, Problem>>) {
        self.ended = true;
        let code = problem.map(|problem| problem.code);
        let execution = &self.execution;
        let now_us = self.over_us.unwrap_or_else(|| execution.now_us());
        let counts = execution.finish(&self.version.app, self.target.name(), code, now_us);
        execution
            .inner
            .requests
            .end(execution.id, &self.cancel, now_us, code, Some(counts), kept);
    }
}

/// Waits until the writes that were sent at once are applied.
///
/// # Errors
/// That of the first that failed; the others stand.
pub(crate) async fn settled(session: &tidemill_session::Request) -> Result<(), Problem> {
    if session.is_settled() {
        return Ok(());
    }
    let (sender, receiver) = oneshot::channel();
    session.settle(Box::new(move |outcome| {
        let _ = sender.send(outcome);
    }));
    match receiver.await {
        Ok(outcome) => outcome.map_err(|error| crate::state::problem_of(&error)),
        Err(_) => Err(Problem::new(
            Code::ShuttingDown,
            "the store closed before it answered",
        )),
    }
}

/// Hands a commit to the store and waits for its outcome.
pub(crate) async fn commit(
    session: &tidemill_session::Request,
    buffers: &[Arc<Buffer>],
    durability: Durability,
    outgoing: Outgoing,
) -> Result<Committed, Problem> {
    commit_then(session, buffers, durability, outgoing, |_| ()).await
}

/// As [`commit`]. Once it is committed `then` is called, whether anybody still waits or not.
async fn commit_then(
    session: &tidemill_session::Request,
    buffers: &[Arc<Buffer>],
    durability: Durability,
    outgoing: Outgoing,
    then: impl FnOnce(&Committed) + Send + 'static,
) -> Result<Committed, Problem> {
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |result: Result<Committed, tidemill_store::Error>| {
        if let Ok(committed) = &result {
            then(committed);
        }
        let _ = sender.send(result);
    });
    session.commit(buffers, durability, outgoing, done);
    match receiver.await {
        Ok(Ok(committed)) => Ok(committed),
        Ok(Err(error)) => Err(crate::state::store_problem(&error)),
        Err(_) => Err(Problem::new(
            Code::ShuttingDown,
            "the store closed before it answered",
        )),
    }
}
