//! Whether a node takes a call: now, later in turn, or not at all.
//!
//! A call needs room at the node and room at its function, if that has a limit of its
//! own. Calls wait in order of arrival; one that waits for its function holds up nobody
//! who does not, so among those that could run the earliest does. Waiting is bounded, for
//! the node and for each function, and whoever is refused is told when to try again.
//!
//! Nested calls need room at their function only: their request is in the node already,
//! and were they to wait behind new requests, those inside could wait for ever. They have
//! a bound on waiting of their own. A function with a limit that calls itself, directly
//! or not, can still wait for itself; the request's deadline ends that, by `GiveUp`.
//!
//! It must not know what a call is, or who runs it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{Observed, PolicyError, Ticket};

/// The bounds of [`AdmissionAction::Refuse`]'s hint, in microseconds.
const RETRY_AFTER_US: std::ops::RangeInclusive<u64> = 100_000..=30_000_000;

/// A function, by a number of the caller's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FunctionId(pub u64);

/// The bounds of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionPolicy {
    /// How many requests may be in the node at once. Nested calls do not count.
    pub max_in_flight: usize,
    /// How many requests may wait, and as many nested calls. With 0, who cannot run at
    /// once is refused.
    pub max_waiting: usize,
    /// How many of those may wait for one function, so that a slow one leaves room to others.
    pub max_waiting_per_function: usize,
}

impl Default for AdmissionPolicy {
    fn default() -> Self {
        Self {
            max_in_flight: 1_024,
            max_waiting: 4_096,
            max_waiting_per_function: 1_024,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionEvent {
    /// A call wants to run.
    Request {
        /// Who.
        ticket: Ticket,
        /// What it calls.
        function: FunctionId,
        /// How many calls of the function may run at once, `None` for no limit, 0 counting
        /// as 1. The last one said holds.
        max_concurrency: Option<u32>,
        /// Whether a call that is running here waits for it.
        nested: bool,
        /// The time, in microseconds.
        now_us: u64,
    },
    /// An admitted call has ended, whatever the result.
    Finished {
        /// Who.
        ticket: Ticket,
        /// The time, in microseconds.
        now_us: u64,
    },
    /// Who waited went away. An admitted call stays until `Finished`.
    GiveUp {
        /// Who.
        ticket: Ticket,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionAction {
    /// Run it; `Finished` is to follow.
    Admit {
        /// Who.
        ticket: Ticket,
    },
    /// Answer that there is no room.
    Refuse {
        /// Who.
        ticket: Ticket,
        /// What there is no room in.
        full: FullBound,
        /// When there may be, in microseconds from now: a guess from how long calls take
        /// and how many wait.
        retry_after_us: u64,
    },
}

/// The bound that a refused call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullBound {
    /// Too many wait at the node.
    Node,
    /// Too many wait for this function.
    Function,
}

/// What is to be done, in order.
pub type AdmissionActions = SmallVec<[AdmissionAction; 2]>;

/// How full a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionStats {
    /// Requests that run.
    pub in_flight: usize,
    /// Nested calls that run.
    pub nested_in_flight: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Nested calls that wait.
    pub nested_waiting: usize,
}

/// The state of one node's admission.
#[derive(Debug)]
pub struct Admission {
    policy: AdmissionPolicy,
    /// Only functions that have calls here.
    functions: BTreeMap<FunctionId, Function>,
    running: BTreeMap<Ticket, Call>,
    waiting: BTreeMap<Ticket, Call>,
    requests: Lane,
    nested: Lane,
    next_arrival: u64,
    run_time: Observed,
    now_us: u64,
}

/// Requests or nested calls: the two that wait apart.
#[derive(Debug, Default)]
struct Lane {
    running: usize,
    waiting: usize,
    /// The first in line of each function that has room, by arrival.
    heads: BTreeMap<u64, FunctionId>,
}

#[derive(Debug, Default)]
struct Function {
    limit: Option<usize>,
    running: usize,
    requests: VecDeque<(u64, Ticket)>,
    nested: VecDeque<(u64, Ticket)>,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    function: FunctionId,
    nested: bool,
    /// When it was admitted, or came, in microseconds.
    since_us: u64,
}

impl Function {
    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.running < limit)
    }

    fn line(&mut self, nested: bool) -> &mut VecDeque<(u64, Ticket)> {
        if nested {
            &mut self.nested
        } else {
            &mut self.requests
        }
    }

    fn is_unused(&self) -> bool {
        self.running == 0 && self.requests.is_empty() && self.nested.is_empty()
    }
}

impl Admission {
    /// A node that is empty.
    ///
    /// # Errors
    /// [`PolicyError`] if nothing could ever be admitted.
    pub fn new(policy: AdmissionPolicy) -> Result<Self, PolicyError> {
        if policy.max_in_flight == 0 {
            return Err(PolicyError::Zero {
                option: "max_in_flight",
            });
        }
        Ok(Self {
            policy,
            functions: BTreeMap::new(),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            requests: Lane::default(),
            nested: Lane::default(),
            next_arrival: 0,
            run_time: Observed::new(),
            now_us: 0,
        })
    }

