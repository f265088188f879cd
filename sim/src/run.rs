//! One seed, from beginning to verdict.

use tidemill_causal::{Canaries, Durability};

use crate::checker;
use crate::clients;
use crate::faults;
use crate::histories;
use crate::profile::Profile;
use crate::world::{Counts, EVENTS_MAX, World};

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The seeded bugs.
    pub canaries: Canaries,
    /// Whether to keep a trace.
    pub traced: bool,
    /// A profile of its own, or the seed's.
    pub profile: Option<Profile>,
    /// Whether to count sizes and staleness.
    pub measures: bool,
}

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What is wrong; empty if nothing is.
    pub wrong: Vec<String>,
    /// The trace, if it was kept.
    pub trace: String,
    /// Commits answered.
    pub commits: usize,
    /// Requests answered.
    pub answers: usize,
    /// What was counted.
    pub counts: Counts,
    /// How long answered commits took, in microseconds.
    pub latencies_us: Vec<u64>,
    /// Whether commits may have been lost, so that only a part was checked.
    pub has_loss: bool,
}

/// After the faults, so long at the most until everything is answered.
const PATIENCE_US: u64 = 8_000_000;

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Outcome {
    let profile = options.profile.clone().unwrap_or_else(|| Profile::of(seed));
    let mut world = World::new(seed, profile, options.canaries, options.traced);
    world.measures = options.measures;
    clients::begin(&mut world);
    faults::begin(&mut world);
    let active_us = world.profile.active_us;
    world.run_until(active_us);
    world.is_quiet = true;
    world.log(|| "QUIET".to_owned());
    faults::end(&mut world);
    let mut wrong = Vec::new();
    // A while longer than it takes everything to be answered: faults may end late.
    let rested = rest(&mut world, active_us + 500_000);
    if !rested {
        wrong.push(stuck(&world));
    }
    let expired_us = clients::all_expired_us(&world);
    while world.hosts.iter().any(|host| {
        let stable = host.node.as_ref().map(|node| node.facts().stable);
        stable.is_some_and(|stable| stable.micros() < expired_us)
    }) && world.now_us < active_us + PATIENCE_US
    {
        world.run_until(world.now_us + 20_000);
    }
    for round in 0..2 {
        clients::read_all(&mut world, round);
        let from_us = world.now_us + 60_000;
        if !rest(&mut world, from_us) {
            wrong.push(stuck(&world));
        }
    }
    verdict(&mut world, wrong)
}

/// Runs on until everything is answered and recovered.
fn rest(world: &mut World, from_us: u64) -> bool {
    let until_us = from_us + PATIENCE_US;
    let mut now_us = from_us;
    while now_us < until_us && world.counts.events <= EVENTS_MAX {
        world.run_until(now_us);
        if world.clients.are_done() && world.is_settled() {
            return true;
        }
        now_us += 20_000;
    }
    false
}

fn stuck(world: &World) -> String {
    let open: Vec<_> = world
        .clients
        .known
        .iter()
        .filter(|known| known.answer.is_none() && !known.is_given_up)
        .map(|known| known.name)
        .take(5)
        .collect();
    let nodes: Vec<String> = world
        .hosts
        .iter()
        .filter_map(|host| host.node.as_ref())
        .map(|node| format!("{:?}", node.facts()))
        .collect();
    format!("Stuck: not answered {open:?}; {}", nodes.join("; "))
}

fn verdict(world: &mut World, mut wrong: Vec<String>) -> Outcome {
    if world.counts.events > EVENTS_MAX {
        wrong.push("Storm: messages without end".to_owned());
    }
    let has_loss = world.disk.epoch().loss > 0 && world.profile.durability != Durability::Durable;
    let contradictions = std::mem::take(&mut world.clients.contradictions);
    if !has_loss {
        wrong.extend(
            contradictions
                .into_iter()
                .map(|text| format!("Answers: {text}")),
        );
        let (history, own) = histories::history(&world.clients);
        wrong.extend(own.into_iter().map(|text| format!("OwnWrites: {text}")));
        if wrong.is_empty() {
            let found = checker::check(&history, 0);
            wrong.extend(found.iter().map(ToString::to_string));
        }
    }
    for text in wrong.iter().take(10) {
        let text = text.clone();
        world.log(|| format!("WRONG {text}"));
    }
    let answered = world.clients.known.iter().filter_map(|known| {
        let answer = known.answer.as_ref()?;
        Some((known, answer))
    });
    let latency = |(known, _): &(&clients::Known, &clients::Answered)| {
        known.times_us.1.saturating_sub(known.times_us.0)
    };
    Outcome {
        commits: answered
            .clone()
            .filter(|(_, answer)| answer.commit.is_some())
            .count(),
        answers: answered.clone().count(),
        latencies_us: answered
            .filter(|(known, answer)| answer.commit.is_some() && known.times_us.1 > 0)
            .map(|pair| latency(&pair))
            .collect(),
        wrong,
        trace: world.take_trace(),
        counts: world.counts.clone(),
        has_loss,
    }
}
