//! A hand-off to components: its steps run one after the other in this process, each in an
//! instance of its own component, with state a function call away.

mod argument;
mod guest;
mod processor;

use super::handoff::{Again, Ending, Failure, Handoff};
use crate::app::{Function, RunsIn};
use crate::manifest::FunctionKind;
use argument::{argument, of_inputs};
use guest::Guest;
use processor::Timed;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemill_flow::StepId;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_session::Buffer;
use tidemill_telemetry::{SpanId, SpanKind};
use tidemill_wasm::{NoInstance, Platform, Pool};
use tokio::time::Instant;

/// What the steps of a fragment have given so far.
struct Running<'a> {
    handoff: &'a Handoff<'a>,
    span: SpanId,
    values: BTreeMap<StepId, Payload>,
    ended: BTreeMap<StepId, Arc<Buffer>>,
    messages: Vec<bytes::Bytes>,
    /// When the clock was looked at last: a step begins when the one before it has ended.
    now_us: u64,
}

/// Runs the fragment once.
pub(super) async fn run(
    handoff: &Handoff<'_>,
    input: &Payload,
    values: &BTreeMap<StepId, Payload>,
    buffers: &BTreeMap<StepId, Arc<Buffer>>,
) -> Result<Ending, Failure> {
    let execution = handoff.execution;
    let start_us = handoff.begun_us.unwrap_or_else(|| execution.now_us());
    let mut running = Running {
        handoff,
        span: execution.span_id(),
        values: values.clone(),
        ended: buffers.clone(),
        messages: Vec::new(),
        now_us: start_us,
    };
    let ran = running.steps(input).await;
    let code = ran.as_ref().err().map(|failure| failure.problem.code);
    execution.span_of(
        SpanKind::Handoff,
        &execution.inner.names.handoff,
        running.span,
        Some(handoff.place.span),
        (start_us, running.now_us),
        code,
    );
    ran?;
    running.ending()
}

impl Running<'_> {
    async fn steps(&mut self, input: &Payload) -> Result<(), Failure> {
        let (steps, functions) = (&self.handoff.fragment.steps, self.handoff.functions);
        for (id, function) in steps.iter().zip(functions) {
            let execution = self.handoff.execution;
            let (span, start_us) = (execution.span_id(), self.now_us);
            let ran = match self.given(*id, function, input) {
                Ok(given) => self.step(*id, function, span, given).await,
                Err(problem) => Err(Failure {
                    problem,
                    again: Again::Never,
                }),
            };
            let code = ran.as_ref().err().map(|failure| failure.problem.code);
            if code.is_none() {
                let run_us = self.now_us.saturating_sub(start_us);
                self.handoff.version.observe(function, run_us);
            } else {
                self.now_us = execution.now_us();
            }
            let (parent, times_us) = (Some(self.span), (start_us, self.now_us));
            execution.span_of(SpanKind::Step, &function.name, span, parent, times_us, code);
            ran?;
        }
        Ok(())
    }

    /// The argument of a step: of the whole call, or what earlier steps gave.
    fn given(&self, id: StepId, function: &Function, input: &Payload) -> Result<Payload, Problem> {
        let step = self.handoff.plan.step(id);
        let step = step.ok_or_else(|| internal("a step that is not in its plan"))?;
        let given: Option<Vec<&Payload>> = step
            .sources()
            .map(|source| self.values.get(&source))
            .collect();
        let given = given.ok_or_else(|| internal("an input that has not run"))?;
        if function.spec.kind == FunctionKind::Http {
            return Ok(given.first().map_or(input, |first| *first).clone());
        }
        if step.takes_call() {
            return argument(given.first().map_or(input, |first| *first));
        }
        of_inputs(&given)
    }

    async fn step(
        &mut self,
        id: StepId,
        function: &Arc<Function>,
        span: SpanId,
        given: Payload,
    ) -> Result<(), Failure> {
        let execution = self.handoff.execution;
        let own = Instant::now() + Duration::from_millis(function.spec.timeout_ms);
        let deadline = execution.deadline.map_or(own, |whole| whole.min(own));
        let begun = (span, self.now_us);
        let guest = Guest::new(self.handoff, id, function, begun, &self.ended, deadline);
        let now_us = || execution.now_us();
        let processor_us = &execution.used.cpu_us;
        let running = Timed::new(now_us, processor_us, run_step(guest, function, given))
            .looked_at(self.now_us, |ran| Some(ran.as_ref().ok()?.1.ended_us));
        let Ok(ran) = tokio::time::timeout_at(deadline, running).await else {
            return Err(Failure {
                problem: late(function, execution.deadline),
                again: Again::Never,
            });
        };
        let (value, done) = ran?;
        self.now_us = done.ended_us;
        let limit = execution.inner.options.limits.payload_bytes;
        if value.body.len() > limit {
            return Err(Failure {
                problem: Problem::new(
                    Code::PayloadTooLarge,
                    format!(
                        "the result of {} takes {} bytes, more than {limit}",
                        function.name,
                        value.body.len()
                    ),
                ),
                again: Again::Never,
            });
        }
        self.values.insert(id, value);
        self.ended.insert(id, done.buffer);
        self.messages.extend(done.messages);
        Ok(())
    }

    fn ending(mut self) -> Result<Ending, Failure> {
        let fragment = self.handoff.fragment;
        let outputs: Option<Vec<Payload>> = fragment
            .outputs
            .iter()
            .map(|id| self.values.remove(id))
            .collect();
        let outputs = outputs.ok_or_else(|| Failure {
            problem: internal("an output that has not run"),
            again: Again::Never,
        })?;
        let buffers = fragment.steps.iter();
        let buffers = buffers.filter_map(|id| Some((*id, self.ended.remove(id)?)));
        Ok(Ending {
            ended_us: Some(self.now_us),
            outputs,
            buffers: buffers.collect(),
            messages: self.messages,
        })
    }
}

