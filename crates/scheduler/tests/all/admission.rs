//! Admission: situations, and random events against a plain model.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tidemill_scheduler::{
    Admission, AdmissionAction, AdmissionEvent, AdmissionPolicy, FullBound, FunctionId, Ticket,
};

fn node(max_in_flight: usize, max_waiting: usize) -> Admission {
    let policy = AdmissionPolicy {
        max_in_flight,
        max_waiting,
        ..AdmissionPolicy::default()
    };
    Admission::new(policy).unwrap()
}

fn request(ticket: u64, function: u64, limit: Option<u32>) -> AdmissionEvent {
    AdmissionEvent::Request {
        ticket: Ticket(ticket),
        function: FunctionId(function),
        max_concurrency: limit,
        nested: false,
        now_us: 0,
    }
}

fn nested(ticket: u64, function: u64, limit: Option<u32>) -> AdmissionEvent {
    AdmissionEvent::Request {
        ticket: Ticket(ticket),
        function: FunctionId(function),
        max_concurrency: limit,
        nested: true,
        now_us: 0,
    }
}

fn finished(ticket: u64, now_us: u64) -> AdmissionEvent {
    AdmissionEvent::Finished {
        ticket: Ticket(ticket),
        now_us,
    }
}

fn admitted(node: &mut Admission, event: AdmissionEvent) -> Vec<u64> {
    let admit = |action: AdmissionAction| match action {
        AdmissionAction::Admit { ticket } => ticket.0,
        AdmissionAction::Refuse { .. } => panic!("{action:?}"),
    };
    node.handle(event).into_iter().map(admit).collect()
}

#[test]
fn calls_wait_in_order_of_arrival() {
    let mut node = node(1, 10);
    assert_eq!(admitted(&mut node, request(1, 1, None)), [1]);
    assert!(admitted(&mut node, request(2, 2, None)).is_empty());
    assert!(admitted(&mut node, request(3, 1, None)).is_empty());
    assert_eq!(admitted(&mut node, finished(1, 5)), [2]);
    assert!(
        admitted(&mut node, finished(1, 5)).is_empty(),
        "finished twice counts once"
    );
    assert_eq!(admitted(&mut node, finished(2, 5)), [3]);
}

#[test]
fn who_waits_for_a_function_holds_up_nobody_else() {
    let mut node = node(3, 10);
    assert_eq!(admitted(&mut node, request(1, 1, Some(1))), [1]);
    assert!(admitted(&mut node, request(2, 1, Some(1))).is_empty());
    assert_eq!(admitted(&mut node, request(3, 2, None)), [3]);
    assert_eq!(node.running(FunctionId(1)), 1);
    assert_eq!(admitted(&mut node, finished(1, 5)), [2]);
}

#[test]
fn nested_calls_pass_a_full_node_but_not_a_full_function() {
    let mut node = node(1, 10);
    assert_eq!(admitted(&mut node, request(1, 1, None)), [1]);
    assert!(admitted(&mut node, request(2, 2, Some(1))).is_empty());
    assert_eq!(admitted(&mut node, nested(3, 2, Some(1))), [3]);
    assert!(admitted(&mut node, nested(4, 2, Some(1))).is_empty());
    assert_eq!(admitted(&mut node, finished(3, 5)), [4]);
    assert_eq!(admitted(&mut node, finished(4, 5)), [] as [u64; 0]);
    assert_eq!(admitted(&mut node, finished(1, 5)), [2]);
}

#[test]
fn a_refusal_says_why_and_when_to_come_back() {
    let policy = AdmissionPolicy {
        max_in_flight: 2,
        max_waiting: 3,
        max_waiting_per_function: 1,
    };
    let mut node = Admission::new(policy).unwrap();
    // One call of 4 s has been seen.
    node.handle(request(1, 1, None));
    node.handle(finished(1, 4_000_000));
    node.handle(request(2, 1, Some(1)));
    node.handle(request(3, 1, Some(1)));
    let refused = node.handle(request(4, 1, Some(1)));
    let expected = AdmissionAction::Refuse {
        ticket: Ticket(4),
        full: FullBound::Function,
        retry_after_us: 8_000_000,
    };
    assert_eq!(refused[..], [expected]);
    node.handle(request(5, 5, None));
    node.handle(request(6, 6, None));
    node.handle(request(7, 7, None));
    let refused = node.handle(request(8, 8, None));
    let expected = AdmissionAction::Refuse {
        ticket: Ticket(8),
        full: FullBound::Node,
        retry_after_us: 8_000_000,
    };
    assert_eq!(refused[..], [expected]);
    assert_eq!(node.stats().waiting, 3);
}

#[test]
fn who_gives_up_leaves_its_place() {
    let mut node = node(1, 2);
    node.handle(request(1, 1, None));
    node.handle(request(2, 1, None));
    node.handle(request(3, 1, None));
    node.handle(AdmissionEvent::GiveUp { ticket: Ticket(2) });
    node.handle(AdmissionEvent::GiveUp { ticket: Ticket(1) });
    assert_eq!(
        node.stats().in_flight,
        1,
        "who runs stays until it is finished"
    );
    assert_eq!(admitted(&mut node, finished(1, 5)), [3]);
}

