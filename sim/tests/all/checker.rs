//! The history checker: what each anomaly looks like, and agreement with brute force.

use std::collections::BTreeMap;

use tidemill_sim::checker::{Anomaly, History, Id, Request, Value, Write, check};
use tidemill_sim::rng::Rng;

use crate::brute;

fn bag(names: &[Id]) -> Value {
    Value::Bag(names.iter().map(|name| (*name, 1)).collect())
}

fn request(after: &[Id], reads: &[(u32, Value)], writes: &[(u32, Write)]) -> Request {
    Request {
        after: after.to_vec(),
        session: after.to_vec(),
        reads: reads.to_vec(),
        writes: writes.to_vec(),
        ..Request::default()
    }
}

fn found(requests: Vec<Request>) -> Vec<Anomaly> {
    let violations = check(&History { requests }, 1000);
    violations
        .iter()
        .map(|violation| violation.anomaly)
        .collect()
}

#[test]
fn each_anomaly_is_told_by_its_name() {
    let add = |object| (object, Write::Add);
    let one = || request(&[], &[], &[add(1), add(2)]);
    let cases = [
        (
            Anomaly::ReadYourWrites,
            vec![one(), request(&[0], &[(1, bag(&[]))], &[])],
        ),
        (
            Anomaly::FracturedRead,
            vec![one(), request(&[], &[(1, bag(&[0])), (2, bag(&[]))], &[])],
        ),
        (
            Anomaly::MonotonicReads,
            vec![
                one(),
                request(&[], &[(1, bag(&[0]))], &[]),
                request(&[1], &[(1, bag(&[]))], &[]),
            ],
        ),
        (
            Anomaly::CausalViolation,
            vec![
                one(),
                request(&[], &[(1, bag(&[0]))], &[add(3)]),
                request(&[], &[(3, bag(&[1])), (2, bag(&[]))], &[]),
            ],
        ),
        (
            Anomaly::ResurrectedDelete,
            vec![
                one(),
                request(&[], &[(1, bag(&[0]))], &[(1, Write::Delete)]),
                request(&[1], &[(1, bag(&[0]))], &[]),
            ],
        ),
        (
            Anomaly::DuplicateEffect,
            vec![
                one(),
                request(&[], &[(1, Value::Bag(BTreeMap::from([(0, 2)])))], &[]),
            ],
        ),
        (
            Anomaly::NotRepeatable,
            vec![one(), request(&[], &[(1, bag(&[])), (1, bag(&[0]))], &[])],
        ),
        (
            Anomaly::OutOfNowhere,
            vec![one(), request(&[], &[(9, bag(&[0]))], &[])],
        ),
        (
            Anomaly::Cycle,
            vec![
                request(&[], &[(2, bag(&[1]))], &[add(1)]),
                request(&[], &[(1, bag(&[0]))], &[add(2)]),
            ],
        ),
        (
            Anomaly::NoTotalOrder,
            vec![
                request(&[], &[], &[(1, Write::Put)]),
                request(&[], &[], &[(1, Write::Put)]),
                request(&[0, 1], &[(1, Value::Register(Some(0)))], &[]),
                request(&[0, 1], &[(1, Value::Register(Some(1)))], &[]),
            ],
        ),
    ];
    for (anomaly, requests) in cases {
        assert_eq!(found(requests).first(), Some(&anomaly));
    }
}

#[test]
fn the_final_state_has_everything_and_is_one() {
    let one = || request(&[], &[], &[(1, Write::Add)]);
    let last = |value| Request {
        is_final: true,
        ..Request {
            after: vec![0],
            reads: vec![(1, value)],
            ..Request::default()
        }
    };
    assert_eq!(found(vec![one(), last(bag(&[]))]), [Anomaly::LostUpdate]);
    let two = vec![one(), last(bag(&[0])), last(bag(&[]))];
    assert_eq!(found(two), [Anomaly::Diverged]);
}

#[test]
fn what_a_delete_did_not_see_may_be_gone_or_not() {
    let add = (1, Write::Add);
    for names in [vec![], vec![1]] {
        let requests = vec![
            request(&[], &[], std::slice::from_ref(&add)),
            request(&[], &[], std::slice::from_ref(&add)),
            request(&[0], &[(1, bag(&[0]))], &[(1, Write::Delete)]),
            request(&[1, 2], &[(1, bag(&names))], &[]),
        ];
        assert_eq!(found(requests), [], "{names:?}");
    }
}

/// Who else wrote an object so.
fn wrote(requests: &[Request], id: Id, object: u32, write: &Write) -> Vec<Id> {
    let write = (object, write.clone());
    let others = (0..requests.len()).filter(|of| *of != id);
    others
        .filter(|of| requests[*of].writes.contains(&write))
        .collect()
}

/// Random reads and writes of two bags and a register by three or four requests: about half of
/// the histories are right.
fn random(rng: &mut Rng) -> History {
    let size = 3 + rng.index(2);
    let mut requests = vec![Request::default(); size];
    for request in &mut requests {
        for object in 0..2 {
            let write = match rng.below(8) {
                0..3 => Write::Add,
                3 => Write::Delete,
                4 => Write::Hide,
                _ => continue,
            };
            request.writes.push((object, write));
        }
        if rng.permille(400) {
            request.writes.push((2, Write::Put));
        }
    }
    for id in 0..size {
        if rng.permille(300) {
            let before = rng.index(size);
            if before != id {
                requests[id].after = vec![before];
                requests[id].session = vec![before];
            }
        }
        let mut reads = Vec::new();
        for object in 0..2 {
            if rng.permille(600) {
                let names = wrote(&requests, id, object, &Write::Add);
                let seen: Vec<Id> = names.into_iter().filter(|_| rng.permille(500)).collect();
                if rng.permille(200) && !requests[id].writes.iter().any(|(o, _)| *o == object) {
                    let removes = (object, Write::Remove(seen.clone()));
                    if !seen.is_empty() {
                        requests[id].writes.push(removes);
                    }
                }
                reads.push((object, bag(&seen)));
            }
        }
        if rng.permille(500) {
            let names = wrote(&requests, id, 2, &Write::Put);
            let held = names.get(rng.index(names.len() + 1)).copied();
            reads.push((2, Value::Register(held)));
        }
        requests[id].reads = reads;
        if rng.permille(150) {
            requests[id].order = Some((rng.below(3), u32::try_from(id).unwrap_or(0)));
        }
    }
    History { requests }
}

#[test]
fn the_checker_agrees_with_brute_force() {
    let histories = std::env::var("TIDEMILL_HISTORIES").ok();
    let histories: u64 = histories.and_then(|n| n.parse().ok()).unwrap_or(6_000);
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..histories {
        let history = random(&mut Rng::new(seed));
        let expected = brute::is_right(&history);
        let violations = check(&history, 10_000);
        assert_eq!(
            violations.is_empty(),
            expected,
            "seed {seed}: {history:#?}\n{violations:?}"
        );
        if expected {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    assert!(right > histories / 10, "{right} right, {wrong} wrong");
    assert!(wrong > histories / 10, "{right} right, {wrong} wrong");
}
