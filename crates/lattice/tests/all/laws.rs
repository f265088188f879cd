//! Merging is associative, commutative and idempotent, for each type, for cells of several types
//! and for compacted cells.

use std::slice;

use proptest::prelude::*;
use tidemill_lattice::{Cell, Kind, Op, Ordinal, Payload};

use crate::world::{any_history, commit, commit_time, run};

fn joined(a: &Cell, b: &Cell) -> Cell {
    let mut join = a.clone();
    join.merge(b);
    join
}

fn check_laws(cells: &[Cell]) {
    for a in cells {
        assert_eq!(joined(a, a), *a, "idempotent: {a:?}");
        assert_eq!(joined(a, &Cell::empty()), *a, "bottom on the right: {a:?}");
        assert_eq!(joined(&Cell::empty(), a), *a, "bottom on the left: {a:?}");
        for b in cells {
            assert_eq!(joined(a, b), joined(b, a), "commutative:\n{a:?}\n{b:?}");
            for c in cells {
                let left = joined(&joined(a, b), c);
                let right = joined(a, &joined(b, c));
                assert_eq!(left, right, "associative:\n{a:?}\n{b:?}\n{c:?}");
            }
        }
    }
}

/// Operations that make every interesting step of a kind.
fn samples(kind: Kind) -> Vec<Op> {
    let (a, b) = (Payload::json(&"a".into()), Payload::bytes("b"));
    let field = |op| Op::MapField {
        field: "f".into(),
        op: Box::new(op),
    };
    match kind {
        Kind::Register => vec![Op::RegisterSet(a), Op::RegisterSet(b)],
        Kind::Multi => vec![Op::MultiSet(a), Op::MultiSet(b)],
        Kind::Counter => vec![Op::CounterAdd(1), Op::CounterAdd(-3)],
        Kind::Max => vec![Op::MaxPut(1.into()), Op::MaxPut(Ordinal::Float(1.0))],
        Kind::Min => vec![Op::MinPut("z".into()), Op::MinPut(2.into())],
        Kind::Flag => vec![Op::FlagRaise, Op::FlagRaise],
        Kind::Set => vec![Op::SetAdd(a.clone()), Op::SetRemove(a)],
        Kind::Map => vec![field(Op::SetAdd(a)), Op::MapRemove { field: "f".into() }],
        Kind::Log => vec![
            Op::LogAppend {
                value: a,
                keep: None,
            },
            Op::LogAppend {
                value: b,
                keep: Some(1),
            },
        ],
        Kind::Top => vec![
            Op::TopPut {
                score: 1.into(),
                id: "x".into(),
                of: 2,
            },
            Op::TopPut {
                score: 2.into(),
                id: "y".into(),
                of: 1,
            },
        ],
    }
}

/// Every state of three commits, each seeing none, some or all of those before.
fn enumerate(kind: Kind) -> Vec<Cell> {
    let mut ops = samples(kind);
    ops.push(Op::Delete);
    let mut cells = vec![Cell::empty()];
    for first in &ops[..2] {
        let one = commit(
            &Cell::empty(),
            slice::from_ref(first),
            commit_time(0),
            commit_time(1),
            1,
        );
        for second in &ops {
            for seen in [Cell::empty(), one.delta.clone()] {
                let two = commit(
                    &seen,
                    slice::from_ref(second),
                    commit_time(1),
                    commit_time(2),
                    2,
                );
                let both = joined(&one.delta, &two.delta);
                let mut compacted = both.clone();
                compacted.compact(commit_time(2), commit_time(2));
                cells.extend([one.delta.clone(), two.delta.clone(), both, compacted]);
            }
        }
    }
    cells.dedup();
    cells
}

#[test]
fn laws_hold_for_small_states_of_each_kind() {
    for kind in Kind::ALL {
        let cells = enumerate(kind);
        assert!(cells.len() > 8, "{kind}: {}", cells.len());
        check_laws(&cells);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn laws_hold_for_random_states(
        steps in any_history(),
        masks in proptest::collection::vec(any::<u32>(), 4),
        compacts in any::<u8>(),
    ) {
        let commits = run(&steps);
        let mut cells = Vec::new();
        for (index, mask) in masks.iter().enumerate() {
            let mut cell = Cell::empty();
            for (bit, commit) in commits.iter().enumerate() {
                if mask >> bit & 1 == 1 {
                    cell.merge(&commit.delta);
                }
            }
            if compacts >> index & 1 == 1 {
                cell.compact(commit_time(u64::from(mask % 18)), commit_time(u64::from(mask % 18)));
            }
            cells.push(cell);
        }
        check_laws(&cells);
    }
}
