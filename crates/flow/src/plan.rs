//! A plan: which steps run together in one hand-off, and which hand-offs wait for which.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use serde::Serialize;

use crate::facts::FunctionFacts;
use crate::ir::{Step, StepId};
use crate::validate::ValidFlow;

/// The place of a fragment in its plan, from 0. Fragments wait for earlier ones only.
pub type FragmentId = usize;

/// A flow, divided into fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
    output: StepId,
    fragments: Vec<Fragment>,
    fragment_of: Vec<FragmentId>,
}

/// Steps that run in one hand-off to one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fragment {
    /// The fragment's place in the plan.
    pub id: FragmentId,
    /// The group whose workers can run it.
    pub group: u64,
    /// Its steps, in an order in which they can run.
    pub steps: Vec<StepId>,
    /// Whether some step takes the flow's call.
    pub takes_call: bool,
    /// The steps of other fragments whose results it takes, ascending.
    pub inputs: Vec<StepId>,
    /// Its steps whose results leave it, ascending: those that other fragments take, and
    /// the flow's output.
    pub outputs: Vec<StepId>,
    /// The fragments that must be done before it starts, ascending.
    pub after: Vec<FragmentId>,
    /// The longest it may take: its steps' time limits together, in milliseconds.
    pub timeout_ms: u64,
}

impl Plan {
    /// The fragments, in an order in which they can run.
    #[must_use]
    pub fn fragments(&self) -> &[Fragment] {
        &self.fragments
    }

    /// The flow's steps, each at the index of its id.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step of that id.
    #[must_use]
    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.get(id as usize)
    }

    /// The step whose result is the flow's.
    #[must_use]
    pub fn output(&self) -> StepId {
        self.output
    }

    /// The fragment that runs a step.
    #[must_use]
    pub fn fragment_of(&self, step: StepId) -> Option<&Fragment> {
        self.fragments.get(*self.fragment_of.get(step as usize)?)
    }

    /// Builds the plan whose fragments are `parts`: every step in exactly one part, parts
    /// of one group, and no cycle between them.
    pub(crate) fn assemble(
        flow: &ValidFlow,
        facts: &[FunctionFacts],
        parts: &[Vec<usize>],
    ) -> Self {
        let steps = flow.steps();
        let parts = in_running_order(steps, parts);
        let mut fragment_of = vec![0; steps.len()];
        for (id, part) in parts.iter().enumerate() {
            for step in part {
                fragment_of[*step] = id;
            }
        }
        let mut leaves = vec![false; steps.len()];
        leaves[flow.output() as usize] = true;
        for step in steps {
            for source in step.sources() {
                let (from, to) = (source as usize, step.id() as usize);
                leaves[from] |= fragment_of[from] != fragment_of[to];
            }
        }
        let fragments = parts
            .iter()
            .enumerate()
            .map(|(id, part)| fragment(id, part, steps, facts, &fragment_of, &leaves))
            .collect();
        Self {
            steps: steps.to_vec(),
            output: flow.output(),
            fragments,
            fragment_of,
        }
    }
}

fn fragment(
    id: FragmentId,
    part: &[usize],
    steps: &[Step],
    facts: &[FunctionFacts],
    fragment_of: &[FragmentId],
    leaves: &[bool],
) -> Fragment {
    let inputs: BTreeSet<StepId> = part
        .iter()
        .flat_map(|step| steps[*step].sources())
        .filter(|source| fragment_of[*source as usize] != id)
        .collect();
    let after: BTreeSet<FragmentId> = inputs
        .iter()
        .map(|source| fragment_of[*source as usize])
        .collect();
    let outputs = part.iter().filter(|step| leaves[**step]);
    Fragment {
        id,
        group: part.first().map_or(0, |step| facts[*step].group),
        steps: part.iter().map(|step| steps[*step].id()).collect(),
        takes_call: part.iter().any(|step| steps[*step].takes_call()),
        inputs: inputs.into_iter().collect(),
        outputs: outputs.map(|step| steps[*step].id()).collect(),
        after: after.into_iter().collect(),
        timeout_ms: part
            .iter()
            .map(|step| facts[*step].timeout_ms)
            .fold(0, u64::saturating_add),
    }
}

/// Orders parts so that each comes after those it takes from; among those that could come
/// next, the one with the earliest step (Kahn's algorithm).
fn in_running_order(steps: &[Step], parts: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut part_of = vec![0; steps.len()];
    for (place, part) in parts.iter().enumerate() {
        for step in part {
            part_of[*step] = place;
        }
    }
    let mut edges = BTreeSet::new();
    for step in steps {
        for source in step.sources() {
            edges.insert((part_of[source as usize], part_of[step.id() as usize]));
        }
    }
    edges.retain(|(from, to)| from != to);
    let mut waits_for = vec![0_usize; parts.len()];
    for (_, to) in &edges {
        waits_for[*to] += 1;
    }
    let first = |part: usize| parts[part].first().copied();
    let mut ready: BinaryHeap<_> = (0..parts.len())
        .filter(|part| waits_for[*part] == 0)
        .map(|part| Reverse((first(part), part)))
        .collect();
    let mut order = Vec::with_capacity(parts.len());
    while let Some(Reverse((_, part))) = ready.pop() {
        order.push(part);
        for (_, to) in edges.range((part, 0)..=(part, usize::MAX)) {
            waits_for[*to] -= 1;
            if waits_for[*to] == 0 {
                ready.push(Reverse((first(*to), *to)));
            }
        }
    }
    debug_assert_eq!(
        order.len(),
        parts.len(),
        "the parts wait for each other in a circle"
    );
    order.into_iter().map(|part| parts[part].clone()).collect()
}
