//! Plans of random flows: whatever the shape, groups and costs, a plan does what its flow
//! says, and costly work stays parallel.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_flow::{
    DEFAULT_BRANCH_COST_LIMIT_US, Flow, Fragment, FunctionFacts, Input, Plan, Progress, Step,
    StepId, plan,
};

type Known = BTreeMap<String, FunctionFacts>;

/// What a step is made of: group, fusable, cost, and picks of what it takes.
type Draft = (u64, bool, Option<u64>, Vec<prop::sample::Index>);

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let cost = prop_oneof![Just(None), Just(Some(10)), Just(Some(5_000))];
    let draft = (
        0..3_u64,
        prop::bool::weighted(0.9),
        cost,
        vec(any::<prop::sample::Index>(), 0..4),
    );
    vec(draft, 1..24)
}

/// A valid flow: results that nobody takes are joined by a last step.
fn flow_of(drafts: &[Draft]) -> (Flow, Known) {
    let mut facts = Known::new();
    let mut steps = Vec::new();
    let mut unused = BTreeSet::new();
    for (id, (group, fusable, mean_cost_us, picks)) in (0..).zip(drafts) {
        let mut inputs: Vec<Input> = Vec::new();
        for pick in picks.iter().filter(|_| id > 0) {
            let source = StepId::try_from(pick.index(id as usize)).unwrap();
            unused.remove(&source);
            inputs.push(Input::Step(source));
        }
        if inputs.is_empty() {
            inputs.push(Input::Call);
        }
        let known = FunctionFacts {
            group: *group,
            fusable: *fusable,
            mean_cost_us: *mean_cost_us,
            ..FunctionFacts::default()
        };
        facts.insert(format!("f{id}"), known);
        steps.push(Step::call(id, format!("f{id}"), inputs));
        unused.insert(id);
    }
    let last = StepId::try_from(steps.len()).unwrap();
    facts.insert(format!("f{last}"), FunctionFacts::default());
    let inputs = unused.into_iter().map(Input::Step).collect();
    steps.push(Step::call(last, format!("f{last}"), inputs));
    (Flow::new(steps, last), facts)
}

/// The term that a step computes, as text, from the terms it takes.
fn term(step: &Step, of: impl Fn(StepId) -> String) -> String {
    let inputs: Vec<String> = step
        .inputs()
        .iter()
        .map(|input| match input {
            Input::Call => "input".to_owned(),
            Input::Step(id) => of(*id),
        })
        .collect();
    format!("{}({})", step.function(), inputs.join(","))
}

/// Terms grow with every sharing, so each is kept as a number and named once.
#[derive(Default)]
struct Terms(BTreeMap<String, String>);

impl Terms {
    fn name(&mut self, term: String) -> String {
        let next = format!("t{}", self.0.len());
        self.0.entry(term).or_insert(next).clone()
    }
}

fn run_step_by_step(flow: &Flow, terms: &mut Terms) -> String {
    let mut results: Vec<String> = Vec::new();
    for step in &flow.steps {
        let computed = term(step, |id| results[id as usize].clone());
        results.push(terms.name(computed));
    }
    results[flow.output as usize].clone()
}

/// Runs one fragment knowing only its declared inputs; gives only its declared outputs.
fn run_fragment(
    plan: &Plan,
    fragment: &Fragment,
    outside: &BTreeMap<StepId, String>,
    terms: &mut Terms,
) -> Vec<(StepId, String)> {
    let mut known: BTreeMap<StepId, String> = fragment
        .inputs
        .iter()
        .map(|id| (*id, outside[id].clone()))
        .collect();
    for id in &fragment.steps {
        let step = plan.step(*id).unwrap();
        assert!(fragment.takes_call || !step.takes_call());
        let computed = term(step, |source| known[&source].clone());
        known.insert(*id, terms.name(computed));
    }
    fragment
        .outputs
        .iter()
        .map(|id| (*id, known[id].clone()))
        .collect()
}

/// Runs the fragments in an order of `picks`' choice among the legal ones.
fn run_plan(plan: &Plan, picks: &[prop::sample::Index], terms: &mut Terms) -> String {
    let (mut progress, mut ready) = Progress::begin(plan);
    let mut outside = BTreeMap::new();
    let mut picks = picks.iter().cycle();
    while !ready.is_empty() {
        let next = ready.swap_remove(picks.next().unwrap().index(ready.len()));
        let results = run_fragment(plan, &plan.fragments()[next], &outside, terms);
        outside.extend(results);
        ready.extend(progress.done(next));
    }
    assert!(
        progress.is_finished(),
        "fragments wait for each other in a circle"
    );
    outside[&plan.output()].clone()
}

/// For each step, the steps that must be done before it starts, by the flow alone.
fn needs(flow: &Flow) -> Vec<BTreeSet<StepId>> {
    let mut needs: Vec<BTreeSet<StepId>> = Vec::new();
    for step in &flow.steps {
        let mut own = BTreeSet::new();
        for source in step.sources() {
            own.insert(source);
            own.extend(needs[source as usize].iter().copied());
        }
        needs.push(own);
    }
    needs
}

