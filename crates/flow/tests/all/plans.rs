//! Plans as text, one snapshot a rewrite and case, in `tests/snapshots`.
//!
//! To review a change: run with `TIDEMILL_WRITE_SNAPSHOTS=1`, and read the diff.

use std::path::Path;

use tidemill_flow::{Chain, Flow, Plan, PlanSettings, Progress, plan, plan_with};

use crate::support::facts;

fn planned(flow: Chain, words: &str) -> Plan {
    let facts = facts(words);
    plan(&flow.build().validate(&facts).unwrap(), &facts)
}

fn assert_snapshot(name: &str, plan: &Plan) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(format!("{name}.txt"));
    let text = plan.explain();
    if std::env::var_os("TIDEMILL_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "the plan differs from {}", path.display());
}

fn review() -> Chain {
    Flow::of("clean")
        .fan_out(["mask", "count", "score"])
        .fan_in("combine")
}

#[test]
fn a_chain_is_one_hand_off() {
    let plan = planned(Flow::of("a").then("b").then("c"), "a b c~90000");
    assert_snapshot("chain", &plan);
    assert_eq!(plan.fragments()[0].timeout_ms, 3_000);
}

#[test]
fn a_chain_breaks_where_the_workers_change() {
    let chain = Flow::of("a").then("b").then("c").then("d").then("e");
    assert_snapshot("chain_of_groups", &planned(chain, "a b c@2 d@2 e"));
}

#[test]
fn a_chain_breaks_at_a_function_with_a_limit_of_its_own() {
    let chain = Flow::of("a").then("b").then("c").then("d");
    assert_snapshot("chain_with_limit", &planned(chain, "a b! c d"));
}

#[test]
fn a_generator_is_a_plan_of_one() {
    assert_snapshot("generator", &planned(Flow::of("numbers"), "numbers*"));
}

#[test]
fn cheap_and_unknown_branches_fold_into_one_hand_off() {
    assert_snapshot(
        "fold_cheap",
        &planned(review(), "clean mask~999 count~20 score combine"),
    );
}

#[test]
fn costly_branches_run_side_by_side_and_the_cheap_one_joins_the_head() {
    let words = "clean mask~10 count~5000 score~1000 combine";
    assert_snapshot("fold_costly", &planned(review(), words));
}

#[test]
fn a_lone_costly_branch_is_not_split() {
    let words = "clean mask~10 count score~900000 combine";
    assert_snapshot("fold_lone_costly", &planned(review(), words));
}

#[test]
fn a_branch_is_as_costly_as_its_chain() {
    let flow = Flow::of("head")
        .fan_out([Flow::of("a").then("b"), Flow::of("c").then("d"), "e".into()])
        .fan_in("tail");
    assert_snapshot(
        "fold_chains",
        &planned(flow, "head a~600 b~600 c~700 d~700 e~5 tail"),
    );
}

#[test]
fn branches_fold_without_a_worker_in_common_around_them() {
    let words = "clean@2 mask count score combine@2";
    assert_snapshot("fold_between_groups", &planned(review(), words));
}

#[test]
fn a_branch_in_another_group_keeps_the_join_apart() {
    assert_snapshot(
        "fold_foreign_branch",
        &planned(review(), "clean mask count score@2 combine"),
    );
}

#[test]
fn branches_of_the_call_itself_fold_too() {
    let flow = Flow::all(["a", "b", "c"]).fan_in("d");
    assert_snapshot("fold_beginners", &planned(flow, "a b c@2 d@2"));
}

#[test]
fn costly_work_of_another_group_is_not_kept_waiting() {
    // Were `a` and `x` one fragment, `y` would wait for both.
    let flow = Flow::of("a").fan_out(["x", "y"]).fan_in("z");
    assert_snapshot("fold_costly_foreign", &planned(flow, "a x~4000 y@2~4000 z"));
}

#[test]
fn the_limit_between_cheap_and_costly_can_be_set() {
    let facts = facts("clean mask~10 count~20 score~30 combine");
    let valid = review().build().validate(&facts).unwrap();
    let at = |branch_cost_limit_us| {
        plan_with(
            &valid,
            &facts,
            PlanSettings {
                branch_cost_limit_us,
            },
        )
        .fragments()
        .len()
    };
    assert_eq!([31, 30, 20, 10].map(at), [1, 1, 4, 5]);
}

#[test]
fn a_function_that_left_is_planned_as_it_was_known() {
    let before = facts("clean mask count score combine@3");
    let valid = review().build().validate(&before).unwrap();
    assert_eq!(plan(&valid, &facts("clean")), plan(&valid, &before));
}

#[test]
fn the_widest_flow_is_planned_within_bounds() {
    let layer = |chain: Chain, _| chain.fan_out(vec!["a"; 64]).fan_in("join");
    let chain = (0..15).fold(Flow::of("a"), layer);
    let facts = facts("a~5000 join");
    let plan = plan(&chain.build().validate(&facts).unwrap(), &facts);
    // Every branch apart, and each join alone between two forks.
    assert_eq!(plan.steps().len(), 1 + 15 * 65);
    assert_eq!(plan.fragments().len(), 1 + 15 * 65);
}

#[test]
fn progress_starts_what_waits_for_nothing_more() {
    let plan = planned(review(), "clean mask~10 count~5000 score~1000 combine");
    let (mut progress, first) = Progress::begin(&plan);
    assert_eq!(first, [0]);
    assert_eq!(progress.done(0), [1, 2]);
    assert!(progress.done(0).is_empty(), "done twice counts once");
    assert!(progress.done(2).is_empty());
    assert!(!progress.is_finished());
    assert_eq!(progress.done(1), [3]);
    assert!(progress.done(99).is_empty());
    assert!(progress.done(3).is_empty());
    assert!(progress.is_finished());
}
