//! The rules of a flow, and what its author is told.

use tidemill_flow::{Flow, FlowError, Input, MAX_INPUTS, MAX_STEPS, Step, StepId};

use crate::support::facts;

fn refused(flow: &Flow) -> String {
    let facts = facts("clean count combine mask Model.score numbers*");
    flow.validate(&facts).unwrap_err().to_string()
}

fn steps(steps: &[(&str, &[StepId])]) -> Flow {
    let all: Vec<Step> = steps
        .iter()
        .zip(0..)
        .map(|((function, sources), id)| match sources {
            [] => Step::call(id, *function, vec![Input::Call]),
            _ => Step::call(
                id,
                *function,
                sources.iter().copied().map(Input::Step).collect(),
            ),
        })
        .collect();
    let output = StepId::try_from(all.len()).unwrap().saturating_sub(1);
    Flow::new(all, output)
}

#[test]
fn a_flow_that_keeps_the_rules_is_valid() {
    let facts = facts("clean count combine mask Model.score numbers*");
    let review = Flow::of("clean")
        .fan_out(["mask", "count", "Model.score"])
        .fan_in("combine");
    let review = review.build();
    assert_eq!(review.validate(&facts).unwrap().flow(), &review);
    assert!(Flow::of("numbers").build().validate(&facts).is_ok());
    let twice = steps(&[("clean", &[]), ("combine", &[0, 0])]);
    assert!(twice.validate(&facts).is_ok());
}

#[test]
fn ids_count_up_from_0_and_steps_take_earlier_ones() {
    let gap = Flow::new(vec![Step::call(1, "clean", vec![Input::Call])], 1);
    assert_eq!(
        refused(&gap),
        "step number 0 of the list has id 1: number the steps from 0 in order"
    );
    for source in [1, 2, 7] {
        let flow = steps(&[("clean", &[]), ("mask", &[source]), ("count", &[1])]);
        assert_eq!(
            refused(&flow),
            format!(
                "step 1 (mask) takes the result of step {source}, which does not come before it: \
                 a step takes earlier steps only"
            )
        );
    }
}

#[test]
fn no_step_works_for_nobody() {
    let mut flow = steps(&[("clean", &[]), ("mask", &[0]), ("count", &[0])]);
    assert_eq!(
        refused(&flow),
        "nobody takes the result of step 1 (mask): pass it to a later step, make it the output, \
         or remove it"
    );
    flow.output = 1;
    assert!(refused(&flow).starts_with("nobody takes the result of step 2 (count)"));
    flow.output = 3;
    assert_eq!(
        refused(&flow),
        "the flow's output is step 3, which it does not have: name one of its steps"
    );
    assert_eq!(
        refused(&Flow::new(vec![], 0)),
        "the flow has no steps: give it at least one"
    );
}

#[test]
fn the_call_goes_through_whole_or_not_at_all() {
    let mixed = Flow::new(
        vec![
            Step::call(0, "clean", vec![Input::Call]),
            Step::call(1, "combine", vec![Input::Call, Input::Step(0)]),
        ],
        1,
    );
    assert!(refused(&mixed).starts_with("step 1 (combine) takes \"input\" beside other inputs"));
    let none = Flow::new(vec![Step::call(0, "clean", vec![])], 0);
    assert_eq!(
        refused(&none),
        "step 0 (clean) takes nothing: give it \"input\" or an earlier step"
    );
}

#[test]
fn sizes_are_bounded() {
    let facts = facts("clean combine");
    let chain = |length: usize| {
        (1..length)
            .fold(Flow::of("clean"), |chain, _| chain.then("clean"))
            .build()
    };
    assert!(chain(MAX_STEPS).validate(&facts).is_ok());
    assert_eq!(
        chain(MAX_STEPS + 1).validate(&facts),
        Err(FlowError::TooManySteps {
            steps: MAX_STEPS + 1
        })
    );
    let wide = |width: usize| {
        Flow::of("clean")
            .fan_out(vec!["clean"; width])
            .fan_in("combine")
            .build()
            .validate(&facts)
    };
    assert!(wide(MAX_INPUTS).is_ok());
    assert!(matches!(
        wide(MAX_INPUTS + 1),
        Err(FlowError::TooManyInputs { inputs: 65, .. })
    ));
}

#[test]
fn functions_must_exist_and_near_names_are_offered() {
    assert_eq!(
        refused(&Flow::of("claen").build()),
        "step 0 calls claen, which this app does not have: did you mean clean?"
    );
    assert_eq!(
        refused(&Flow::of("zebra").build()),
        "step 0 calls zebra, which this app does not have: deploy it, or correct the name"
    );
    assert!(refused(&Flow::of("9 lives").build()).starts_with("step 0 calls \"9 lives\", which"));
}

#[test]
fn generators_stand_alone() {
    let flow = Flow::of("clean").then("numbers").build();
    assert!(refused(&flow).starts_with("step 1 calls numbers, a generator"));
}