/// For each fragment, those that must be done before it starts.
fn fragment_needs(plan: &Plan) -> Vec<BTreeSet<usize>> {
    let mut needs: Vec<BTreeSet<usize>> = Vec::new();
    for fragment in plan.fragments() {
        let mut own = BTreeSet::new();
        for earlier in &fragment.after {
            own.insert(*earlier);
            own.extend(needs[*earlier].iter().copied());
        }
        needs.push(own);
    }
    needs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fragments_divide_the_steps_and_fit_their_workers(drafts in drafts()) {
        let (flow, facts) = flow_of(&drafts);
        let plan = plan(&flow.validate(&facts).unwrap(), &facts);
        let mut seen = BTreeSet::new();
        for (place, fragment) in plan.fragments().iter().enumerate() {
            prop_assert_eq!(fragment.id, place);
            prop_assert!(fragment.after.iter().all(|earlier| *earlier < place));
            for id in &fragment.steps {
                prop_assert!(seen.insert(*id), "step {} is in two fragments", id);
                prop_assert_eq!(plan.fragment_of(*id).unwrap().id, place);
                let known = facts[flow.steps[*id as usize].function()];
                prop_assert_eq!(known.group, fragment.group);
                prop_assert!(known.fusable || fragment.steps.len() == 1);
            }
        }
        prop_assert_eq!(seen.len(), flow.steps.len());
    }

    #[test]
    fn inputs_and_outputs_are_exactly_what_crosses(drafts in drafts()) {
        let (flow, facts) = flow_of(&drafts);
        let plan = plan(&flow.validate(&facts).unwrap(), &facts);
        let mut taken: BTreeSet<StepId> = BTreeSet::from([flow.output]);
        for fragment in plan.fragments() {
            let sources = fragment.steps.iter().flat_map(|id| flow.steps[*id as usize].sources());
            let outside: BTreeSet<StepId> =
                sources.filter(|source| !fragment.steps.contains(source)).collect();
            prop_assert_eq!(&outside, &fragment.inputs.iter().copied().collect());
            let after: BTreeSet<usize> =
                outside.iter().map(|source| plan.fragment_of(*source).unwrap().id).collect();
            prop_assert_eq!(after, fragment.after.iter().copied().collect());
            taken.extend(outside);
        }
        let given: Vec<StepId> =
            plan.fragments().iter().flat_map(|fragment| fragment.outputs.clone()).collect();
        prop_assert_eq!(given.len(), taken.len());
        prop_assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), taken);
    }

    #[test]
    fn a_plan_computes_what_its_flow_says_in_any_legal_order(
        drafts in drafts(),
        picks in vec(any::<prop::sample::Index>(), 1..24),
    ) {
        let (flow, facts) = flow_of(&drafts);
        let plan = plan(&flow.validate(&facts).unwrap(), &facts);
        let mut terms = Terms::default();
        let expected = run_step_by_step(&flow, &mut terms);
        prop_assert_eq!(run_plan(&plan, &picks, &mut terms), expected);
    }

    #[test]
    fn costly_steps_that_could_run_side_by_side_still_can(drafts in drafts()) {
        let (flow, facts) = flow_of(&drafts);
        let plan = plan(&flow.validate(&facts).unwrap(), &facts);
        let (needs, fragment_needs) = (needs(&flow), fragment_needs(&plan));
        let cost = |step: &Step| facts[step.function()].mean_cost_us;
        let costly: Vec<StepId> = flow
            .steps
            .iter()
            .filter(|step| cost(step).is_some_and(|cost| cost >= DEFAULT_BRANCH_COST_LIMIT_US))
            .map(Step::id)
            .collect();
        for (a, b) in costly.iter().flat_map(|a| costly.iter().map(move |b| (*a, *b))) {
            if a >= b || needs[b as usize].contains(&a) {
                continue;
            }
            let (x, y) = (plan.fragment_of(a).unwrap().id, plan.fragment_of(b).unwrap().id);
            prop_assert!(
                x != y && !fragment_needs[x].contains(&y) && !fragment_needs[y].contains(&x),
                "{} and {} wait for each other\n{}", a, b, plan.explain()
            );
        }
    }

    #[test]
    fn without_limits_and_costs_one_group_is_one_hand_off(drafts in drafts()) {
        let plain = |(_, _, _, picks): &Draft| (0, true, None, picks.clone());
        let (flow, facts) = flow_of(&drafts.iter().map(plain).collect::<Vec<_>>());
        let plan = plan(&flow.validate(&facts).unwrap(), &facts);
        prop_assert_eq!(plan.fragments().len(), 1, "{}", plan.explain());
    }

    #[test]
    fn the_json_form_keeps_every_flow(drafts in drafts()) {
        let (flow, _) = flow_of(&drafts);
        prop_assert_eq!(Flow::from_json(&flow.to_json()).unwrap(), flow);
    }
}
