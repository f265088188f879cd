//! The steps of a flow, split into parts that will be fragments, and the one rewrite of
//! it: merging two parts.
//!
//! What always holds, because [`Partition::merge`] refuses what would break it:
//!
//! - **One worker**: a part of several steps holds fusable steps of one group.
//! - **No cycle**: the graph of parts is acyclic. A fragment's results leave it when all
//!   of it is done, so a part that another one both feeds and waits for could never run.
//!   Two parts may merge if no third lies on a path between them (the union is convex).
//! - **Costly work stays parallel**: two costly steps, neither of which needs the other's
//!   result, are never made to wait for each other: not by sharing a part, and not
//!   through parts that wait for one another as a whole.

use super::bits::Bits;
use crate::facts::FunctionFacts;
use crate::ir::Step;

/// How many merges are tried for one flow. Flows come from callers, so the work on one is
/// bounded; the steps of a flow that is too tangled keep the hand-offs they have.
const MAX_TRIES: usize = 20_000;

pub(super) struct Partition<'a> {
    pub(super) steps: &'a [Step],
    facts: &'a [FunctionFacts],
    /// The part that each step is in.
    part_of: Vec<usize>,
    parts: Vec<Part>,
    /// For each costly step, the costly steps that could run beside it.
    rivals: Vec<(usize, Bits)>,
    tries_left: usize,
}

/// Some steps, and the steps of other parts on either side. Empty once merged away.
struct Part {
    steps: Bits,
    /// Steps of the parts that must be done before this one starts.
    before: Bits,
    /// Steps of the parts that can only start when this one is done.
    after: Bits,
}

impl<'a> Partition<'a> {
    /// Every step in a part of its own, nothing costly.
    pub(super) fn new(steps: &'a [Step], facts: &'a [FunctionFacts]) -> Self {
        let count = steps.len();
        let mut parts: Vec<Part> = Vec::with_capacity(count);
        for (place, step) in steps.iter().enumerate() {
            let mut part = Part {
                steps: Bits::new(count),
                before: Bits::new(count),
                after: Bits::new(count),
            };
            part.steps.insert(place);
            for source in step.sources() {
                part.before.insert(source as usize);
                part.before.add(&parts[source as usize].before);
            }
            for earlier in part.before.iter() {
                parts[earlier].after.insert(place);
            }
            parts.push(part);
        }
        let part_of = (0..count).collect();
        Self {
            steps,
            facts,
            part_of,
            parts,
            rivals: Vec::new(),
            tries_left: MAX_TRIES,
        }
    }

    /// Declares costly each part whose known run times add up to `limit_us`. To be called
    /// while every part is a chain: then whatever is beside one of its steps is beside all
    /// of them, and its first step can stand for it.
    pub(super) fn weigh(&mut self, limit_us: u64) {
        let mut costly = Bits::new(self.steps.len());
        for part in &self.parts {
            let known = part
                .steps
                .iter()
                .filter_map(|step| self.facts[step].mean_cost_us);
            let first = part.steps.iter().next();
            // A limit of 0 asks for every branch apart, also those of unknown cost.
            if let Some(first) = first
                && known.fold(0, u64::saturating_add) >= limit_us
            {
                costly.insert(first);
            }
        }
        self.rivals = costly
            .iter()
            .map(|step| {
                let part = &self.parts[self.part_of[step]];
                let mut rivals = costly.clone();
                rivals.remove(&part.steps);
                rivals.remove(&part.before);
                rivals.remove(&part.after);
                (step, rivals)
            })
            .filter(|(_, rivals)| !rivals.is_empty())
            .collect();
    }

    /// Merges the parts of steps `a` and `b` if nothing speaks against it. The answer is
    /// whether the partition changed.
    pub(super) fn merge(&mut self, a: usize, b: usize) -> bool {
        let (into, gone) = (self.part_of[a], self.part_of[b]);
        if into == gone || self.tries_left == 0 {
            return false;
        }
        self.tries_left -= 1;
        if !self.can_share_worker(a, b) || self.is_third_between(into, gone) {
            return false;
        }
        let (x, y) = (&self.parts[into], &self.parts[gone]);
        let mut merged = Part {
            steps: x.steps.union(&y.steps),
            before: x.before.union(&y.before),
            after: x.after.union(&y.after),
        };
        merged.before.remove(&merged.steps);
        merged.after.remove(&merged.steps);
        if self.queues_rivals(&merged) {
            return false;
        }
        self.replace(into, gone, merged);
        true
    }

    /// Whether two steps are now in the same part.
    pub(super) fn is_together(&self, a: usize, b: usize) -> bool {
        self.part_of[a] == self.part_of[b]
    }

    /// The parts, each a list of steps in ascending order.
    pub(super) fn parts(&self) -> Vec<Vec<usize>> {
        self.parts
            .iter()
            .filter(|part| !part.steps.is_empty())
            .map(|part| part.steps.iter().collect())
            .collect()
    }

    fn can_share_worker(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.facts[a], &self.facts[b]);
        let fusable = |facts: &FunctionFacts| facts.fusable && !facts.generator;
        a.group == b.group && fusable(a) && fusable(b)
    }

    fn is_third_between(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.parts[a], &self.parts[b]);
        a.after.meets(&b.before) || b.after.meets(&a.before)
    }

    /// Whether a merge would make costly steps wait for each other that need not: all
    /// before the merged part would come before all of it, and that before all after it.
    fn queues_rivals(&self, merged: &Part) -> bool {
        let up_to = merged.before.union(&merged.steps);
        let from = merged.steps.union(&merged.after);
        self.rivals
            .iter()
            .any(|(step, rivals)| up_to.contains(*step) && rivals.meets(&from))
    }

    fn replace(&mut self, into: usize, gone: usize, merged: Part) {
        for step in merged.steps.iter() {
            self.part_of[step] = into;
        }
        let up_to = merged.before.union(&merged.steps);
        let from = merged.steps.union(&merged.after);
        for part in &mut self.parts {
            if part.steps.meets(&merged.before) {
                part.after.add(&from);
            }
            if part.steps.meets(&merged.after) {
                part.before.add(&up_to);
            }
        }
        self.parts[into] = merged;
        let count = self.steps.len();
        self.parts[gone] = Part {
            steps: Bits::new(count),
            before: Bits::new(count),
            after: Bits::new(count),
        };
    }
}
