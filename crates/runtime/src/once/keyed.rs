//! Calls with a key: answered by a record, joined with a run on its way, or run and recorded.

use super::answered::{Answered, Outputs};
use super::identity::{Identity, expired};
use super::inflight::{Arrival, InFlight};
use crate::execute::Execution;
use crate::inner::Inner;
use crate::level::Promise;
use crate::{Answer, Call, RequestId, Runtime};
use std::sync::Arc;
use tidemill_lattice::Time;
use tidemill_problem::{Code, Problem};
use tidemill_store::{Durability, RecordedRequest};
use tidemill_telemetry::TraceContext;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// When to ask again for a request that is on its way.
const RETRY_AFTER_MS: u64 = 1000;

/// How a request with a key ended, for all who wait for it.
#[derive(Clone, Debug)]
pub(crate) struct Landed {
    pub(crate) trace: TraceContext,
    /// The greatest time that it has seen, its own commit's included.
    pub(crate) seen: Time,
    pub(crate) result: Result<Outputs, Problem>,
}

/// A run, as those who wait for it have it.
#[derive(Clone)]
pub(crate) struct Flight {
    landed: watch::Receiver<Option<Landed>>,
    /// Rung when the last one of them has left.
    unwanted: Arc<Notify>,
}

/// The requests with a key that are on their way.
pub(crate) type Flights = InFlight<Flight>;

/// A run with a key. Its end is told to all who wait, also if it is dropped.
pub(crate) struct Run {
    inner: Arc<Inner>,
    pub(crate) identity: Identity,
    number: u64,
    landed: watch::Sender<Option<Landed>>,
    unwanted: Arc<Notify>,
}

impl Run {
    /// It goes on from here whether anybody waits or not: it is about to commit.
    pub(crate) fn detach(&self) {
        let mut flights = self.inner.in_flight.lock();
        flights.detach(self.identity.id.0, self.number);
    }

    /// Its items leave as they come, to the first caller only.
    fn close(&self) {
        let mut flights = self.inner.in_flight.lock();
        flights.close(self.identity.id.0, self.number);
    }

    /// Until nobody waits for it any more.
    pub(crate) async fn unwanted(&self) {
        self.unwanted.notified().await;
    }

    pub(crate) fn end(self, landed: Landed) {
        // Whoever asks once this is told finds what is recorded, and nobody to join.
        self.leave();
        self.landed.send_replace(Some(landed));
    }

    fn leave(&self) {
        let mut flights = self.inner.in_flight.lock();
        flights.end(self.identity.id.0, self.number);
    }
}

impl Drop for Run {
    // Those who wait find no sender if nothing was sent.
    fn drop(&mut self) {
        self.leave();
    }
}

/// Somebody who waits for a run.
struct Seat {
    inner: Arc<Inner>,
    id: RequestId,
    number: u64,
    flight: Flight,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let unwanted = self.inner.in_flight.lock().leave(self.id.0, self.number);
        if unwanted {
            self.flight.unwanted.notify_one();
        }
    }
}

impl Seat {
    /// The end of the run, or why it was not waited for.
    async fn wait(mut self, until: Option<Instant>) -> Option<Landed> {
        let landed = async {
            let found = self.flight.landed.wait_for(Option::is_some).await;
            found.ok().and_then(|landed| landed.clone())
        };
        match until {
            None => landed.await,
            Some(until) => tokio::time::timeout_at(until, landed).await.ok().flatten(),
        }
    }

    fn detach(self) {
        let mut flights = self.inner.in_flight.lock();
        flights.detach(self.id.0, self.number);
        drop(flights);
    }
}

fn in_flight(detail: &str) -> Problem {
    let mut problem = Problem::new(Code::RequestInFlight, detail);
    problem.retry_after_ms = Some(RETRY_AFTER_MS);
    problem
}

fn different() -> Problem {
    Problem::new(
        Code::RequestMismatch,
        "the idempotency key was used before, for a call with other arguments; use a key of its \
         own for each call, and the same arguments for each retry",
    )
}

/// What a call is told whose request has taken effect before.
///
/// # Errors
/// `request-mismatch` for other arguments, `request-expired` where the result is gone.
pub(crate) fn repeat(recorded: RecordedRequest, digest: u128) -> Result<Answered, Problem> {
    let answer = recorded.answer.ok_or_else(expired)?;
    if answer.digest != digest {
        return Err(different());
    }
    Answered::decode(answer.result)
        .ok_or_else(|| Problem::new(Code::Internal, "a record that can not be read"))
}

enum Found {
    First(Run, Seat),
    Joined(Seat),
    Refused(Problem),
}

impl Inner {
    fn board(self: &Arc<Self>, identity: Identity) -> Found {
        let mut sender = None;
        let make = || {
            let (made, landed) = watch::channel(None);
            sender = Some(made);
            let unwanted = Arc::default();
            Flight { landed, unwanted }
        };
        let id = identity.id;
        let arrival = self.in_flight.lock().arrive(id.0, identity.digest, make);
        let seat = |number, flight| Seat {
            inner: Arc::clone(self),
            id,
            number,
            flight,
        };
        match (arrival, sender) {
            (Arrival::First(number, flight), Some(landed)) => {
                let run = Run {
                    inner: Arc::clone(self),
                    identity,
                    number,
                    landed,
                    unwanted: Arc::clone(&flight.unwanted),
                };
                Found::First(run, seat(number, flight))
            }
            (Arrival::First(number, flight) | Arrival::Joined(number, flight), _) => {
                Found::Joined(seat(number, flight))
            }
            (Arrival::Closed, _) => Found::Refused(in_flight(
                "the request is running and its items go to whoever asked first; ask again when \
                 it has ended",
            )),
            (Arrival::Different, _) => Found::Refused(different()),
        }
    }

