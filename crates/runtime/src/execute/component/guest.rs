//! The platform of one run of a component's function.

use crate::app::{Function, Version};
use crate::execute::handoff::Handoff;
use crate::execute::reach::{Named, check_step_name};
use crate::execute::{Effects, Execution, Items, Outcome, Place};
use crate::level::Level;
use crate::once::{child_path, step_record_id};
use crate::state;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemill_flow::StepId;
use tidemill_lattice::{Cell, Kind, Op, Payload, Time};
use tidemill_problem::{Code, Problem};
use tidemill_session::{Buffer, View};
use tidemill_telemetry::{LogLine, SpanId, Stream};
use tidemill_wasm::{Called, Context, Keys, Lines, LogLevel, OutputStream, Platform, Step};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// One run of a function.
pub(super) struct Guest {
    execution: Arc<Execution>,
    version: Arc<Version>,
    function: Arc<Function>,
    place: Place,
    step: StepId,
    span: SpanId,
    attempt: u32,
    begun_us: u64,
    deadline: Instant,
    view: View,
    calls_made: u32,
    children: BTreeMap<u32, Child>,
    messages: Vec<bytes::Bytes>,
    steps_begun: HashMap<String, u32>,
}

/// A call that runs beside its caller, on whatever thread is free. It ends with this.
struct Child(JoinHandle<Result<Outcome, Problem>>);

impl Drop for Child {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Child {
    async fn ended(mut self) -> Result<Outcome, Problem> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => {
                Err(Problem::new(Code::Cancelled, "the call was cancelled"))
            }
            Err(error) => Err(Problem::new(Code::Internal, error.to_string())),
        }
    }
}

/// What a run leaves.
pub(super) struct Done {
    pub(super) buffer: Arc<Buffer>,
    pub(super) messages: Vec<bytes::Bytes>,
    /// When it was over.
    pub(super) ended_us: u64,
}

impl Guest {
    pub(super) fn new(
        handoff: &Handoff<'_>,
        step: StepId,
        function: &Arc<Function>,
        (span, begun_us): (SpanId, u64),
        ended: &BTreeMap<StepId, Arc<Buffer>>,
        deadline: Instant,
    ) -> Self {
        Self {
            execution: Arc::clone(handoff.execution),
            version: Arc::clone(handoff.version),
            function: Arc::clone(function),
            place: handoff.place.clone(),
            step,
            span,
            attempt: handoff.attempt,
            begun_us,
            deadline,
            view: handoff.view(step, ended),
            calls_made: 0,
            children: BTreeMap::new(),
            messages: Vec::new(),
            steps_begun: HashMap::new(),
        }
    }

    pub(super) fn begun_us(&self) -> u64 {
        self.begun_us
    }

    pub(super) fn now_us(&self) -> u64 {
        self.execution.now_us()
    }

    /// Takes note of the memory that the run held until now.
    pub(super) fn meter(&self, memory_bytes: u64, now_us: u64) {
        let ran_us = now_us.saturating_sub(self.begun_us);
        let byte_ms = memory_bytes.saturating_mul(ran_us) / 1000;
        let used = &self.execution.used.memory_byte_ms;
        used.fetch_add(byte_ms, Ordering::Relaxed);
    }

