//! Rewrite 2: branches that are not worth a hand-off are folded into a fragment beside
//! them; costly ones stay apart and run in parallel.
//!
//! A hand-off costs about as much as a short function, so a branch that is known to be
//! cheap, or of which nothing is known yet, runs faster in the worker that is at it anyway.
//!
//! ```text
//!      ┌─> b ─┐           all cheap: one hand-off
//! a ───┼─> c ─┼─> e       [a b c d e]
//!      └─> d ─┘
//!                         c and d costly: b joins a, and c and d run side by side
//!                         [a b] [c] [d] [e]
//!
//!                         only c costly: nothing costly to run beside it, one hand-off
//!                         [a b c d e]
//! ```
//!
//! Branches need no common worker before or after them: with `a` and `e` in another
//! group, the cheap `b`, `c` and `d` still become one fragment.
//!
//! Merging is tried along edges first, then between branches of one fork or one join,
//! until nothing changes: a join is refused while any branch is still outside, and goes
//! through once the last one is in.

use super::partition::Partition;

pub(super) fn branches(partition: &mut Partition<'_>) {
    let neighbours = Neighbours::of(partition);
    loop {
        let mut changed = false;
        for (source, step) in &neighbours.edges {
            changed |= partition.merge(*source, *step);
        }
        for siblings in &neighbours.siblings {
            changed |= gather(partition, siblings);
        }
        if !changed {
            return;
        }
    }
}

/// Merges what can be merged of steps that have a source or a taker in common.
fn gather(partition: &mut Partition<'_>, siblings: &[usize]) -> bool {
    let mut changed = false;
    let mut kept: Vec<usize> = Vec::new();
    for step in siblings {
        if kept
            .iter()
            .any(|other| partition.is_together(*other, *step))
        {
            continue;
        }
        if kept.iter().any(|other| partition.merge(*other, *step)) {
            changed = true;
        } else {
            kept.push(*step);
        }
    }
    changed
}

struct Neighbours {
    /// (source, taker), by taker.
    edges: Vec<(usize, usize)>,
    /// Steps that take the flow's call; those that take one result; those that one step takes.
    siblings: Vec<Vec<usize>>,
}

impl Neighbours {
    fn of(partition: &Partition<'_>) -> Self {
        let mut edges = Vec::new();
        let mut beginners = Vec::new();
        let mut takers = vec![Vec::new(); partition.steps.len()];
        let mut joins = Vec::new();
        for (place, step) in partition.steps.iter().enumerate() {
            if step.takes_call() {
                beginners.push(place);
            }
            let mut sources: Vec<usize> = step.sources().map(|source| source as usize).collect();
            sources.sort_unstable();
            sources.dedup();
            for source in &sources {
                edges.push((*source, place));
                takers[*source].push(place);
            }
            joins.push(sources);
        }
        let siblings = std::iter::once(beginners)
            .chain(takers)
            .chain(joins)
            .filter(|siblings| siblings.len() > 1)
            .collect();
        Self { edges, siblings }
    }
}
