//! A chain against the plainest model: every delta ever pushed, merged anew for each read.

use std::sync::Arc;

use proptest::prelude::*;
use tidemill_lattice::{Cell, Dot, Op, Payload, Time, Writer};
use tidemill_store::chain::Chain;

#[derive(Clone, Debug)]
enum Action {
    Write { op: u8, lag: u64, late: u64 },
    Read { lag: u64, hold: bool },
    Fold { lag: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        // Some come late, among those that are kept as bytes by then.
        8 => (0..6_u8, 30..50_u64, 0..20_u64)
            .prop_map(|(op, lag, late)| Action::Write { op, lag, late }),
        4 => (10..60_u64, any::<bool>()).prop_map(|(lag, hold)| Action::Read { lag, hold }),
        1 => (10..60_u64).prop_map(|lag| Action::Fold { lag }),
    ]
}

fn operation(op: u8, step: u64) -> Op {
    let payload = Payload::bytes(vec![b'a' + (step % 3) as u8]);
    match op {
        0 => Op::CounterAdd(step as i64 + 1),
        1 => Op::SetAdd(payload),
        2 => Op::SetRemove(payload),
        3 => Op::RegisterSet(payload),
        4 => Op::Expire(Some(Time::from_micros(step + 3))),
        _ => Op::Delete,
    }
}

fn model_at(deltas: &[(Time, Cell)], at: Time) -> Cell {
    let mut cell = Cell::empty();
    for (_, delta) in deltas.iter().filter(|(time, _)| *time <= at) {
        cell.merge(delta);
    }
    cell
}

proptest! {
    #[test]
    fn a_chain_reads_like_all_its_deltas(actions in prop::collection::vec(action(), 1..120)) {
        let mut chain = Chain::default();
        let mut deltas: Vec<(Time, Cell)> = Vec::new();
        let mut held: Vec<Arc<Cell>> = Vec::new();
        let (mut now, mut seen) = (100, Time::ZERO);
        for action in actions {
            let lagged = |now: u64, lag: u64| {
                Time::from_micros(now.saturating_sub(lag)).max(chain.base_through())
            };
            match action {
                Action::Write { op, lag, late } => {
                    now += 2;
                    // Odd times are of those that come late.
                    let late = (2 * late).saturating_sub(1);
                    let time = Time::from_micros(now - late);
                    let at = lagged(now, lag);
                    // Whoever has seen a time has seen all below it.
                    seen = seen.max(at);
                    if time <= seen || deltas.iter().any(|(other, _)| *other == time) {
                        continue;
                    }
                    let mut sequence = 0;
                    let mut dots = || {
                        sequence += 1;
                        Dot { time, writer: Writer(1), sequence }
                    };
                    let found = model_at(&deltas, at);
                    let made = Cell::delta(Some(&found), &operation(op, now), at, &mut dots);
                    if let Ok(delta) = made {
                        chain.push(time, at, delta.clone());
                        chain.push(time, at, delta.clone());
                        deltas.push((time, delta));
                    }
                }
                Action::Read { lag, hold } => {
                    let at = lagged(now, lag);
                    seen = seen.max(at);
                    let cell = chain.at(at);
                    let model = model_at(&deltas, at);
                    let found = cell.as_ref().and_then(|cell| cell.view(at));
                    prop_assert_eq!(found.map(summary), model.view(at).map(summary));
                    held.extend(cell.filter(|_| hold));
                }
                Action::Fold { lag } => {
                    let line = lagged(now, lag);
                    seen = seen.max(line);
                    let before = chain.base_through();
                    chain.fold(line);
                    prop_assert!(chain.base_through() <= line.max(before));
                }
            }
        }
        drop(held);
    }
}

/// What a user sees, without the bookkeeping that folding removes.
fn summary(value: &tidemill_lattice::Value) -> String {
    use tidemill_lattice::Value;
    match value {
        Value::Counter(counter) => counter.value().to_string(),
        Value::Set(set) => format!("{:?}", set.iter().collect::<Vec<_>>()),
        Value::Register(register) => format!("{:?}", register.get()),
        other => format!("{other:?}"),
    }
}