    /// Waits for the children that nobody waited for, and ends the run.
    pub(super) async fn finish(mut self: Box<Self>, now_us: u64) -> Result<Done, Problem> {
        let mut ended_us = now_us;
        while let Some((_, child)) = self.children.pop_first() {
            match child.ended().await {
                Ok(outcome) => {
                    self.take_over(outcome);
                    ended_us = self.now_us();
                }
                Err(problem) if problem.code == Code::Cancelled => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(Done {
            buffer: self.view.finish(),
            messages: self.messages,
            ended_us,
        })
    }

    /// The run of a call, `name` or `app/name`, that sees what this one has written.
    fn child(
        &mut self,
        name: &str,
        input: Payload,
    ) -> Result<BoxFuture<'static, Result<Outcome, Problem>>, Problem> {
        let (version, target) = self.execution.resolve(&self.version, named(name))?;
        let path = child_path(self.place.path, self.step, self.calls_made);
        self.calls_made += 1;
        let place = Place {
            below: self.view.layers(),
            tag: self.view.tag() + 1,
            begun_us: None,
            depth: self.place.depth + 1,
            span: self.span,
            path,
        };
        let run = self
            .execution
            .run(&version, &target, input, place, Items::Collect);
        Ok(run)
    }

    fn take_over(&mut self, outcome: Outcome) -> Vec<Payload> {
        let Effects { buffers, messages } = outcome.effects;
        self.messages.extend(messages);
        self.view.join(&buffers);
        outcome.outputs
    }

    fn taken(&mut self, outcome: Outcome) -> Called {
        let mut outputs = self.take_over(outcome);
        match outputs.pop() {
            Some(only) if outputs.is_empty() => Ok(only),
            last => {
                outputs.extend(last);
                let all: Vec<&Payload> = outputs.iter().collect();
                super::argument::of_inputs(&all)
            }
        }
    }

    fn line(&self, stream: Stream, level: Option<String>, text: String) -> LogLine {
        LogLine {
            sequence: 0,
            time_us: self.now_us(),
            app: Arc::clone(&self.version.app),
            function: Arc::clone(&self.function.name),
            request: self.execution.id.0,
            stream,
            level,
            logger: None,
            text,
        }
    }

    fn step_record(&self, name: &str, number: u32) -> u128 {
        step_record_id(self.execution.id, self.place.path, self.step, name, number)
    }
}

fn named(name: &str) -> Named<'_> {
    let (app, function) = match name.split_once('/') {
        Some((app, function)) => (Some(app), function),
        None => (None, name),
    };
    Named {
        app,
        function: Some(function),
        flow: None,
    }
}

impl Platform for Guest {
    fn context(&self) -> Context {
        let execution = &self.execution;
        let trace = tidemill_telemetry::TraceContext {
            span: self.span,
            ..execution.trace
        };
        Context {
            id: execution.id_text().to_owned(),
            attempt: self.attempt,
            app: self.version.app.to_string(),
            function: self.function.name.to_string(),
            level: match execution.promise().level {
                Level::Causal => tidemill_wasm::Level::Causal,
                Level::Eventual => tidemill_wasm::Level::Eventual,
            },
            key: execution.key.clone(),
            caller: tidemill_wasm::Caller {
                tenant: execution.caller.tenant.clone(),
                subject: execution.caller.subject.clone(),
            },
            trace: trace.to_string(),
        }
    }

    fn remaining_ms(&self) -> u64 {
        let left = self.deadline.saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }

    fn log(&mut self, level: LogLevel, message: String) {
        let level = match level {
            LogLevel::Trace | LogLevel::Debug => "DEBUG",
            LogLevel::Info => "INFO",
            LogLevel::Warn => "WARNING",
            LogLevel::Error => "ERROR",
        };
        let line = self.line(Stream::Log, Some(level.to_owned()), message);
        self.execution.inner.telemetry.logs.push(line);
    }

    fn lines(&self) -> Arc<dyn Lines> {
        Arc::new(Printed {
            execution: Arc::clone(&self.execution),
            app: Arc::clone(&self.version.app),
            function: Arc::clone(&self.function.name),
        })
    }

    fn time(&self) -> Time {
        self.view.time()
    }

    fn read(&mut self, key: &str, kind: Option<Kind>) -> Result<Option<Arc<Cell>>, Problem> {
        self.execution.used.reads.fetch_add(1, Ordering::Relaxed);
        let key = state::key(&self.version.app, key)?;
        let read = match kind {
            Some(kind) => self.view.read_as(&key, kind),
            None => self.view.read(&key),
        };
        read.map_err(|error| state::problem_of(&error))
    }

