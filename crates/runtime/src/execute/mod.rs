//! Runs requests: plans become hand-offs to workers, their writes one commit.
//!
//! Everything that a request reaches hangs on one [`Execution`]. A call of a
//! function or flow gives an [`Outcome`]: its result, and the effects that whoever
//! called it takes over. Only the outermost outcome is committed. Dropping the future
//! of a call ends what it started: children are dropped with it and workers told.

mod attempts;
mod children;
mod component;
mod handoff;
mod message;
mod reach;
mod talk;
mod trouble;

pub(crate) use message::Message;

use crate::app::{Function, Target, Version};
use crate::gate::Pass;
use crate::inner::Inner;
use crate::level::{Level, Promise};
use crate::requests::Counts;
use crate::{Call, Caller, RequestId, StreamEvent};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use handoff::{Again, Ending, Handoff};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tidemill_flow::{Fragment, Plan, Progress, StepId};
use tidemill_lattice::{Payload, Time};
use tidemill_problem::{Code, Problem};
use tidemill_session::Buffer;
use tidemill_telemetry::{Meter, Span, SpanId, SpanKind, TraceContext};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// Spans of one request need only differ from each other and be hard to meet elsewhere: an
/// odd stride from a random start.
const SPAN_STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// One request while it runs.
pub(crate) struct Execution {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: RequestId,
    id_text: OnceLock<String>,
    /// Known once its target is.
    promise: OnceLock<Promise>,
    /// The time that its session had seen before, and its own commit's.
    seen: AtomicU64,
    /// What the attempt that runs sees of state; begun once the request has been let in.
    session: Mutex<Option<Arc<tidemill_session::Request>>>,
    /// The attempt that runs, from 1.
    attempt: AtomicU32,
    /// What functions are told of it and of their own.
    numbers: attempts::Numbers,
    /// The span that hand-offs of this attempt hang on.
    attempt_span: Mutex<SpanId>,
    /// Of what a worker died in the attempt that runs, where the request can be run again.
    died: Mutex<Option<Problem>>,
    /// Rung then.
    death_bell: Notify,
    /// Items have left, which can not be taken back.
    pub(crate) has_streamed: AtomicBool,
    has_dropped_items: AtomicBool,
    has_recorded_steps: AtomicBool,
    pub(crate) caller: Caller,
    pub(crate) key: Option<String>,
    /// The request's own span within its trace.
    pub(crate) trace: TraceContext,
    pub(crate) parent: Option<SpanId>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) started_us: u64,
    pub(crate) used: Used,
    spans: Mutex<Vec<Span>>,
    next_span: AtomicU64,
}

/// What a request has used so far.
#[derive(Default)]
pub(crate) struct Used {
    pub(crate) cpu_us: AtomicU64,
    pub(crate) memory_byte_ms: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
}

/// Where a call stands in its request: what it sees and how deep it is.
#[derive(Clone)]
pub(crate) struct Place {
    /// Writes of its ancestors, in the order of their tags.
    pub(crate) below: Vec<Arc<Buffer>>,
    /// The tag of its first step.
    pub(crate) tag: u32,
    pub(crate) depth: u32,
    pub(crate) span: SpanId,
    /// When it began, if it runs at once and the clock was looked at for it.
    pub(crate) begun_us: Option<u64>,
    /// Names the call within its request, the same in every attempt.
    pub(crate) path: u128,
}

/// What a call leaves to its caller.
#[derive(Default)]
pub(crate) struct Effects {
    /// Writes, in the order of their tags.
    pub(crate) buffers: Vec<Arc<Buffer>>,
    /// Requests to start once all this has committed.
    pub(crate) messages: Vec<bytes::Bytes>,
}

/// A call that ended well.
pub(crate) struct Outcome {
    /// The result; of a generator its items.
    pub(crate) outputs: Vec<Payload>,
    pub(crate) effects: Effects,
    /// When it was over, if whoever ran it has looked.
    pub(crate) ended_us: Option<u64>,
}

/// Where a generator's items go.
#[derive(Clone)]
pub(crate) enum Items {
    /// To whoever reads the answer, as they come.
    Stream(mpsc::Sender<StreamEvent>),
    /// Into the outcome.
    Collect,
}

