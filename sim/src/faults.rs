//! What goes wrong, and when.

use std::collections::BTreeMap;

use tidemill_causal::{Canary, Now};
use tidemill_lattice::Time;

use crate::profile::CLOCKS_MAX_US;
use crate::world::{What, World};

/// The kinds of fault, in the order of a profile's weights.
pub const FAULTS: [Fault; 14] = [
    Fault::Crash,
    Fault::QuickCrash,
    Fault::CrashKeepingTail,
    Fault::Pause,
    Fault::PausePastEviction,
    Fault::CutBoth,
    Fault::CutOneWay,
    Fault::ClockJump,
    Fault::SlowDisk,
    Fault::CutFromAll,
    Fault::ComputeCrash,
    Fault::Move,
    Fault::Join,
    Fault::Blackout,
];

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A host dies with its memory and comes back after others have noticed.
    Crash,
    /// It comes back before they have.
    QuickCrash,
    /// The process dies; what it had handed to its machine is there when it comes back.
    CrashKeepingTail,
    /// A process stands still for a moment.
    Pause,
    /// It stands still for so long that it is evicted, and goes on without knowing.
    PausePastEviction,
    /// Two hosts do not hear each other.
    CutBoth,
    /// One does not hear the other.
    CutOneWay,
    /// A clock steps.
    ClockJump,
    /// A disk takes twenty times as long.
    SlowDisk,
    /// A host hears nobody, and nobody hears it.
    CutFromAll,
    /// A host that only computes dies and comes back.
    ComputeCrash,
    /// Partitions move.
    Move,
    /// A member joins, or one that had joined leaves.
    Join,
    /// All members die at once.
    Blackout,
}

/// A point of a fault.
#[derive(Clone, Debug)]
pub enum Step {
    /// The next one is due.
    Next,
    /// A host comes back: with its memory's tails, if they were kept.
    Back(
        usize,
        u64,
        BTreeMap<tidemill_causal::PartitionId, tidemill_causal::Tail>,
    ),
    /// A paused host goes on.
    Resume(usize, u64),
    /// A link is whole again.
    Mend(u32, u32),
}

/// What the faults have to remember.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How often the next fault was put off.
    waited: u32,
    /// Until when the one before is not over.
    busy_until_us: u64,
    /// Hosts that have joined.
    joined: Vec<usize>,
}

/// Starts them.
pub fn begin(world: &mut World) {
    if world.profile.faults {
        world.put(150_000, What::Fault(Step::Next));
    }
}

/// A fault, or a part of one.
pub fn happen(world: &mut World, step: Step) {
    match step {
        Step::Next => next(world),
        Step::Back(at, run, tails) => {
            if world.hosts[at].run == run && !world.hosts[at].is_up {
                come_back(world, at, tails);
            }
        }
        Step::Resume(at, run) => {
            if world.hosts[at].run == run && world.hosts[at].is_paused {
                world.log(|| format!("FAULT ends: @{at} goes on"));
                world.resume(at);
            }
        }
        Step::Mend(from, to) => {
            world.cuts.remove(&(from, to));
        }
    }
}

fn come_back(
    world: &mut World,
    at: usize,
    tails: BTreeMap<tidemill_causal::PartitionId, tidemill_causal::Tail>,
) {
    let kept = world.hosts[at].node.as_ref().map(|node| node.me().member);
    let member = match (world.hosts[at].stores, kept) {
        (false, _) => None,
        (true, Some(member)) if world.has(Canary::KeepMemberId) => Some(member),
        (true, _) => Some(world.new_member()),
    };
    world.log(|| format!("@{at} is back as {member:?}"));
    world.begin(at, member, tails);
}

/// A process that finds itself evicted begins anew; its memory is its own.
pub fn rejoin(world: &mut World, at: usize) {
    let tails = world.hosts[at]
        .node
        .as_ref()
        .map(tidemill_causal::Node::tails);
    let member = world.new_member();
    world.log(|| format!("@{at} rejoins as {}", member.0));
    world.begin(at, Some(member), tails.unwrap_or_default());
}

/// Ends whatever still lasts.
pub fn end(world: &mut World) {
    world.cuts.clear();
    for at in 0..world.hosts.len() {
        if world.hosts[at].is_paused {
            world.resume(at);
        }
        world.hosts[at].slow_until_us = 0;
    }
}

fn next(world: &mut World) {
    if world.is_quiet {
        return;
    }
    let (now_us, gap_us) = (world.now_us, world.profile.fault_gap_us);
    let is_over = now_us >= world.faults.busy_until_us && world.is_settled();
    if world.profile.one_at_a_time && !is_over && world.faults.waited < 120 {
        world.faults.waited += 1;
        world.put(now_us + 10_000, What::Fault(Step::Next));
        return;
    }
    let put_off = world.profile.one_at_a_time && !is_over;
    world.faults.waited = 0;
    let wait_us = world.rng.between(gap_us, gap_us * 3);
    world.put(now_us + wait_us, What::Fault(Step::Next));
    if put_off {
        return;
    }
    let weights = world.profile.fault_weights;
    let mut at = world.rng.below(weights.iter().sum::<u64>().max(1));
    for (fault, weight) in FAULTS.into_iter().zip(weights) {
        if at < weight {
            world.counts.faults += 1;
            strike(world, fault);
            return;
        }
        at -= weight;
    }
}

fn a_host(world: &mut World, stores: bool) -> Option<usize> {
    let up: Vec<usize> = (0..world.hosts.len())
        .filter(|at| {
            let host = &world.hosts[*at];
            host.stores == stores && host.is_up && !host.is_paused
        })
        .collect();
    world.rng.pick(&up).copied()
}

