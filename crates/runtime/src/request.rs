//! From a call to its answer: admission, the run, the commit, the list of requests.

use crate::app::{Target, Version};
use crate::execute::{Execution, Items, Message, Outcome, level_of};
use crate::gate::Pass;
use crate::inner::Inner;
use crate::requests::Admitted;
use crate::{Answer, Call, Caller, Level, Output, RequestId, Runtime, StreamEvent};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemill_lattice::{ContentType, Payload};
use tidemill_problem::{Code, Problem};
use tidemill_session::{Buffer, Outgoing};
use tidemill_store::{Committed, Durability, MessageId};
use tidemill_telemetry::SpanKind;
use tokio::sync::{Notify, mpsc, oneshot};

/// Items that may wait for a slow reader of a stream.
const STREAM_ITEMS: usize = 16;

/// A request that was admitted and has not begun to run.
struct Admission {
    execution: Arc<Execution>,
    version: Arc<Version>,
    target: Target,
    input: Payload,
    cancel: Arc<Notify>,
    consumes: Option<MessageId>,
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
    /// Makes a call and waits for its answer. Dropping the future cancels it.
    pub async fn call(&self, call: Call) -> Answer {
        let execution = Execution::new(&self.inner, &call);
        let (id, trace) = (execution.id, execution.trace);
        let result = match self.inner.admit(execution, call, None) {
            Ok(admission) if admission.target.is_generator() => Ok(admission.stream()),
            Ok(admission) => admission.finish(false).await.map(Output::Value),
            Err(problem) => Err(problem),
        };
        Answer {
            request: id,
            trace,
            result,
        }
    }

    /// Makes a call that nobody waits for; its result is kept for a while.
    ///
    /// # Errors
    /// Why it is not admitted, such as `unknown-function`.
    pub fn submit(&self, call: Call) -> Result<RequestId, Problem> {
        let execution = Execution::new(&self.inner, &call);
        let id = execution.id;
        let admission = self.inner.admit(execution, call, None)?;
        tokio::spawn(admission.finish(true));
        Ok(id)
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
    fn admit(
        self: &Arc<Self>,
        execution: Arc<Execution>,
        call: Call,
        consumes: Option<MessageId>,
    ) -> Result<Admission, Problem> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Problem::new(
                Code::ShuttingDown,
                "the node is stopping; call another one",
            ));
        }
        if level_of(&call) != Level::Causal {
            return Err(Problem::new(
                Code::BadRequest,
                "this node runs requests at the level causal only; leave the level out",
            ));
        }
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
            ended: false,
        })
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
            level: None,
        };
        if let Some(flow) = header.flow {
            let app = self.app(&call.app)?;
            call.function = format!("enqueued-{:x}-{:x}", id.0.as_u64(), id.1);
            app.register(
                call.function.clone(),
                app.current().flowing(&call.function, &flow)?,
            );
        }
        let execution = Execution::new(self, &call);
        self.admit(execution, call, Some(id))
    }
}

impl Admission {
    /// Runs the request, commits it, and gives its result.
    async fn finish(mut self, keep: bool) -> Result<Payload, Problem> {
        let run = async {
            let _pass = self.enter().await?;
            let outcome = self.run(Items::Collect).await?;
            self.commit(outcome).await
        };
        let cancel = Arc::clone(&self.cancel);
        let result = tokio::select! {
            biased;
            result = run => result,
            () = cancel.notified() => {
                Err(Problem::new(Code::Cancelled, "the request was cancelled"))
            }
        };
        let result = result.and_then(|outputs| self.payload(outputs));
        let kept = keep.then(|| result.clone());
        self.end(result.as_ref().err(), kept);
        result
    }