impl Execution {
    /// A request that has come in, and waits to be let in.
    /// `id` is for one that has an identity of its own. Takes the caller out of the call.
    pub(crate) fn new(inner: &Arc<Inner>, call: &mut Call, id: Option<RequestId>) -> Arc<Self> {
        let mut bytes = [0; 40];
        inner.entropy.fill(&mut bytes);
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let wide = |at: usize| (u128::from(number(at)) << 64) | u128::from(number(at + 8).max(1));
        let id = id.unwrap_or_else(|| RequestId(wide(24)));
        let trace = match call.trace {
            Some(joined) => joined.trace,
            None => tidemill_telemetry::TraceId(wide(0)),
        };
        let span = SpanId(number(16).max(1));
        let sampled = call.trace.is_none_or(|joined| joined.sampled);
        let used = Used::default();
        used.bytes_in
            .store(call.input.body.len() as u64, Ordering::Relaxed);
        Arc::new(Self {
            id,
            id_text: OnceLock::new(),
            promise: OnceLock::new(),
            seen: AtomicU64::new(0),
            session: Mutex::default(),
            attempt: AtomicU32::new(0),
            numbers: attempts::Numbers::default(),
            attempt_span: Mutex::new(span),
            died: Mutex::default(),
            death_bell: Notify::new(),
            has_streamed: AtomicBool::new(false),
            has_dropped_items: AtomicBool::new(false),
            has_recorded_steps: AtomicBool::new(false),
            caller: Caller {
                tenant: std::mem::take(&mut call.caller.tenant),
                subject: std::mem::take(&mut call.caller.subject),
            },
            key: call.key.clone(),
            trace: TraceContext {
                trace,
                span,
                sampled,
            },
            parent: call.trace.map(|joined| joined.span),
            deadline: call.timeout.map(|timeout| Instant::now() + timeout),
            started_us: inner.clock.now_micros(),
            used,
            spans: Mutex::default(),
            next_span: AtomicU64::new(span.0.wrapping_add(SPAN_STRIDE)),
            inner: Arc::clone(inner),
        })
    }

    /// Its identity, in print.
    pub(crate) fn id_text(&self) -> &str {
        self.id_text.get_or_init(|| self.id.to_string())
    }

    /// What it is promised; of the platform's own where no target said otherwise.
    pub(crate) fn promise(&self) -> Promise {
        *self
            .promise
            .get_or_init(|| Promise::own(&self.inner.options))
    }

    /// Fixes what it is promised. Later words change nothing.
    pub(crate) fn set_promise(&self, promise: Promise) {
        let _ = self.promise.set(promise);
    }

    /// Its session has seen the state at this time.
    pub(crate) fn has_seen(&self, time: Time) {
        self.seen.fetch_max(time.as_u64(), Ordering::Relaxed);
    }

    pub(crate) fn seen(&self) -> Time {
        Time::from_u64(self.seen.load(Ordering::Relaxed))
    }

    /// The request's state, if it was begun.
    pub(crate) fn begun(&self) -> Option<Arc<tidemill_session::Request>> {
        self.session.lock().clone()
    }

    /// The request's state, from the snapshot of when its attempt began.
    pub(crate) fn session(&self) -> Arc<tidemill_session::Request> {
        use tidemill_session::Request;
        let begin = || {
            let (store, promise) = (Arc::clone(&self.inner.store), self.promise());
            match promise.level {
                Level::Causal => Request::begin(self.id.0, store),
                Level::Eventual => Request::begin_eventual(self.id.0, store, promise.durability),
            }
        };
        let mut session = self.session.lock();
        Arc::clone(session.get_or_insert_with(begin))
    }

    /// The outermost call's place.
    pub(crate) fn root(&self, begun_us: u64) -> Place {
        Place {
            begun_us: Some(begun_us),
            below: Vec::new(),
            tag: 0,
            depth: 0,
            span: *self.attempt_span.lock(),
            path: 0,
        }
    }

    pub(crate) fn span_id(&self) -> SpanId {
        SpanId(
            self.next_span
                .fetch_add(SPAN_STRIDE, Ordering::Relaxed)
                .max(1),
        )
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.inner.clock.now_micros()
    }