fn strike(world: &mut World, fault: Fault) {
    let now_us = world.now_us;
    match fault {
        Fault::Crash | Fault::QuickCrash | Fault::CrashKeepingTail => {
            let Some(at) = a_host(world, true) else {
                return;
            };
            let down_us = match fault {
                Fault::Crash => world.rng.between(150_000, 350_000),
                _ => world.rng.between(3_000, 60_000),
            };
            world.log(|| format!("FAULT {fault:?} of @{at}"));
            crash(world, at, down_us, fault == Fault::CrashKeepingTail);
        }
        Fault::Blackout => {
            if world.profile.one_at_a_time {
                return;
            }
            world.log(|| "FAULT Blackout".to_owned());
            for at in 0..world.hosts.len() {
                if world.hosts[at].stores && world.hosts[at].is_up {
                    let down_us = world.rng.between(3_000, 100_000);
                    crash(world, at, down_us, false);
                }
            }
        }
        Fault::Pause | Fault::PausePastEviction => {
            let Some(at) = a_host(world, true) else {
                return;
            };
            let for_us = match fault {
                Fault::Pause => world.rng.between(10_000, 90_000),
                _ => world.rng.between(180_000, 420_000),
            };
            world.log(|| format!("FAULT {fault:?} of @{at} for {for_us}us"));
            world.hosts[at].is_paused = true;
            let run = world.hosts[at].run;
            world.faults.busy_until_us = now_us + for_us;
            world.put(now_us + for_us, What::Fault(Step::Resume(at, run)));
        }
        Fault::CutBoth | Fault::CutOneWay | Fault::CutFromAll => cut(world, fault),
        Fault::ClockJump => {
            let at = world.rng.index(world.hosts.len());
            let size_us = i64::try_from(world.rng.below(150_000)).unwrap_or(0);
            let sign = if world.rng.permille(500) { 1 } else { -1 };
            let most_us = i64::try_from(CLOCKS_MAX_US).unwrap_or(0);
            let jumped = (world.hosts[at].skew_us + sign * size_us).clamp(-most_us, most_us);
            world.log(|| format!("FAULT ClockJump of @{at} to {jumped}us"));
            world.hosts[at].skew_us = jumped;
        }
        Fault::SlowDisk => {
            if let Some(at) = a_host(world, true) {
                world.log(|| format!("FAULT SlowDisk of @{at}"));
                world.hosts[at].slow_until_us = now_us + world.rng.between(50_000, 300_000);
            }
        }
        Fault::ComputeCrash => {
            if let Some(at) = a_host(world, false) {
                world.log(|| format!("FAULT ComputeCrash of @{at}"));
                let down_us = world.rng.between(3_000, 100_000);
                crash(world, at, down_us, false);
            }
        }
        Fault::Move => {
            let mut epoch = world.disk.epoch().next(&[], &[], floor(world));
            epoch.salt = world.rng.bits();
            world.log(|| "FAULT Move".to_owned());
            world.put(now_us, What::Propose(epoch));
        }
        Fault::Join => join_or_leave(world),
    }
}

fn crash(world: &mut World, at: usize, down_us: u64, keeps_tail: bool) {
    let tails = match (&world.hosts[at].node, keeps_tail) {
        (Some(node), true) => node.tails(),
        _ => BTreeMap::new(),
    };
    let host = &mut world.hosts[at];
    host.is_up = false;
    host.is_paused = false;
    host.compute = None;
    let run = host.run;
    world.faults.busy_until_us = world.now_us + down_us;
    let back = Step::Back(at, run, tails);
    world.put(world.now_us + down_us, What::Fault(back));
}

fn cut(world: &mut World, fault: Fault) {
    let count = world.hosts.len();
    let a = world.rng.index(count);
    let b = (a + 1 + world.rng.index(count - 1)) % count;
    let for_us = world.rng.between(20_000, 300_000);
    world.log(|| format!("FAULT {fault:?} of @{a} and @{b} for {for_us}us"));
    let mut links = Vec::new();
    for other in 0..count {
        if other == a || (fault != Fault::CutFromAll && other != b) {
            continue;
        }
        links.push((a, other));
        if fault != Fault::CutOneWay {
            links.push((other, a));
        }
    }
    world.faults.busy_until_us = world.now_us + for_us;
    for (from, to) in links {
        let link = (
            u32::try_from(from).unwrap_or(0),
            u32::try_from(to).unwrap_or(0),
        );
        world.cuts.insert(link);
        world.put(
            world.now_us + for_us,
            What::Fault(Step::Mend(link.0, link.1)),
        );
    }
}

/// For an epoch that whoever runs the cluster proposes.
fn floor(world: &World) -> Time {
    world.config.floor(Now {
        monotonic_us: world.now_us,
        wall_us: world.wall_us(),
    })
}

fn join_or_leave(world: &mut World) {
    let now_us = world.now_us;
    let leaves = !world.faults.joined.is_empty() && world.rng.permille(400);
    if leaves {
        let at = world.faults.joined.remove(0);
        let member = world.hosts[at].node.as_ref().map(|node| node.me().member);
        if let Some(member) = member {
            world.log(|| format!("FAULT @{at} leaves"));
            let epoch = world.disk.epoch().next(&[], &[member], floor(world));
            world.put(now_us, What::Propose(epoch));
        }
    } else if world.hosts.len() < 7 {
        let at = world.add_host(true);
        let member = world.new_member();
        world.log(|| format!("FAULT @{at} joins"));
        world.faults.joined.push(at);
        world.begin(at, Some(member), BTreeMap::new());
    }
}