    /// Takes an event in; the answer is what to do now. Events that do not fit (a ticket
    /// that is here already, or is not) change nothing.
    pub fn handle(&mut self, event: AdmissionEvent) -> AdmissionActions {
        let mut actions = AdmissionActions::new();
        match event {
            AdmissionEvent::Request {
                ticket,
                function,
                max_concurrency,
                nested,
                now_us,
            } => {
                self.now_us = self.now_us.max(now_us);
                if self.running.contains_key(&ticket) || self.waiting.contains_key(&ticket) {
                    return actions;
                }
                let limit = max_concurrency.map(|limit| limit.max(1) as usize);
                let call = Call {
                    function,
                    nested,
                    since_us: self.now_us,
                };
                if self.walks_in(ticket, call, limit) {
                    actions.push(AdmissionAction::Admit { ticket });
                    return actions;
                }
                self.line_up(ticket, call, limit);
                self.admit(&mut actions);
                self.refuse_if_full(ticket, call, &mut actions);
            }
            AdmissionEvent::Finished { ticket, now_us } => {
                self.now_us = self.now_us.max(now_us);
                self.finish(ticket);
                self.admit(&mut actions);
            }
            AdmissionEvent::GiveUp { ticket } => self.leave_line(ticket),
        }
        actions
    }

    /// The bounds that the node keeps.
    #[must_use]
    pub fn policy(&self) -> &AdmissionPolicy {
        &self.policy
    }

    /// How full the node is.
    #[must_use]
    pub fn stats(&self) -> AdmissionStats {
        AdmissionStats {
            in_flight: self.requests.running,
            nested_in_flight: self.nested.running,
            waiting: self.requests.waiting,
            nested_waiting: self.nested.waiting,
        }
    }

    /// How many calls of a function run.
    #[must_use]
    pub fn running(&self, function: FunctionId) -> usize {
        self.functions
            .get(&function)
            .map_or(0, |function| function.running)
    }

    fn lane(&mut self, nested: bool) -> &mut Lane {
        if nested {
            &mut self.nested
        } else {
            &mut self.requests
        }
    }

    /// Admits a call that has nobody before it and room: what lining up would come to, without
    /// the lines. Whoever waits elsewhere has no room, else it would not wait.
    fn walks_in(&mut self, ticket: Ticket, call: Call, limit: Option<usize>) -> bool {
        if !call.nested && self.requests.running >= self.policy.max_in_flight {
            return false;
        }
        let function = self.functions.entry(call.function).or_default();
        // A limit that has been raised lets in those who wait for it first.
        if !function.requests.is_empty() || !function.nested.is_empty() {
            return false;
        }
        function.limit = limit;
        if !function.has_room() {
            return false;
        }
        function.running += 1;
        self.running.insert(ticket, call);
        self.lane(call.nested).running += 1;
        true
    }

    fn line_up(&mut self, ticket: Ticket, call: Call, limit: Option<usize>) {
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let function = self.functions.entry(call.function).or_default();
        function.limit = limit;
        function.line(call.nested).push_back((arrival, ticket));
        self.waiting.insert(ticket, call);
        self.lane(call.nested).waiting += 1;
        self.refresh(call.function);
    }

