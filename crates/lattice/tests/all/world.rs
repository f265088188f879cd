//! A small world of writers on stale snapshots, shared by the tests.
//!
//! Commit `i` (from 1) has the time `10 i` and reads the snapshot of up to `LAG_MAX` commits
//! ago, either from plain deltas or from a copy that is compacted as it goes. So deltas are made
//! concurrently, and against states that have forgotten things.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, sample::select};
use tidemill_lattice::{Cell, Dot, Kind, Op, Ordinal, Payload, Time, Writer};

/// How many commits a snapshot may be behind.
pub(crate) const LAG_MAX: u64 = 4;

/// The commit time of commit `index`.
pub(crate) fn commit_time(index: u64) -> Time {
    Time::from_u64(index * 10)
}

/// One commit to be made.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) lag: u64,
    pub(crate) writer: u32,
    pub(crate) reads_compacted: bool,
    pub(crate) ops: Vec<Op>,
}

/// One commit made.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) snapshot: Time,
    pub(crate) time: Time,
    pub(crate) delta: Cell,
}

/// A payload from a small domain, so that writers meet.
fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        select(vec!["a", "b", "c"]).prop_map(|text| Payload::json(&text.into())),
        select(vec![&b"x"[..], b"y"]).prop_map(Payload::bytes),
    ]
}

fn ordinal() -> impl Strategy<Value = Ordinal> {
    prop_oneof![
        (-3i64..4).prop_map(Ordinal::Integer),
        (-3i64..4).prop_map(|half| Ordinal::Float(half as f64 / 2.0)),
        select(vec!["p", "q"]).prop_map(Ordinal::from),
    ]
}

fn text() -> impl Strategy<Value = Arc<str>> {
    select(vec!["f", "g", "h"]).prop_map(Arc::from)
}

fn op_of_field() -> impl Strategy<Value = Op> {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.fits_field())
        .collect();
    select(kinds).prop_flat_map(op_of)
}

/// An operation of one kind.
pub(crate) fn op_of(kind: Kind) -> BoxedStrategy<Op> {
    match kind {
        Kind::Register => payload().prop_map(Op::RegisterSet).boxed(),
        Kind::Multi => payload().prop_map(Op::MultiSet).boxed(),
        Kind::Counter => (-5i64..6).prop_map(Op::CounterAdd).boxed(),
        Kind::Max => ordinal().prop_map(Op::MaxPut).boxed(),
        Kind::Min => ordinal().prop_map(Op::MinPut).boxed(),
        Kind::Flag => Just(Op::FlagRaise).boxed(),
        Kind::Set => prop_oneof![
            payload().prop_map(Op::SetAdd),
            payload().prop_map(Op::SetRemove)
        ]
        .boxed(),
        Kind::Map => prop_oneof![
            5 => (text(), op_of_field())
                .prop_map(|(field, op)| Op::MapField { field, op: Box::new(op) }),
            1 => text().prop_map(|field| Op::MapRemove { field }),
        ]
        .boxed(),
        Kind::Log => (payload(), proptest::option::of(1u32..4))
            .prop_map(|(value, keep)| Op::LogAppend { value, keep })
            .boxed(),
        Kind::Top => (
            ordinal().prop_filter("a number", Ordinal::is_number),
            text(),
            1u32..4,
        )
            .prop_map(|(score, id, of)| Op::TopPut { score, id, of })
            .boxed(),
    }
}

/// Histories of operations of these kinds, with deletes and expiries among them.
pub(crate) fn history(kinds: Vec<Kind>) -> impl Strategy<Value = Vec<Step>> {
    let expire =
        proptest::option::of(0u64..260).prop_map(|end| Op::Expire(end.map(Time::from_u64)));
    let op = prop_oneof![
        10 => select(kinds).prop_flat_map(op_of),
        2 => Just(Op::Delete),
        1 => expire,
    ];
    let step = (0..=LAG_MAX, 1u32..4, any::<bool>(), vec(op, 1..4)).prop_map(
        |(lag, writer, reads_compacted, ops)| Step {
            lag,
            writer,
            reads_compacted,
            ops,
        },
    );
    vec(step, 1..24)
}

/// Every history the tests run on: each kind alone, and all together.
pub(crate) fn any_history() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        3 => select(Kind::ALL.to_vec()).prop_flat_map(|kind| history(vec![kind])),
        1 => history(vec![Kind::Counter, Kind::Register, Kind::Set]),
        1 => history(Kind::ALL.to_vec()),
    ]
}

/// The join of the commits up to a time.
pub(crate) fn state_at(commits: &[Commit], time: Time) -> Cell {
    let mut cell = Cell::empty();
    commits
        .iter()
        .filter(|commit| commit.time <= time)
        .for_each(|c| cell.merge(&c.delta));
    cell
}

/// Makes a commit's delta from what it sees: provisional dots, then its time.
pub(crate) fn commit(seen: &Cell, ops: &[Op], snapshot: Time, time: Time, writer: u32) -> Commit {
    const PROVISIONAL: Writer = Writer(u32::MAX);
    let mut sequence = 0;
    let mut dots = || {
        sequence += 1;
        Dot::new(snapshot.next(), PROVISIONAL, sequence)
    };
    let mut view = seen.clone();
    let mut delta = Cell::empty();
    for op in ops {
        // An operation of another kind than the key holds is refused; the history goes on.
        if let Ok(part) = Cell::delta(Some(&view), op, snapshot, &mut dots) {
            view.merge(&part);
            delta.merge(&part);
        }
    }
    delta.restamp(&|dot| {
        if dot.writer == PROVISIONAL {
            Dot::new(time, Writer(writer), dot.sequence)
        } else {
            dot
        }
    });
    Commit {
        snapshot,
        time,
        delta,
    }
}

/// Runs a history.
pub(crate) fn run(steps: &[Step]) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    // The copy that is compacted as it goes. It holds the commits up to the oldest snapshot that
    // may still be read, and forgets up to the oldest snapshot of a commit it does not hold.
    let mut base = Cell::empty();
    let mut base_time = Time::ZERO;
    for (index, step) in (1u64..).zip(steps) {
        let held = (index - 1).saturating_sub(LAG_MAX);
        for commit in &commits {
            if commit.time > base_time && commit.time <= commit_time(held) {
                base.merge(&commit.delta);
            }
        }
        base_time = commit_time(held);
        base.compact(base_time, commit_time(held.saturating_sub(LAG_MAX)));
        let snapshot = commit_time((index - 1).saturating_sub(step.lag));
        let seen = if step.reads_compacted {
            let mut seen = base.clone();
            commits
                .iter()
                .filter(|commit| commit.time > base_time && commit.time <= snapshot)
                .for_each(|commit| seen.merge(&commit.delta));
            seen
        } else {
            state_at(&commits, snapshot)
        };
        commits.push(commit(
            &seen,
            &step.ops,
            snapshot,
            commit_time(index),
            step.writer,
        ));
    }
    commits
}