/// Runs one step in an instance of its component, and takes the instance back.
async fn run_step(
    guest: Guest,
    function: &Arc<Function>,
    given: Payload,
) -> Result<(Payload, guest::Done), Failure> {
    let RunsIn::Instances(pool) = &function.runs_in else {
        return Err(Failure {
            problem: internal("a component's hand-off with a function of a process"),
            again: Again::Never,
        });
    };
    let begun_us = guest.begun_us();
    let mut lease = acquire(pool, function, begun_us).await?;
    let Some(instance) = lease.instance() else {
        return Err(Failure {
            problem: internal("a lease without an instance"),
            again: Again::Never,
        });
    };
    let (platform, called) = instance.call(Box::new(guest), given).await;
    let bytes = instance.memory_bytes() as u64;
    let guest = platform.and_then(own_guest);
    let now_us = guest.as_ref().map_or(begun_us, |guest| guest.now_us());
    lease.give_back(now_us);
    let Some(guest) = guest else {
        return Err(Failure {
            problem: internal("an instance that kept its platform"),
            again: Again::Never,
        });
    };
    guest.meter(bytes, now_us);
    match called {
        // The writes of children that nobody waited for join, too.
        Ok(value) => match guest.finish(now_us).await {
            Ok(done) => Ok((value, done)),
            Err(problem) => Err(Failure {
                problem,
                again: Again::Never,
            }),
        },
        Err(failure) => {
            let again = match failure {
                tidemill_wasm::Failure::Full => Again::Never,
                _ => Again::AsRetries,
            };
            Err(Failure {
                problem: failure.into_problem(&function.name),
                again,
            })
        }
    }
}

fn own_guest(platform: Box<dyn Platform>) -> Option<Box<Guest>> {
    let any: Box<dyn Any> = platform;
    any.downcast().ok()
}

async fn acquire(
    pool: &Arc<Pool>,
    function: &Function,
    now_us: u64,
) -> Result<tidemill_wasm::Lease, Failure> {
    let acquired = pool.acquire(function.spec.fresh, now_us).await;
    acquired.map_err(|reason| {
        let problem = match reason {
            NoInstance::Component(error) => Problem::new(
                Code::LoadFailed,
                format!(
                    "the component of {} cannot be loaded: {error}",
                    function.name
                ),
            ),
            NoInstance::Start(failure) => failure.into_problem(&function.name),
        };
        Failure {
            problem,
            again: Again::Never,
        }
    })
}

fn late(function: &Function, whole: Option<Instant>) -> Problem {
    let name = &function.name;
    let detail = if whole.is_some_and(|whole| Instant::now() >= whole) {
        format!("{name} was still running when the caller's time was over")
    } else {
        format!(
            "{name} ran longer than its timeout of {} ms; give it more with timeout",
            function.spec.timeout_ms
        )
    };
    Problem::new(Code::TimedOut, detail)
}

fn internal(what: &str) -> Problem {
    Problem::new(Code::Internal, format!("{what}; please report this"))
}