    fn keys(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Keys, Problem> {
        self.execution.used.reads.fetch_add(1, Ordering::Relaxed);
        let (keys, next) = state::list(&self.view, &self.version.app, prefix, after, limit)?;
        Ok(Keys { keys, next })
    }

    fn write(&mut self, key: &str, op: &Op) -> Result<(), Problem> {
        self.execution.used.writes.fetch_add(1, Ordering::Relaxed);
        let key = state::key(&self.version.app, key)?;
        let written = self.view.write(&key, op);
        written.map_err(|error| state::problem_of(&error))
    }

    fn settled(&mut self) -> Option<BoxFuture<'static, Result<(), Problem>>> {
        let session = Arc::clone(self.view.request());
        if session.is_settled() {
            return None;
        }
        Some(Box::pin(
            async move { crate::request::settled(&session).await },
        ))
    }

    fn call<'a>(&'a mut self, name: &'a str, input: Payload) -> BoxFuture<'a, Called> {
        Box::pin(async move {
            let outcome = self.child(name, input)?.await?;
            self.taken(outcome)
        })
    }

    fn spawn(&mut self, name: &str, input: Payload) -> u32 {
        let call = self.calls_made;
        let max = self.execution.inner.options.limits.calls_pending;
        let run = if self.children.len() >= max {
            // The number is used up, whatever becomes of the call.
            self.calls_made += 1;
            Err(Problem::new(
                Code::Overloaded,
                format!("{max} calls are pending already; wait for some of them first"),
            ))
        } else {
            self.child(name, input)
        };
        let run = match run {
            Ok(run) => tokio::spawn(run),
            Err(problem) => {
                self.calls_made = call + 1;
                tokio::spawn(std::future::ready(Err(problem)))
            }
        };
        self.children.insert(call, Child(run));
        call
    }

    fn wait(&mut self, call: u32) -> BoxFuture<'_, Called> {
        Box::pin(async move {
            let Some(child) = self.children.remove(&call) else {
                let detail = "the result of the call was taken already";
                return Err(Problem::new(Code::BadRequest, detail));
            };
            let outcome = child.ended().await?;
            self.taken(outcome)
        })
    }

    fn cancel(&mut self, call: u32) {
        if let Some(child) = self.children.get(&call) {
            child.0.abort();
        }
    }

    fn enqueue(&mut self, name: &str, input: Payload) -> Result<(), Problem> {
        let message = self.execution.message(&self.version, named(name), input);
        self.messages.push(message.encode());
        Ok(())
    }

    fn recall<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Result<Step, Problem>> {
        Box::pin(async move {
            check_step_name(name)?;
            let begun = self.steps_begun.entry(name.to_owned()).or_default();
            let number = *begun;
            *begun += 1;
            let recorded = self.execution.recall_step(self.step_record(name, number))?;
            Ok(recorded.map_or(Step::Fresh(number), Step::Recorded))
        })
    }

    fn record<'a>(
        &'a mut self,
        name: &'a str,
        number: u32,
        value: Payload,
    ) -> BoxFuture<'a, Result<Payload, Problem>> {
        Box::pin(async move {
            if self
                .steps_begun
                .get(name)
                .is_none_or(|begun| number >= *begun)
            {
                return Err(Problem::new(
                    Code::BadRequest,
                    format!("step {name:?} {number} was not recalled before it was recorded"),
                ));
            }
            self.execution.check_step_value(name, &value)?;
            let id = self.step_record(name, number);
            let before = self.execution.record_step(id, &value).await?;
            Ok(before.unwrap_or(value))
        })
    }
}

/// Where what a run prints goes.
struct Printed {
    execution: Arc<Execution>,
    app: Arc<str>,
    function: Arc<str>,
}

impl Lines for Printed {
    fn line(&self, stream: OutputStream, text: String) {
        self.execution.inner.telemetry.logs.push(LogLine {
            sequence: 0,
            time_us: self.execution.now_us(),
            app: Arc::clone(&self.app),
            function: Arc::clone(&self.function),
            request: self.execution.id.0,
            stream: match stream {
                OutputStream::Stdout => Stream::Stdout,
                OutputStream::Stderr => Stream::Stderr,
            },
            level: None,
            logger: None,
            text,
        });
    }
}
