//! A chain against the plainest model: every delta ever pushed, merged anew for each read.

use std::sync::Arc;

use proptest::prelude::*;
use tidemill_lattice::{Cell, Dot, Op, Payload, Time, Writer};
use tidemill_store::chain::Chain;

#[derive(Clone, Debug)]
enum Action {
    Write { op: u8, lag: u64 },
    Read { lag: u64, hold: bool },
    Fold { lag: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..6_u8, 0..4_u64).prop_map(|(op, lag)| Action::Write { op, lag }),
        3 => (0..6_u64, any::<bool>()).prop_map(|(lag, hold)| Action::Read { lag, hold }),
        1 => (0..6_u64).prop_map(|lag| Action::Fold { lag }),
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
    fn a_chain_reads_like_all_its_deltas(actions in prop::collection::vec(action(), 1..60)) {
        let mut chain = Chain::default();
        let mut deltas: Vec<(Time, Cell)> = Vec::new();
        let mut held: Vec<Arc<Cell>> = Vec::new();
        let mut now = 10;
        for action in actions {
            let lagged = |now: u64, lag: u64| {
                Time::from_micros(now.saturating_sub(lag)).max(chain.base_through())
            };
            match action {
                Action::Write { op, lag } => {
                    let at = lagged(now, lag);
                    now += 1;
                    let time = Time::from_micros(now);
                    let mut sequence = 0;
                    let mut dots = || {
                        sequence += 1;
                        Dot { time, writer: Writer(1), sequence }
                    };
                    let seen = model_at(&deltas, at);
                    let made = Cell::delta(Some(&seen), &operation(op, now), at, &mut dots);
                    if let Ok(delta) = made {
                        chain.push(time, at, delta.clone());
                        chain.push(time, at, delta.clone());
                        deltas.push((time, delta));
                    }
                }
                Action::Read { lag, hold } => {
                    let at = lagged(now, lag);
                    let cell = chain.at(at);
                    let model = model_at(&deltas, at);
                    let seen = cell.as_ref().and_then(|cell| cell.view(at));
                    prop_assert_eq!(seen.map(summary), model.view(at).map(summary));
                    held.extend(cell.filter(|_| hold));
                }
                Action::Fold { lag } => {
                    let line = lagged(now, lag);
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