    /// Keeps a span that has ended now.
    pub(crate) fn span(
        &self,
        kind: SpanKind,
        name: &Arc<str>,
        id: SpanId,
        parent: Option<SpanId>,
        start_us: u64,
        error: Option<Code>,
    ) {
        if self.trace.sampled {
            let times_us = (start_us, self.now_us());
            self.span_of(kind, name, id, parent, times_us, error);
        }
    }

    /// Keeps a span that lasted from one time to another.
    pub(crate) fn span_of(
        &self,
        kind: SpanKind,
        name: &Arc<str>,
        id: SpanId,
        parent: Option<SpanId>,
        (start_us, end_us): (u64, u64),
        error: Option<Code>,
    ) {
        if !self.trace.sampled {
            return;
        }
        let span = Span {
            trace: self.trace.trace,
            id,
            parent,
            request: self.id.0,
            kind,
            name: Arc::clone(name),
            start_us,
            duration_us: end_us.saturating_sub(start_us),
            error: error.map(Code::as_str),
        };
        self.spans.lock().push(span);
    }

    /// Writes down what the request was and used, now that it has ended.
    pub(crate) fn finish(
        &self,
        app: &Arc<str>,
        function: &Arc<str>,
        code: Option<Code>,
        now_us: u64,
    ) -> Counts {
        let (id, times_us) = (self.trace.span, (self.started_us, now_us));
        self.span_of(SpanKind::Request, function, id, self.parent, times_us, code);
        let telemetry = &self.inner.telemetry;
        telemetry.spans.record_all(&mut self.spans.lock());
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let meter = Meter {
            request: self.id.0,
            app: Arc::clone(app),
            function: Arc::clone(function),
            started_us: self.started_us,
            duration_us: now_us.saturating_sub(self.started_us),
            cpu_us: load(&self.used.cpu_us),
            memory_byte_ms: load(&self.used.memory_byte_ms),
            bytes_in: load(&self.used.bytes_in),
            bytes_out: load(&self.used.bytes_out),
            state_reads: load(&self.used.reads),
            state_writes: load(&self.used.writes),
            outcome: code.map_or(tidemill_telemetry::OUTCOME_OK, Code::as_str),
        };
        let counts = Counts::of(&meter);
        telemetry.meters.record(meter);
        counts
    }

    /// Runs a function or flow at a place of this request.
    pub(crate) fn run(
        self: &Arc<Self>,
        version: &Arc<Version>,
        target: &Target,
        input: Payload,
        place: Place,
        items: Items,
    ) -> BoxFuture<'static, Result<Outcome, Problem>> {
        let (execution, version) = (Arc::clone(self), Arc::clone(version));
        let plan = version.plan(target.flowing());
        Box::pin(async move {
            if place.depth > execution.inner.options.limits.call_depth {
                return Err(Problem::new(
                    Code::CallTooDeep,
                    format!(
                        "calls are nested more than {} deep; does a function call itself without end?",
                        execution.inner.options.limits.call_depth
                    ),
                ));
            }
            let running = Running {
                execution,
                version,
                plan,
                input,
                place,
                items,
            };
            match running.plan.fragments() {
                [only] => running.alone(only).await,
                _ => running.all().await,
            }
        })
    }
}

/// A plan while it runs.
struct Running {
    execution: Arc<Execution>,
    version: Arc<Version>,
    plan: Arc<Plan>,
    input: Payload,
    place: Place,
    items: Items,
}

impl Running {
    async fn alone(&self, fragment: &Fragment) -> Result<Outcome, Problem> {
        let begun_us = self.place.begun_us;
        let ending = self
            .fragment(fragment, begun_us, &BTreeMap::new(), &BTreeMap::new())
            .await?;
        Ok(Outcome {
            ended_us: ending.ended_us,
            outputs: ending.outputs,
            effects: Effects {
                buffers: ending
                    .buffers
                    .into_iter()
                    .map(|(_, buffer)| buffer)
                    .collect(),
                messages: ending.messages,
            },
        })
    }

