//! What a commit costs where nothing goes wrong: messages, bytes, round trips, and how far stable
//! is behind. Counted, not timed: the fabric's and the disk's delays are the run's own.

use std::fmt::Write as _;

use tidemill_causal::{Config, Durability};

use crate::profile::Profile;
use crate::{Options, run};

/// One way on the wire at the most, and one write to stable storage, in the runs measured.
const WIRE_US: u64 = 300;
const DISK_US: u64 = 1000;

/// The part of a list below which so many of a hundred are.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let at = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(at).copied().unwrap_or(0)
}

/// A table for 1, 3 and 10 nodes.
#[must_use]
pub fn table() -> String {
    let mut out = String::new();
    let gossip_us = Config::default().gossip_us;
    let _ = writeln!(
        out,
        "| nodes | durability | commits | messages a commit | bytes a commit | \
         home's answer after, p50–most | stable behind, p50 | p99 |\n|---|---|---|---|---|---|---|---|"
    );
    for members in [1, 3, 10] {
        for durability in [Durability::Durable, Durability::Replicated] {
            let _ = writeln!(out, "{}", row(members, durability, gossip_us));
        }
    }
    let _ = writeln!(
        out,
        "\nOne way on the wire: 200 to {WIRE_US} µs; a write to stable storage: {DISK_US} µs; gossip \
         every {gossip_us} µs to two peers. An answer of the home is counted from the commit's \
         leaving the compute node to the answer's arrival there."
    );
    out
}

fn row(members: u32, durability: Durability, gossip_us: u64) -> String {
    let (mut commits, mut messages, mut bytes) = (0, 0, 0);
    let (mut staleness, mut answers) = (Vec::new(), Vec::new());
    for seed in 0..8 {
        let options = Options {
            profile: Some(Profile::calm(members, durability)),
            measures: true,
            ..Options::default()
        };
        let outcome = run(seed, &options);
        commits += outcome.commits as u64;
        messages += outcome.counts.commit_messages.0;
        bytes += outcome.counts.commit_messages.1;
        staleness.extend(outcome.counts.staleness_us);
        answers.extend(outcome.counts.decided_us);
    }
    staleness.sort_unstable();
    answers.sort_unstable();
    let commits = commits.max(1);
    let tenths = |sum: u64| format!("{}.{}", sum / commits, sum * 10 / commits % 10);
    let intervals = |us: u64| format!("{}.{} intervals", us / gossip_us, us * 10 / gossip_us % 10);
    format!(
        "| {members} | {durability:?} | {commits} | {} | {} | {}–{} µs | {} | {} |",
        tenths(messages),
        bytes / commits,
        percentile(&answers, 50),
        percentile(&answers, 100),
        intervals(percentile(&staleness, 50)),
        intervals(percentile(&staleness, 99)),
    )
}