    /// How a request has ended, if it has taken effect. `trace` is for one that can not be told.
    fn look_up(&self, identity: &Identity, trace: TraceContext) -> Option<Landed> {
        let mut seen = Time::ZERO;
        let found = match self.store.request(identity.id.0) {
            Ok(None) => return None,
            Ok(Some(recorded)) => {
                seen = recorded.time;
                repeat(recorded, identity.digest)
            }
            Err(error) => Err(crate::state::store_problem(&error)),
        };
        let ran = found.as_ref().ok().and_then(Answered::trace);
        Some(Landed {
            trace: ran.unwrap_or(trace),
            seen,
            result: found.map(|answered| answered.outputs),
        })
    }

    /// Makes what a request did as safe as a call wants it that is answered by it: the one that ran
    /// may have asked for less.
    async fn kept(self: &Arc<Self>, call: &Call, landed: Landed) -> Landed {
        let promise = self.promise_of(call);
        let wants = promise.unwrap_or_else(|| Promise::own(&self.options));
        let (seen, is_done) = (landed.seen, landed.result.is_ok());
        if !is_done || wants.durability == Durability::Memory || self.store.is_kept(seen) {
            return landed;
        }
        let store = Arc::clone(&self.store);
        let problem = match tokio::task::spawn_blocking(move || store.keep(seen)).await {
            Ok(Ok(())) => return landed,
            Ok(Err(error)) => crate::state::store_problem(&error),
            Err(_) => Problem::new(Code::Internal, "keeping a result ended in a panic"),
        };
        Landed {
            result: Err(problem),
            ..landed
        }
    }

    /// The record of a request, whatever it was asked.
    pub(crate) fn answered(&self, id: RequestId) -> Option<Answered> {
        let recorded = self.store.request(id.0).ok()??;
        Answered::decode(recorded.answer?.result)
    }
}

impl Runtime {
    /// A call with a key.
    pub(crate) async fn call_keyed(&self, mut call: Call, identity: Identity) -> Answer {
        let inner = &self.inner;
        let until = call.timeout.map(|timeout| Instant::now() + timeout);
        let execution = Execution::new(inner, &mut call, Some(identity.id));
        let trace = execution.trace;
        let seen = Arc::clone(&execution);
        let failed = |problem| Answer {
            request: identity.id,
            trace,
            is_repeated: false,
            session: seen.session_seen(),
            result: Err(problem),
        };
        let answer = |landed: Landed, is_repeated| {
            seen.has_seen(landed.seen);
            let session = seen.session_seen();
            Answer {
                request: identity.id,
                trace: landed.trace,
                is_repeated: is_repeated && landed.result.is_ok(),
                session: session.clone(),
                result: landed.result.and_then(|outputs| outputs.output(session)),
            }
        };
        if let Err(problem) = inner.admit_session(&execution, &call) {
            return failed(problem);
        }
        let (run, seat) = match inner.board(identity) {
            Found::First(run, seat) => (run, seat),
            Found::Refused(problem) => return failed(problem),
            Found::Joined(seat) => {
                return match seat.wait(until).await {
                    Some(landed) => answer(inner.kept(&call, landed).await, true),
                    None => failed(in_flight(
                        "the request is still running for whoever asked first",
                    )),
                };
            }
        };
        if let Some(landed) = inner.look_up(&identity, trace) {
            run.end(landed.clone());
            return answer(inner.kept(&call, landed).await, true);
        }
        let admission = match inner.admit(execution, call, None, Some(identity)) {
            Ok(admission) => admission,
            Err(problem) => {
                run.end(Landed {
                    trace,
                    seen: Time::ZERO,
                    result: Err(problem.clone()),
                });
                return failed(problem);
            }
        };
        if admission.is_stream() {
            run.close();
            return Answer {
                request: identity.id,
                trace,
                is_repeated: false,
                session: seen.session_seen(),
                result: Ok(admission.stream(Some(run))),
            };
        }
        tokio::spawn(admission.land(run, false));
        match seat.wait(None).await {
            Some(landed) => answer(landed, false),
            None => failed(Problem::new(
                Code::Internal,
                "the request ended without saying how; please report this",
            )),
        }
    }

    /// The same for a call that nobody waits for.
    pub(crate) fn submit_keyed(
        &self,
        mut call: Call,
        identity: Identity,
    ) -> Result<RequestId, Problem> {
        let inner = &self.inner;
        let (run, seat) = match inner.board(identity) {
            Found::First(run, seat) => (run, seat),
            Found::Refused(problem) => return Err(problem),
            Found::Joined(seat) => {
                seat.detach();
                return Ok(identity.id);
            }
        };
        let execution = Execution::new(inner, &mut call, Some(identity.id));
        if let Some(landed) = inner.look_up(&identity, execution.trace) {
            run.end(landed.clone());
            return landed.result.map(|_| identity.id);
        }
        let trace = execution.trace;
        let admission = match inner.admit(execution, call, None, Some(identity)) {
            Ok(admission) => admission,
            Err(problem) => {
                run.end(Landed {
                    trace,
                    seen: Time::ZERO,
                    result: Err(problem.clone()),
                });
                return Err(problem);
            }
        };
        run.detach();
        drop(seat);
        tokio::spawn(admission.land(run, true));
        Ok(identity.id)
    }
}