#[test]
fn a_raised_limit_lets_those_in_who_waited_for_it() {
    let mut node = node(10, 10);
    node.handle(request(1, 1, Some(1)));
    node.handle(request(2, 1, Some(1)));
    node.handle(request(3, 1, Some(1)));
    assert_eq!(admitted(&mut node, request(4, 1, Some(3))), [2, 3]);
}

#[test]
fn a_node_that_admits_nobody_is_refused() {
    let policy = AdmissionPolicy {
        max_in_flight: 0,
        ..AdmissionPolicy::default()
    };
    assert!(
        Admission::new(policy)
            .unwrap_err()
            .to_string()
            .starts_with("max_in_flight is 0")
    );
}

#[derive(Clone, Debug)]
enum Op {
    Request { function: u64, nested: bool },
    Finish(Index),
    GiveUp(Index),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => (0..4_u64, prop::bool::weighted(0.3))
            .prop_map(|(function, nested)| Op::Request { function, nested }),
        4 => any::<Index>().prop_map(Op::Finish),
        1 => any::<Index>().prop_map(Op::GiveUp),
    ];
    vec(op, 1..200)
}

/// Function 0 has no limit; function n may run n at a time.
fn limit(function: u64) -> Option<u32> {
    (function > 0).then(|| u32::try_from(function).unwrap())
}

/// What admission should do, said in the plainest way: look through all that wait, from the
/// earliest, again and again.
#[derive(Default)]
struct Model {
    waiting: Vec<(Ticket, u64, bool)>,
    running: BTreeMap<Ticket, (u64, bool)>,
}

impl Model {
    fn next(&self, policy: &AdmissionPolicy) -> Option<usize> {
        let in_flight = self.running.values().filter(|(_, nested)| !nested).count();
        self.waiting.iter().position(|(_, function, nested)| {
            let running = self
                .running
                .values()
                .filter(|(other, _)| other == function)
                .count();
            let function_has_room = limit(*function).is_none_or(|limit| running < limit as usize);
            function_has_room && (*nested || in_flight < policy.max_in_flight)
        })
    }

    fn admit(&mut self, policy: &AdmissionPolicy) -> Vec<Ticket> {
        let mut admitted = Vec::new();
        while let Some(place) = self.next(policy) {
            let (ticket, function, nested) = self.waiting.remove(place);
            self.running.insert(ticket, (function, nested));
            admitted.push(ticket);
        }
        admitted
    }

    /// Whether the call that came last is one too many.
    fn is_over(&self, policy: &AdmissionPolicy, nested: bool, function: u64) -> bool {
        let lane = || self.waiting.iter().filter(|call| call.2 == nested);
        lane().count() > policy.max_waiting
            || lane().filter(|call| call.1 == function).count() > policy.max_waiting_per_function
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn admission_does_what_the_plain_model_does(
        max_in_flight in 1..5_usize,
        max_waiting in 0..6_usize,
        max_waiting_per_function in 0..6_usize,
        ops in ops(),
    ) {
        let policy = AdmissionPolicy { max_in_flight, max_waiting, max_waiting_per_function };
        let mut node = Admission::new(policy).unwrap();
        let mut model = Model::default();
        for (number, op) in (0..).zip(ops) {
            let mut refused = Vec::new();
            let (event, admitted) = match op {
                Op::Request { function, nested } => {
                    let ticket = Ticket(number);
                    model.waiting.push((ticket, function, nested));
                    let admitted = model.admit(&policy);
                    if admitted.is_empty() && model.is_over(&policy, nested, function) {
                        model.waiting.pop();
                        refused.push(ticket);
                    }
                    let (function, max_concurrency) = (FunctionId(function), limit(function));
                    let now_us = number;
                    (AdmissionEvent::Request { ticket, function, max_concurrency, nested, now_us }, admitted)
                }
                Op::Finish(index) => {
                    let all: Vec<Ticket> = model.running.keys().copied().collect();
                    if all.is_empty() { continue }
                    let ticket = *index.get(&all);
                    model.running.remove(&ticket);
                    (AdmissionEvent::Finished { ticket, now_us: number }, model.admit(&policy))
                }
                Op::GiveUp(index) => {
                    if model.waiting.is_empty() { continue }
                    let (ticket, ..) = model.waiting.remove(index.index(model.waiting.len()));
                    (AdmissionEvent::GiveUp { ticket }, model.admit(&policy))
                }
            };
            let mut did = (Vec::new(), Vec::new());
            for action in node.handle(event) {
                match action {
                    AdmissionAction::Admit { ticket } => did.0.push(ticket),
                    AdmissionAction::Refuse { ticket, .. } => did.1.push(ticket),
                }
            }
            prop_assert_eq!(did, (admitted, refused));
            let stats = node.stats();
            prop_assert_eq!(stats.waiting + stats.nested_waiting, model.waiting.len());
            prop_assert_eq!(stats.in_flight + stats.nested_in_flight, model.running.len());
            prop_assert!(stats.in_flight <= max_in_flight);
        }
    }
}
