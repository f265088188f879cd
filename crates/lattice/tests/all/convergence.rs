//! Copies that get the same deltas agree, whatever the order, the repetitions and the times at
//! which they compact.

use proptest::prelude::*;
use serde_json::Value as Json;
use tidemill_lattice::{Cell, Dot, Time, Value};

use crate::world::{Commit, any_history, commit_time, run, state_at};

/// What a reader sees at a time.
fn seen(cell: &Cell, at: Time) -> (Option<Json>, Vec<Dot>) {
    let view = cell.view(at);
    let dots = match view {
        Some(Value::Log(log)) => log.iter().map(|(dot, _)| dot).collect(),
        Some(Value::Register(register)) => vec![register.dot()],
        _ => Vec::new(),
    };
    assert_eq!(view.map(Value::kind), cell.kind(at));
    assert_eq!(view.is_none(), cell.is_empty_at(at));
    (view.map(|value| value.to_json(at)), dots)
}

/// Times from `low` to well past the last expiry.
fn times(low: Time) -> impl Iterator<Item = Time> {
    (0..60)
        .map(|step| Time::from_u64(step * 5))
        .filter(move |time| *time >= low)
}

fn assert_same_views(a: &Cell, b: &Cell, low: Time, why: &str) {
    for at in times(low) {
        assert_eq!(seen(a, at), seen(b, at), "{why} at {at}:\n{a:?}\n{b:?}");
    }
}

/// The greatest low water of a copy that has merged some of the commits: below the first it has
/// not, and not above the snapshot of any it has not.
fn low_water(commits: &[Commit], merged: &[bool]) -> Time {
    commits
        .iter()
        .zip(merged)
        .filter(|(_, merged)| !**merged)
        .map(|(commit, _)| commit.snapshot)
        .min()
        .unwrap_or(commit_time(commits.len() as u64))
}

/// The greatest time such that every commit up to it has been merged.
fn complete_through(commits: &[Commit], merged: &[bool]) -> Time {
    commits
        .iter()
        .zip(merged)
        .find(|(_, merged)| !**merged)
        .map_or(commit_time(commits.len() as u64), |(commit, _)| {
            commit.time.prev()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_order_and_any_repetition_give_the_same_cell(
        steps in any_history(),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let commits = run(&steps);
        let expected = state_at(&commits, Time::MAX);
        let mut copy = Cell::empty();
        for index in &order {
            copy.merge(&index.get(&commits).delta);
        }
        for commit in commits.iter().rev() {
            copy.merge(&commit.delta);
        }
        prop_assert_eq!(copy, expected);
    }

    #[test]
    fn compacting_changes_no_view_and_keeps_convergence(
        steps in any_history(),
        order in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 40),
    ) {
        let commits = run(&steps);
        let end = commit_time(commits.len() as u64);
        let expected = state_at(&commits, Time::MAX);
        let mut copy = Cell::empty();
        let mut merged = vec![false; commits.len()];
        let (mut line, mut forget) = (Time::ZERO, Time::ZERO);
        let tail = (0..commits.len()).rev().map(|index| (index, true));
        let order = order.iter().map(|(at, compacts)| (at.index(commits.len()), *compacts));
        for (index, compacts) in order.chain(tail) {
            // What has been merged comes again only while the promise of `compact` allows it.
            let again = commits[index].snapshot >= forget && commits[index].time > line;
            if !merged[index] || again {
                copy.merge(&commits[index].delta);
                merged[index] = true;
            }
            if compacts {
                line = complete_through(&commits, &merged).max(line);
                forget = low_water(&commits, &merged).max(forget);
                let before = copy.clone();
                copy.compact(line, forget);
                assert_same_views(&copy, &before, line, "compacting changed a view");
                prop_assert!(!copy.clone().compact(line, forget).changed, "compacting again did more");
            }
        }
        assert_same_views(&copy, &expected, end, "a compacted copy diverged");
        // Two copies that meet agree as well.
        let mut both = copy.clone();
        both.merge(&expected);
        assert_same_views(&both, &expected, end, "copies that met diverged");
        both.compact(end, end);
        assert_same_views(&both, &expected, end, "copies that met and compacted diverged");
        let mut plain = expected.clone();
        plain.compact(end, end);
        assert_same_views(&plain, &expected, end, "compacting at the end changed a view");
        prop_assert_eq!(plain.is_bottom(), copy.is_bottom());
    }

    #[test]
    fn a_base_with_deltas_above_it_reads_like_all_deltas(steps in any_history()) {
        let commits = run(&steps);
        let end = commits.len() as u64;
        for index in 0..=end {
            let unmerged = commits.iter().filter(|commit| commit.time > commit_time(index));
            let line = unmerged
                .map(|commit| commit.snapshot)
                .min()
                .unwrap_or(commit_time(index))
                .min(commit_time(index));
            let mut base = state_at(&commits, commit_time(index));
            base.compact(commit_time(index), line);
            for snapshot in index..=end {
                let at = commit_time(snapshot);
                let mut cell = base.clone();
                commits
                    .iter()
                    .filter(|commit| commit.time > commit_time(index) && commit.time <= at)
                    .for_each(|commit| cell.merge(&commit.delta));
                let plain = state_at(&commits, at);
                assert_eq!(seen(&cell, at), seen(&plain, at), "{cell:?}\n{plain:?}");
            }
        }
    }

    #[test]
    fn states_and_deltas_survive_their_encoding(steps in any_history()) {
        let commits = run(&steps);
        let mut state = Cell::empty();
        for (index, commit) in (1u64..).zip(&commits) {
            state.merge(&commit.delta);
            let mut compacted = state.clone();
            compacted.compact(commit_time(index / 2), commit_time(index / 2));
            for cell in [&commit.delta, &state, &compacted] {
                let mut bytes = Vec::new();
                cell.encode(&mut bytes);
                prop_assert_eq!(Cell::decode(&bytes.into()), Ok(cell.clone()));
            }
        }
    }
}
