//! Every seeded bug is found within the seeds that CI runs without one.

use tidemill_causal::{Canaries, Canary};
use tidemill_sim::{Options, run};

/// Seeds within which each has to be found; most are within a few.
const SEEDS: u64 = 1000;

fn assert_found(canaries: &[Canary]) {
    for canary in canaries {
        let options = Options {
            canaries: Canaries::only(*canary),
            ..Options::default()
        };
        let found = (0..SEEDS).find(|seed| !run(*seed, &options).wrong.is_empty());
        assert!(found.is_some(), "{canary:?} was not found in {SEEDS} seeds");
    }
}

// Two tests, so that two cores share them.

#[test]
fn the_first_half_of_the_seeded_bugs_is_found() {
    assert_found(&Canary::ALL[..Canary::ALL.len() / 2]);
}

#[test]
fn the_second_half_of_the_seeded_bugs_is_found() {
    assert_found(&Canary::ALL[Canary::ALL.len() / 2..]);
}
