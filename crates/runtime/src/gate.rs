//! Lets calls in as the scheduler's admission decides, and makes the others wait.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tidemill_lattice::Clock;
use tidemill_problem::{Code, Problem};
use tidemill_scheduler::{
    Admission, AdmissionAction, AdmissionActions, AdmissionEvent, AdmissionPolicy, AdmissionStats,
    FullBound, FunctionId, PolicyError, Ticket,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The number that stands for calls of no function in particular.
const ANY: FunctionId = FunctionId(0);

/// The node's door for calls.
pub(crate) struct Gate {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    admission: Admission,
    waiting: HashMap<Ticket, oneshot::Sender<Result<(), Refused>>>,
    next_ticket: u64,
}

struct Refused {
    full: FullBound,
    retry_after_us: u64,
}

/// Being inside; leaving is dropping it.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    ticket: Ticket,
    /// When it was left, if the clock was looked at for that.
    left_us: Option<u64>,
}

impl Gate {
    pub(crate) fn new(
        policy: AdmissionPolicy,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, PolicyError> {
        let state = State {
            admission: Admission::new(policy)?,
            waiting: HashMap::new(),
            next_ticket: 0,
        };
        Ok(Arc::new(Self {
            clock,
            state: Mutex::new(state),
        }))
    }

    pub(crate) fn stats(&self) -> AdmissionStats {
        self.state.lock().admission.stats()
    }

    /// Waits for room for one more request, which has come at `now_us`.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        now_us: u64,
    ) -> Result<Pass, Problem> {
        self.pass(ANY, None, false, deadline, now_us).await
    }

    /// Waits for room for one more run of a function that limits them.
    pub(crate) async fn enter_function(
        self: &Arc<Self>,
        function: u64,
        max_concurrency: u32,
        deadline: Option<Instant>,
    ) -> Result<Pass, Problem> {
        let (function, limit) = (FunctionId(function), Some(max_concurrency));
        let now_us = self.clock.now_micros();
        self.pass(function, limit, true, deadline, now_us).await
    }

    async fn pass(
        self: &Arc<Self>,
        function: FunctionId,
        max_concurrency: Option<u32>,
        nested: bool,
        deadline: Option<Instant>,
        now_us: u64,
    ) -> Result<Pass, Problem> {
        let mut waiting = {
            let mut state = self.state.lock();
            state.next_ticket += 1;
            let ticket = Ticket(state.next_ticket);
            let event = AdmissionEvent::Request {
                ticket,
                function,
                max_concurrency,
                nested,
                now_us,
            };
            // Mostly there is room, and nothing to wait for.
            match state.handle(event, Some(ticket)) {
                Some(Ok(())) => return Ok(self.inside(ticket)),
                Some(Err(refused)) => return Err(refused.problem()),
                None => {}
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.insert(ticket, sender);
            Waiting {
                gate: self,
                ticket,
                receiver,
                taken: false,
            }
        };
        let answer = match deadline {
            None => (&mut waiting.receiver).await,
            Some(deadline) => tokio::time::timeout_at(deadline, &mut waiting.receiver)
                .await
                .map_err(|_| {
                    Problem::new(
                        Code::TimedOut,
                        "the call's time was over while it waited for its turn",
                    )
                })?,
        };
        match answer {
            Ok(Ok(())) => {
                waiting.taken = true;
                Ok(self.inside(waiting.ticket))
            }
            Ok(Err(refused)) => Err(refused.problem()),
            Err(_) => Err(Problem::new(Code::ShuttingDown, "the node is stopping")),
        }
    }

    fn inside(self: &Arc<Self>, ticket: Ticket) -> Pass {
        Pass {
            gate: Arc::clone(self),
            ticket,
            left_us: None,
        }
    }

    fn leave(&self, ticket: Ticket, left_us: Option<u64>) {
        let now_us = left_us.unwrap_or_else(|| self.clock.now_micros());
        let event = AdmissionEvent::Finished { ticket, now_us };
        self.state.lock().handle(event, None);
    }
}

impl State {
    /// Lets in and refuses as admission decides. The answer for `own`, if it has one already, is
    /// given back.
    fn handle(
        &mut self,
        event: AdmissionEvent,
        own: Option<Ticket>,
    ) -> Option<Result<(), Refused>> {
        let mut answered = None;
        let actions: AdmissionActions = self.admission.handle(event);
        for action in actions {
            let (ticket, answer) = match action {
                AdmissionAction::Admit { ticket } => (ticket, Ok(())),
                AdmissionAction::Refuse {
                    ticket,
                    full,
                    retry_after_us,
                } => (
                    ticket,
                    Err(Refused {
                        full,
                        retry_after_us,
                    }),
                ),
            };
            if Some(ticket) == own {
                answered = Some(answer);
                continue;
            }
            // Whoever went away has left a `Waiting` behind that says so.
            if let Some(sender) = self.waiting.remove(&ticket) {
                let _ = sender.send(answer);
            }
        }
        answered
    }
}

impl Refused {
    fn problem(&self) -> Problem {
        let what = match self.full {
            FullBound::Node => "this node",
            FullBound::Function => "this function",
        };
        let mut problem = Problem::new(
            Code::Overloaded,
            format!("too many calls wait for {what}; try again a little later"),
        );
        problem.retry_after_ms = Some(self.retry_after_us.div_ceil(1000));
        problem
    }
}

impl Pass {
    /// Leaves at a time that is known already.
    pub(crate) fn leave(mut self, now_us: u64) {
        self.left_us = Some(now_us);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(self.ticket, self.left_us);
    }
}

/// A place in the line; leaving it is noticed.
struct Waiting<'a> {
    gate: &'a Arc<Gate>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Result<(), Refused>>,
    taken: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.gate.state.lock();
        if state.waiting.remove(&self.ticket).is_some() {
            let ticket = self.ticket;
            state.handle(AdmissionEvent::GiveUp { ticket }, None);
        } else if let Ok(Ok(())) = self.receiver.try_recv() {
            let now_us = self.gate.clock.now_micros();
            let ticket = self.ticket;
            state.handle(AdmissionEvent::Finished { ticket, now_us }, None);
        }
    }
}
