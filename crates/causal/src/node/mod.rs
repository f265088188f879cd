//! A member of the cluster: owner of some partitions, standby of others.
//!
//! Everything that has to happen together happens in one call, on one thread: drawing a commit
//! time and publishing a frontier exclude each other. What takes a while (a disk, a peer, an
//! executor) is an action whose answer is another event; what may get lost is asked for again at a
//! tick. It must not know how events are carried.

mod commit;
mod deliver;
mod epochs;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_lattice::{HybridClock, Time, Writer};

use crate::member::Learnt;
use crate::message::{Action, Body, Envelope, Event, envelope};
use crate::opening::Opening;
use crate::standby::{Standby, Tail};
use crate::{
    Address, Canary, Config, Epoch, Membership, Now, Partition, PartitionId, Placed, Stamp, Ticket,
};

use commit::Parked;
use deliver::Delivery;

/// A commit time that the frontier does not pass.
#[derive(Clone, Debug)]
struct Hold {
    /// What the commit read from.
    snapshot: Time,
    /// Its home.
    home: PartitionId,
}

/// A pinned snapshot.
#[derive(Clone, Copy, Debug)]
struct Pin {
    snapshot: Time,
    until_us: u64,
}

/// Somebody who waits for a snapshot at or above a time.
#[derive(Clone, Debug)]
struct PinWaiter {
    to: Address,
    ticket: Ticket,
    token: Time,
    until_us: u64,
}

/// A storage member.
#[derive(Debug)]
pub struct Node {
    me: Placed,
    config: Arc<Config>,
    now: Now,
    clock: HybridClock,
    membership: Membership,
    standby: Standby,
    own: BTreeMap<PartitionId, Partition>,
    opening: BTreeMap<PartitionId, Opening>,
    /// What has to be on stable storage before this member publishes in the epoch.
    unsettled: BTreeMap<PartitionId, usize>,
    holds: BTreeMap<Stamp, Hold>,
    /// Holds of records that were not safe when their partition left.
    orphans: BTreeMap<PartitionId, BTreeSet<Stamp>>,
    deliveries: BTreeMap<(Stamp, PartitionId), Delivery>,
    pins: BTreeMap<Ticket, Pin>,
    pin_waiters: Vec<PinWaiter>,
    /// Writes at level `eventual` that their session is ahead of.
    parked: Vec<Parked>,
    /// What the epoch's floor has to be at, as of when this member learnt of it.
    floor_least: Time,
    confirmed_us: u64,
    polled_us: u64,
    gossiped_us: u64,
    proposed_us: u64,
    orphans_us: u64,
    executor: usize,
    probed_hold: Option<Time>,
    evicted: bool,
    out: Vec<Action>,
}

/// What an observer may want to know of a node.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Its epoch's number.
    pub epoch: u64,
    /// Whether it publishes in that epoch.
    pub is_ready: bool,
    /// The partitions that it serves.
    pub serves: Vec<PartitionId>,
    /// Its stable time.
    pub stable: Time,
    /// Commits that not every participant has.
    pub undelivered: usize,
    /// Log entries on neither stable storage nor a standby.
    pub unsafe_entries: usize,
}

impl Node {
    /// A process that begins. `tails` are what outlived the process before it at this address,
    /// if anything did.
    #[must_use]
    pub fn new(me: Placed, config: Arc<Config>, tails: BTreeMap<PartitionId, Tail>) -> Node {
        Node {
            me,
            membership: Membership::new(me.member, config.canaries),
            config,
            now: Now::default(),
            clock: HybridClock::default(),
            standby: Standby::with(tails),
            own: BTreeMap::new(),
            opening: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            holds: BTreeMap::new(),
            orphans: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            pins: BTreeMap::new(),
            pin_waiters: Vec::new(),
            parked: Vec::new(),
            floor_least: Time::ZERO,
            confirmed_us: 0,
            polled_us: 0,
            gossiped_us: 0,
            proposed_us: 0,
            orphans_us: 0,
            executor: me.member.0 as usize,
            probed_hold: None,
            evicted: false,
            out: Vec::new(),
        }
    }