    fn leave_line(&mut self, ticket: Ticket) {
        let Some(call) = self.waiting.remove(&ticket) else {
            return;
        };
        self.lane(call.nested).waiting -= 1;
        let Some(function) = self.functions.get_mut(&call.function) else {
            return;
        };
        let line = function.line(call.nested);
        let Some(place) = line.iter().position(|(_, other)| *other == ticket) else {
            return;
        };
        if let Some((arrival, _)) = line.remove(place) {
            self.lane(call.nested).heads.remove(&arrival);
        }
        self.refresh(call.function);
    }

    fn finish(&mut self, ticket: Ticket) {
        let Some(call) = self.running.remove(&ticket) else {
            return;
        };
        self.run_time
            .record(self.now_us.saturating_sub(call.since_us), u64::MAX);
        self.lane(call.nested).running -= 1;
        if let Some(function) = self.functions.get_mut(&call.function) {
            function.running -= 1;
        }
        self.refresh(call.function);
    }

    /// Brings the lanes' heads up to date with one function, and forgets one without calls.
    fn refresh(&mut self, id: FunctionId) {
        let Some(function) = self.functions.get(&id) else {
            return;
        };
        let has_room = function.has_room();
        let lines = [
            (&mut self.requests, function.requests.front()),
            (&mut self.nested, function.nested.front()),
        ];
        for (lane, front) in lines {
            match front {
                Some((arrival, _)) if has_room => {
                    lane.heads.insert(*arrival, id);
                }
                Some((arrival, _)) => {
                    lane.heads.remove(arrival);
                }
                None => {}
            }
        }
        if function.is_unused() {
            self.functions.remove(&id);
        }
    }

    /// Admits all that can be, the earliest first.
    fn admit(&mut self, actions: &mut AdmissionActions) {
        while let Some((arrival, id, nested)) = self.earliest() {
            self.lane(nested).heads.remove(&arrival);
            let Some(function) = self.functions.get_mut(&id) else {
                continue;
            };
            let Some((_, ticket)) = function.line(nested).pop_front() else {
                continue;
            };
            function.running += 1;
            self.waiting.remove(&ticket);
            self.running.insert(
                ticket,
                Call {
                    function: id,
                    nested,
                    since_us: self.now_us,
                },
            );
            let lane = self.lane(nested);
            lane.waiting -= 1;
            lane.running += 1;
            self.refresh(id);
            actions.push(AdmissionAction::Admit { ticket });
        }
    }

    /// The earliest call that has room, and whether it is nested.
    fn earliest(&self) -> Option<(u64, FunctionId, bool)> {
        let first = |lane: &Lane| lane.heads.first_key_value().map(|(at, id)| (*at, *id));
        let has_room = self.requests.running < self.policy.max_in_flight;
        let request = first(&self.requests)
            .filter(|_| has_room)
            .map(|(at, id)| (at, id, false));
        let nested = first(&self.nested).map(|(at, id)| (at, id, true));
        request.into_iter().chain(nested).min()
    }

    /// Refuses a call that has just lined up, was not admitted, and is one too many.
    fn refuse_if_full(&mut self, ticket: Ticket, call: Call, actions: &mut AdmissionActions) {
        if !self.waiting.contains_key(&ticket) {
            return;
        }
        let max_in_flight = self.policy.max_in_flight;
        let Some(function) = self.functions.get_mut(&call.function) else {
            return;
        };
        let slots = function.limit.unwrap_or(max_in_flight).min(max_in_flight);
        let in_line = function.line(call.nested).len();
        let waiting = self.lane(call.nested).waiting;
        let (full, ahead, slots) = if in_line > self.policy.max_waiting_per_function {
            (FullBound::Function, in_line, slots)
        } else if waiting > self.policy.max_waiting {
            (FullBound::Node, waiting, max_in_flight)
        } else {
            return;
        };
        self.leave_line(ticket);
        let retry_after_us = self.retry_after_us(ahead, slots);
        actions.push(AdmissionAction::Refuse {
            ticket,
            full,
            retry_after_us,
        });
    }

    /// How long `ahead` calls take that run `slots` at a time.
    fn retry_after_us(&self, ahead: usize, slots: usize) -> u64 {
        let mean_us = u128::from(self.run_time.mean_us().unwrap_or(0));
        let guess_us = mean_us * ahead as u128 / slots.max(1) as u128;
        let (low, high) = RETRY_AFTER_US.into_inner();
        u64::try_from(guess_us).unwrap_or(high).clamp(low, high)
    }
}