    /// Runs the fragments of a plan, each as soon as what it needs is there.
    async fn all(&self) -> Result<Outcome, Problem> {
        let mut values: BTreeMap<StepId, Payload> = BTreeMap::new();
        let mut buffers: BTreeMap<StepId, Arc<Buffer>> = BTreeMap::new();
        let mut messages: BTreeMap<StepId, Vec<bytes::Bytes>> = BTreeMap::new();
        let (mut progress, ready) = Progress::begin(&self.plan);
        let mut running = FuturesUnordered::new();
        let start = |id: usize, values: &BTreeMap<_, _>, buffers: &BTreeMap<_, _>| {
            let (values, buffers) = (values.clone(), buffers.clone());
            async move {
                (
                    id,
                    self.fragment(&self.plan.fragments()[id], None, &values, &buffers)
                        .await,
                )
            }
        };
        for id in ready {
            running.push(start(id, &values, &buffers));
        }
        while let Some((id, ending)) = running.next().await {
            let ending = ending?;
            let fragment = &self.plan.fragments()[id];
            values.extend(fragment.outputs.iter().copied().zip(ending.outputs));
            buffers.extend(ending.buffers);
            if let Some(first) = fragment.steps.first() {
                messages.insert(*first, ending.messages);
            }
            for next in progress.done(id) {
                running.push(start(next, &values, &buffers));
            }
        }
        let output = values.remove(&self.plan.output()).ok_or_else(|| {
            Problem::new(
                Code::Internal,
                "the flow ended without its output; please report this",
            )
        })?;
        Ok(Outcome {
            ended_us: None,
            outputs: vec![output],
            effects: Effects {
                buffers: buffers.into_values().collect(),
                messages: messages.into_values().flatten().collect(),
            },
        })
    }

    /// Runs one fragment, again where its functions allow. Where its worker died, the whole
    /// request is run again. `begun_us` is now, if the clock was looked at just before.
    async fn fragment(
        &self,
        fragment: &Fragment,
        begun_us: Option<u64>,
        values: &BTreeMap<StepId, Payload>,
        buffers: &BTreeMap<StepId, Arc<Buffer>>,
    ) -> Result<Ending, Problem> {
        let functions = self.functions(fragment)?;
        let pass = self.pass(&functions).await?;
        // It may have waited for that one.
        let mut begun_us = begun_us.filter(|_| pass.is_none());
        let retries = functions
            .iter()
            .map(|function| function.spec.retries)
            .max()
            .unwrap_or(0);
        let mut failures = 0;
        for function in &functions {
            function.runs.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            let handoff = Handoff {
                execution: &self.execution,
                version: &self.version,
                plan: &self.plan,
                fragment,
                functions: &functions,
                place: &self.place,
                begun_us: begun_us.take(),
                items: &self.items,
                attempt: self.execution.numbers.after(failures),
            };
            let failure = match handoff.run(&self.input, values, buffers).await {
                Ok(ending) => return Ok(ending),
                Err(failure) => failure,
            };
            let again = match failure.again {
                Again::Never => false,
                Again::AsRetries => {
                    failures += 1;
                    failures <= retries
                }
                Again::AsCrash if self.execution.is_run_again(&failure.problem) => {
                    // Whoever runs the attempts drops this one.
                    std::future::pending().await
                }
                Again::AsCrash => false,
            };
            if !again {
                return Err(failure.problem);
            }
        }
    }

    fn functions(&self, fragment: &Fragment) -> Result<Vec<Arc<Function>>, Problem> {
        let steps = fragment.steps.iter();
        steps
            .map(|id| {
                let name = self.plan.step(*id).map(tidemill_flow::Step::function);
                name.and_then(|name| self.version.functions.get(name))
                    .cloned()
                    .ok_or_else(|| {
                        Problem::new(
                            Code::UnknownFunction,
                            "the flow names a function that is gone",
                        )
                    })
            })
            .collect()
    }

    /// Waits until a function that limits its runs has room. Such a function is alone
    /// in its fragment, so nobody holds one pass while waiting for another.
    async fn pass(&self, functions: &[Arc<Function>]) -> Result<Option<Pass>, Problem> {
        let Some((function, limit)) = functions
            .first()
            .and_then(|function| Some((function, function.spec.max_concurrency?)))
        else {
            return Ok(None);
        };
        let deadline = self.execution.deadline;
        self.execution
            .inner
            .gate
            .enter_function(function.number, limit, deadline)
            .await
            .map(Some)
    }
}