    /// Takes an event in and says what is to be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        self.now = now;
        if !self.evicted {
            match event {
                Event::Tick => self.tick(),
                Event::Message(envelope) => self.message(envelope),
                Event::Epoch(epoch) => self.learn(&epoch),
                Event::LogOpened {
                    partition,
                    generation,
                    read,
                } => self.log_opened(partition, generation, read),
                Event::LogWritten {
                    partition,
                    generation,
                    end,
                } => self.log_written(partition, generation, end),
                Event::LogFenced {
                    partition,
                    generation,
                } => self.log_fenced(partition, generation),
            }
            self.advance();
        }
        std::mem::take(&mut self.out)
    }

    /// This process.
    #[must_use]
    pub fn me(&self) -> Placed {
        self.me
    }

    /// What outlives the process if its memory does: the tails that it holds, of its own logs too.
    #[must_use]
    pub fn tails(&self) -> BTreeMap<PartitionId, Tail> {
        let mut standby = self.standby.clone();
        let opening = self.opening.values().filter_map(Opening::partition);
        for partition in self.own.values().chain(opening) {
            standby.keep(partition.id, tail_of(partition));
        }
        standby.tails().clone()
    }

    /// What an observer may want to know.
    #[must_use]
    pub fn facts(&self) -> NodeFacts {
        let waiting = |partition: &Partition| partition.unsafe_records.len();
        NodeFacts {
            epoch: self.membership.epoch_number(),
            is_ready: self.is_ready(),
            serves: self.own.keys().copied().collect(),
            stable: self.membership.stable(),
            undelivered: self.deliveries.len() + self.holds.len(),
            unsafe_entries: self.own.values().map(waiting).sum(),
        }
    }

    /// A partition that it serves.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.own.get(&id)
    }

    /// Its view of the cluster.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    // ---- sending

    fn send(&mut self, to: Address, body: Body) {
        let number = self.membership.epoch_number();
        let envelope = envelope(self.me.address, number, self.clock.last(), body);
        self.out.push(Action::Send { to, envelope });
    }

    /// To whoever owns a partition in this member's epoch.
    fn send_to_owner(&mut self, partition: PartitionId, body: Body) {
        let owner = self.membership.epoch().and_then(|e| e.owner(partition));
        if let Some(owner) = owner {
            self.send(owner.address, body);
        }
    }

    fn note(&mut self, text: String) {
        self.out.push(Action::Note(text));
    }

    // ---- events

    fn message(&mut self, envelope: Envelope) {
        let Envelope {
            from,
            epoch,
            time,
            body,
        } = envelope;
        self.clock.observe(time);
        let own_epoch = self.membership.epoch_number();
        if epoch != 0 && epoch > own_epoch {
            // The newer epoch is learnt first; the sender asks again.
            self.out.push(Action::ReadEpoch);
            return;
        }
        if epoch != 0 && epoch < own_epoch && !self.config.canaries.has(Canary::NoEpochCheck) {
            self.send(from, Body::Stale);
            return;
        }
        match body {
            Body::Pin { ticket, token } => self.pin(from, ticket, token),
            Body::Unpin { ticket } => {
                self.pins.remove(&ticket);
            }
            Body::Read {
                ticket,
                partition,
                key,
                at,
                subscribe,
            } => self.read(from, ticket, partition, &key, at, subscribe),
            Body::Look {
                ticket,
                id,
                home,
                arguments,
            } => self.look(from, ticket, id, home, arguments),
            Body::Commit(request) => self.commit(from, request),
            Body::Eventual {
                ticket,
                id,
                key,
                op,
                token,
                durability,
            } => self.eventual(Parked {
                from,
                ticket,
                id,
                key,
                op,
                token,
                durability,
            }),
            Body::Answered { id, answer } => self.message_answered(id, &answer),
            body => self.peer_message(from, body),
        }
    }

    fn peer_message(&mut self, from: Address, body: Body) {
        match body {
            Body::Gossip(gossip) => self.membership.merge(&gossip, self.now),
            Body::Deliver { partition, applied } => self.deliver(from, partition, &applied),
            Body::Delivered { partition, stamp } => self.delivered(partition, stamp),
            Body::Tail {
                partition,
                generation,
                from: position,
                entries,
                flushed,
            } => self.tail(from, partition, generation, position, &entries, flushed),
            Body::TailHeld {
                partition,
                generation,
                through,
            } => self.tail_held(partition, generation, through),
            Body::Seal {
                partition,
                generation,
            } => self.seal(from, partition, generation),
            Body::Sealed {
                partition,
                generation,
                member,
                tail,
            } => self.sealed(partition, generation, member, tail),
            Body::Redo {
                home,
                partition,
                above,
            } => self.redo(from, home, partition, above),
            Body::Redone {
                home,
                partition,
                applied,
            } => self.redone(home, partition, &applied),
            Body::IsOpen { partition } => self.tell_open(from, partition),
            Body::Open { partition } => self.release_orphans(partition),
            Body::Stale => self.out.push(Action::ReadEpoch),
            _ => {}
        }
    }

    fn tick(&mut self) {
        let now_us = self.now.monotonic_us;
        if now_us >= self.polled_us + self.config.epoch_poll_us || self.polled_us == 0 {
            self.polled_us = now_us.max(1);
            self.out.push(Action::ReadEpoch);
        }
        if self.membership.epoch().is_none() {
            return;
        }
        self.floor();
        if now_us >= self.gossiped_us + self.config.gossip_us {
            self.gossiped_us = now_us;
            self.publish();
            self.gossip();
        }
        self.propose_eviction();
        self.retry_openings();
        self.retry_deliveries();
        self.retry_orphans();
        self.expire_pins();
        self.maintain();
        self.send_messages();
    }

    /// What any event may have made possible.
    fn advance(&mut self) {
        self.advance_openings();
        self.replicate();
        self.drive_logs();
        self.settle_records();
        self.serve_pins();
        self.serve_parked();
    }

    // ---- frontier

    fn is_ready(&self) -> bool {
        if self.config.canaries.has(Canary::FrontierBeforeRedo) {
            return self.membership.epoch().is_some();
        }
        self.membership.epoch().is_some()
            && self.membership.is_floored()
            && self.opening.is_empty()
            && self.unsettled.is_empty()
            && !self.deliveries.values().any(|delivery| delivery.is_gate)
    }

    /// Publishes the frontier: every later commit of this member is at or above it, and every
    /// commit below it is applied wherever it belongs.
    fn publish(&mut self) {
        // Who was given up and has not noticed must not let stable go on for ever: those who begin
        // anew begin above what it can have reached by the time that it notices.
        if !self.is_ready() || !self.is_confirmed() {
            return;
        }
        let next = self.clock.now(self.now.wall_us).next();
        let mut hold = self.holds.keys().next().map(|stamp| stamp.time);
        if self.config.canaries.has(Canary::ClockAfterHolds) {
            // What a thread sees that looks at the holds first and at the clock a moment later.
            std::mem::swap(&mut hold, &mut self.probed_hold);
        }
        let frontier = hold.map_or(next, |hold| hold.min(next));
        let stable = self.membership.stable();
        let pinned = self.pins.values().map(|pin| pin.snapshot);
        let pinned = pinned.fold(stable, Time::min);
        // A delta still on its way was made from its snapshot: nothing that it may not have seen
        // deleted is forgotten anywhere before it has come.
        let mut held = self.membership.pinned_line();
        if !self.config.canaries.has(Canary::LowWaterIgnoresUndelivered) {
            let snapshots = self.holds.values().map(|hold| hold.snapshot);
            held = snapshots.fold(held, Time::min);
        }
        self.membership.publish(frontier, pinned, held);
    }

    fn gossip(&mut self) {
        let Some(epoch) = self.membership.epoch().cloned() else {
            return;
        };
        let me = self.me.member;
        let others: Vec<Placed> = epoch
            .members
            .iter()
            .filter(|placed| placed.member != me)
            .copied()
            .collect();
        if others.is_empty() {
            return;
        }
        let gossip = self.membership.gossip();
        let beat = usize::try_from(self.membership.beat()).unwrap_or(0);
        for step in 0..self.config.gossip_peers.min(others.len()) {
            let peer = beat
                .wrapping_mul(self.config.gossip_peers)
                .wrapping_add(step);
            if let Some(peer) = others.get(peer % others.len()) {
                self.send(peer.address, Body::Gossip(gossip.clone()));
            }
        }
    }

    fn propose_eviction(&mut self) {
        let now_us = self.now.monotonic_us;
        if now_us < self.proposed_us + self.config.evict_us / 4 {
            return;
        }
        self.proposed_us = now_us;
        if let Some(next) = self.membership.eviction(&self.config, self.now) {
            self.note(format!("proposes epoch {}", next.number));
            self.out.push(Action::Propose(next));
            self.out.push(Action::ReadEpoch);
        }
    }

    /// A joiner begins above what a member that went on has published in the same epoch.
    fn floor(&mut self) {
        if self.membership.is_floored() {
            return;
        }
        if let Some(frontier) = self.membership.greatest_frontier() {
            self.begin_above(frontier);
        } else if self.membership.nobody_is_floored()
            && let Some(epoch) = self.membership.epoch().cloned()
        {
            // A cold start.
            if epoch.floor >= self.floor_least {
                self.begin_above(epoch.floor);
            } else {
                self.propose_floor(&epoch);
            }
        }
    }

    /// The epoch was so long on its way that snapshots above its floor may have been given
    /// meanwhile: the same members again, with a newer one.
    fn propose_floor(&mut self, epoch: &Epoch) {
        let now_us = self.now.monotonic_us;
        if now_us >= self.proposed_us + self.config.evict_us / 4 {
            self.proposed_us = now_us;
            let next = epoch.next(&[], &[], self.config.floor(self.now));
            self.note(format!("proposes epoch {} for its floor", next.number));
            self.out.push(Action::Propose(next));
            self.out.push(Action::ReadEpoch);
        }
    }

    /// All commits of this member will be above a time. What homes have yet to deliver may be below
    /// it, so it is no fold line.
    fn begin_above(&mut self, floor: Time) {
        self.note(format!("begins above {floor}"));
        self.clock.observe(floor);
        self.membership.set_floored(floor);
    }

    // ---- epochs

    fn learn(&mut self, epoch: &Arc<Epoch>) {
        self.confirmed_us = self.now.monotonic_us;
        match self.membership.learn(epoch, self.now) {
            Learnt::Known => {}
            Learnt::Absent => {
                let floor = self.config.floor(self.now);
                let next = epoch.next(&[self.me], &self.namesakes(epoch), floor);
                self.out.push(Action::Propose(next));
                self.out.push(Action::ReadEpoch);
            }
            Learnt::Evicted => {
                self.evicted = true;
                self.note("was evicted".to_owned());
                self.out.push(Action::Rejoin);
            }
            Learnt::Member { skipped } => self.enter(epoch, skipped),
        }
    }

    /// Members that were at this process's address before it.
    fn namesakes(&self, epoch: &Epoch) -> Vec<Writer> {
        let here = epoch.members.iter();
        here.filter(|placed| placed.address == self.me.address)
            .map(|placed| placed.member)
            .collect()
    }

    /// Whether it has lately seen that it still is a member.
    fn is_confirmed(&self) -> bool {
        self.now.monotonic_us <= self.confirmed_us + self.config.unconfirmed_us()
    }

    /// A partition whose log is open here, served or not.
    fn logged(&mut self, partition: PartitionId) -> Option<&mut Partition> {
        match self.own.get_mut(&partition) {
            Some(own) => Some(own),
            None => self.opening.get_mut(&partition)?.partition_mut(),
        }
    }

    /// Where the next message's request runs.
    fn next_executor(&mut self) -> Option<Address> {
        self.executor = self.executor.wrapping_add(1);
        let executors = &self.config.executors;
        executors
            .get(self.executor % executors.len().max(1))
            .copied()
    }
}

/// The end of a partition's log that stable storage may not have.
fn tail_of(partition: &Partition) -> Tail {
    let start = partition.log.flushed;
    Tail {
        generation: partition.written_as,
        start,
        entries: partition.log.from(start),
    }
}
