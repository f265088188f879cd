//! One hand-off: a fragment runs in a worker, which reads state and calls others
//! through here until it is done.

use super::talk::Talk;
use super::trouble::Trouble;
use super::{Execution, Items, Place, component};
use crate::app::{Function, RunsIn, Version};
use crate::worker::{ConnectionError, Lease, NoWorker};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemill_flow::{Fragment, Input, Plan, StepId};
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_scheduler::RefuseReason;
use tidemill_session::{Buffer, View};

/// What a hand-off is about.
pub(super) struct Handoff<'a> {
    pub(super) execution: &'a Arc<Execution>,
    pub(super) version: &'a Arc<Version>,
    pub(super) plan: &'a Plan,
    pub(super) fragment: &'a Fragment,
    /// The functions of the fragment's steps, in their order.
    pub(super) functions: &'a [Arc<Function>],
    pub(super) place: &'a Place,
    /// When it begins, if the clock was looked at just before.
    pub(super) begun_us: Option<u64>,
    pub(super) items: &'a Items,
    pub(super) attempt: u32,
}

/// A hand-off that ended well.
pub(super) struct Ending {
    /// The fragment's outputs; of a generator its items.
    pub(super) outputs: Vec<Payload>,
    pub(super) buffers: Vec<(StepId, Arc<Buffer>)>,
    pub(super) messages: Vec<bytes::Bytes>,
    /// When it was over, if the clock was looked at then.
    pub(super) ended_us: Option<u64>,
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
    /// What a step sees: its place, and what its ancestors wrote, as far as they have ended.
    pub(super) fn view(&self, step: StepId, ended: &BTreeMap<StepId, Arc<Buffer>>) -> View {
        let mut below = self.place.below.clone();
        for ancestor in ancestors(self.plan, step) {
            let buffer = ended.get(&ancestor);
            below.extend(buffer.filter(|buffer| !buffer.is_empty()).cloned());
        }
        self.execution.session().view(below, self.place.tag + step)
    }

    /// Runs the fragment once.
    pub(super) async fn run(
        &self,
        input: &Payload,
        values: &BTreeMap<StepId, Payload>,
        buffers: &BTreeMap<StepId, Arc<Buffer>>,
    ) -> Result<Ending, Failure> {
        // Functions that share a hand-off are run by the same.
        match self.functions.first().map(|function| &function.runs_in) {
            Some(RunsIn::Instances(_)) => component::run(self, input, values, buffers).await,
            Some(RunsIn::Workers(_)) | None => self.run_in_worker(input, values, buffers).await,
        }
    }

    async fn run_in_worker(
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

/// The steps whose results reach this one, in rising order.
pub(super) fn ancestors(plan: &Plan, step: StepId) -> Vec<StepId> {
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