    /// Runs a generator whose items leave as they come.
    fn stream(mut self) -> Output {
        let (sender, receiver) = mpsc::channel(STREAM_ITEMS);
        tokio::spawn(async move {
            let cancel = Arc::clone(&self.cancel);
            let run = async {
                let _pass = self.enter().await?;
                let outcome = self.run(Items::Stream(sender.clone())).await?;
                self.commit(outcome).await
            };
            let result = tokio::select! {
                biased;
                result = run => result,
                () = cancel.notified() => {
                    Err(Problem::new(Code::Cancelled, "the request was cancelled"))
                }
                () = sender.closed() => {
                    Err(Problem::new(Code::Cancelled, "the caller stopped reading"))
                }
            };
            self.end(result.as_ref().err(), None);
            let last = match result {
                Ok(_) => StreamEvent::Committed,
                Err(problem) => StreamEvent::Failed(problem),
            };
            let _ = sender.send(last).await;
        });
        Output::Stream(receiver)
    }

    /// Waits to be let in; the snapshot is of that moment.
    async fn enter(&self) -> Result<Pass, Problem> {
        let pass = self
            .execution
            .inner
            .gate
            .enter(self.execution.deadline)
            .await?;
        self.execution.session();
        Ok(pass)
    }

    async fn run(&self, items: Items) -> Result<Outcome, Problem> {
        let input = self.input.clone();
        let place = self.execution.root();
        self.execution
            .run(&self.version, &self.target, input, place, items)
            .await
    }

    async fn commit(&self, outcome: Outcome) -> Result<Vec<Payload>, Problem> {
        let execution = &self.execution;
        let inner = &execution.inner;
        let Outcome { outputs, effects } = outcome;
        let bodies = effects.messages.clone();
        let start_us = execution.now_us();
        let outgoing = Outgoing {
            messages: effects.messages,
            consumes: self.consumes,
            record: None,
        };
        let durability = inner.options.durability;
        let committed = commit(execution.session(), &effects.buffers, durability, outgoing).await;
        let code = committed.as_ref().err().map(|problem| problem.code);
        let parent = Some(execution.trace.span);
        let id = execution.span_id();
        execution.span(
            SpanKind::Commit,
            &inner.names.commit,
            id,
            parent,
            start_us,
            code,
        );
        for (id, body) in committed?.messages.into_iter().zip(bodies) {
            inner.deliver(id, body);
        }
        Ok(outputs)
    }

    /// The one payload of the result. A generator that was not streamed gives a list.
    fn payload(&self, mut outputs: Vec<Payload>) -> Result<Payload, Problem> {
        if !self.target.is_generator() {
            let output = outputs.pop();
            if let Some(output) = &output {
                let bytes = output.body.len() as u64;
                self.execution
                    .used
                    .bytes_out
                    .fetch_add(bytes, Ordering::Relaxed);
            }
            return output.ok_or_else(|| {
                Problem::new(
                    Code::Internal,
                    "a request without a result; please report this",
                )
            });
        }
        let mut list = Vec::with_capacity(outputs.iter().map(|item| item.body.len() + 1).sum());
        for item in &outputs {
            list.push(if list.is_empty() { b'[' } else { b',' });
            match item.content_type {
                ContentType::Json if !crate::api::looks_like_bytes(&item.body) => {
                    list.extend_from_slice(&item.body);
                }
                _ => list.extend(crate::api::bytes_as_json(item).to_string().bytes()),
            }
        }
        if list.is_empty() {
            list.push(b'[');
        }
        list.push(b']');
        Ok(Payload::new(ContentType::Json, list))
    }

    fn end(&mut self, problem: Option<&Problem>, kept: Option<Result<Payload, Problem>>) {
        self.ended = true;
        let code = problem.map(|problem| problem.code);
        let execution = &self.execution;
        let meter = execution.finish(&self.version.app, self.target.name(), code);
        let now_us = execution.now_us();
        execution
            .inner
            .requests
            .end(execution.id, now_us, code, Some(meter), kept);
    }
}

/// Hands a commit to the store and waits for its outcome.
pub(crate) async fn commit(
    session: &tidemill_session::Request,
    buffers: &[Arc<Buffer>],
    durability: Durability,
    outgoing: Outgoing,
) -> Result<Committed, Problem> {
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |result| {
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
