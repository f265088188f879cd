//! Whole clusters: nothing goes wrong, and a seed is a run.

use tidemill_causal::{Canaries, Canary, Durability};
use tidemill_sim::profile::Profile;
use tidemill_sim::{Options, run};

/// Seeds of a test; `TIDEMILL_SEEDS` asks for another number.
fn seeds(usual: u64) -> u64 {
    let asked = std::env::var("TIDEMILL_SEEDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(usual)
}

fn assert_clean(from: u64, count: u64) {
    let mut commits = 0;
    for seed in from..from + count {
        let outcome = run(seed, &Options::default());
        commits += outcome.commits;
        assert!(
            outcome.wrong.is_empty(),
            "seed {seed}: {}\n`make sim SEED={seed} TRACE=1` shows the run",
            outcome.wrong.join("\n")
        );
    }
    assert!(commits as u64 > count * 10, "{commits} commits");
}

// Two tests, so that two cores share the seeds.

#[test]
fn seeds_of_the_first_half_keep_every_promise() {
    assert_clean(0, seeds(1000));
}

#[test]
fn seeds_of_the_second_half_keep_every_promise() {
    assert_clean(1_000_000, seeds(1000));
}

/// Found by longer runs than these. All three: a member without a frontier to begin above takes a
/// time of its own while one of its partitions is still owed what was committed below it.
#[test]
fn seeds_that_were_bad_keep_every_promise() {
    for seed in [1_002_242, 1_030_710, 1_032_374] {
        assert_clean(seed, 1);
    }
}

/// The first of these is bad if members begin above a time of their own: snapshots from before are
/// above it already, given by members with faster clocks that had begun anew shortly before.
#[test]
fn members_that_all_begin_anew_begin_above_every_snapshot_given() {
    let count = seeds(1000) / 10;
    for seed in std::iter::once(297).chain(1000..1000 + count) {
        let options = Options {
            profile: Some(Profile::anew(seed)),
            ..Options::default()
        };
        let outcome = run(seed, &options);
        assert!(outcome.wrong.is_empty(), "seed {seed}: {:?}", outcome.wrong);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 0..12 {
        let traced = Options {
            traced: true,
            ..Options::default()
        };
        let (first, second) = (run(seed, &traced), run(seed, &traced));
        assert!(
            first.trace.len() > 10_000,
            "a trace of {}",
            first.trace.len()
        );
        assert!(first.trace == second.trace, "seed {seed} runs differently");
        assert_eq!(
            first.counts.events,
            run(seed, &Options::default()).counts.events
        );
    }
}

#[test]
fn a_bad_seed_says_what_is_wrong_in_its_trace() {
    let options = Options {
        canaries: Canaries::only(Canary::NoRedo),
        traced: true,
        ..Options::default()
    };
    let bad = (0..50).map(|seed| run(seed, &options));
    let bad = bad.into_iter().find(|outcome| !outcome.wrong.is_empty());
    let trace = bad.expect("it is found within 50 seeds").trace;
    assert!(trace.contains("WRONG ") && trace.contains(" makes r"));
}

#[test]
fn a_cluster_without_faults_answers_everything() {
    for durability in [Durability::Durable, Durability::Replicated] {
        for members in [1, 3] {
            let options = Options {
                profile: Some(Profile::calm(members, durability)),
                measures: true,
                ..Options::default()
            };
            let outcome = run(7, &options);
            assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
            assert!(outcome.commits > 100, "{} commits", outcome.commits);
            if members == 1 {
                let sent: u64 = outcome.counts.messages.values().map(|(n, _)| n).sum();
                assert_eq!(sent, 0, "nothing travels on one node");
            }
        }
    }
}
