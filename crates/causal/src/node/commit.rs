//! A home decides: one thread, one log, nobody else is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_lattice::{Cell, Dot, Key, Op, Time};

use crate::message::{Body, CommitRequest};
use crate::node::{Hold, Node};
use crate::{Address, Canary, Durability, PartitionId, Record, Refusal, RequestId, Stamp, Ticket};

/// Parked writes; more are dropped, and asked for again.
const PARKED_MAX: usize = 1024;

/// A write at level `eventual`.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) from: Address,
    pub(super) ticket: Ticket,
    pub(super) id: RequestId,
    pub(super) key: Key,
    pub(super) op: Op,
    pub(super) token: Time,
    pub(super) durability: Durability,
}

impl Node {
    fn refuse(&mut self, to: Address, ticket: Ticket, refusal: Refusal) {
        self.send(to, Body::Refused { ticket, refusal });
    }

    /// A request that was sent before asks whether it has a record.
    pub(super) fn look(
        &mut self,
        from: Address,
        ticket: Ticket,
        id: RequestId,
        home: PartitionId,
        arguments: u64,
    ) {
        if !self.own.contains_key(&home) {
            self.refuse(from, ticket, Refusal::NotOwner);
        } else if !self.answer_known(from, ticket, id, home, arguments) {
            match self.is_expired(id) {
                true => self.refuse(from, ticket, Refusal::RequestExpired),
                false => self.send(from, Body::NotKnown { ticket }),
            }
        }
    }

    /// Answers a request that has a record; answers whether it has. One that is not safe yet is
    /// joined: a crash could still undo what would be told.
    fn answer_known(
        &mut self,
        from: Address,
        ticket: Ticket,
        id: RequestId,
        home: PartitionId,
        arguments: u64,
    ) -> bool {
        if self.config.canaries.has(Canary::NoDeduplication) {
            return false;
        }
        let at_once = self.config.canaries.has(Canary::ReportBeforeSafe);
        let known = self.own.get_mut(&home).and_then(|p| p.known.get_mut(&id));
        let Some(known) = known else {
            return false;
        };
        if known.record.arguments != arguments {
            self.refuse(from, ticket, Refusal::OtherArguments);
        } else if known.is_safe || at_once {
            let record = Arc::clone(&known.record);
            let body = Body::Decided {
                ticket,
                stamp: record.stamp,
                snapshot: record.snapshot,
                result: Arc::clone(&record.result),
            };
            self.send(from, body);
        } else if !known.waiters.contains(&(from, ticket)) {
            known.waiters.push((from, ticket));
        }
        true
    }

    /// Whether an id is so old that its record may have been forgotten.
    fn is_expired(&self, id: RequestId) -> bool {
        id.birth_us.saturating_add(self.config.retention_us) < self.now.wall_us
    }

    /// Why new work is not taken now.
    fn objection(&self, home: PartitionId, id: RequestId, ahead: Time) -> Option<Refusal> {
        let ahead_max_us = self.config.ahead_max_us();
        // Without a floor, a commit could be below a snapshot that was given before this member
        // came.
        if !self.own.contains_key(&home) || !self.membership.is_floored() {
            Some(Refusal::NotOwner)
        } else if self.is_expired(id) {
            Some(Refusal::RequestExpired)
        } else if !self.is_confirmed() {
            Some(Refusal::Unconfirmed)
        } else if ahead.micros() > self.now.wall_us.saturating_add(ahead_max_us) {
            Some(Refusal::ClockAhead)
        } else {
            None
        }
    }

    /// Draws a commit's time, above what it saw and above every frontier published, and holds the
    /// frontier there.
    fn draw(&mut self, home: PartitionId, snapshot: Time, token: Time) -> Stamp {
        self.clock.observe(snapshot);
        self.clock.observe(token);
        let stamp = Stamp {
            time: self.clock.now(self.now.wall_us),
            writer: self.me.member,
        };
        self.holds.insert(stamp, Hold { snapshot, home });
        stamp
    }

    /// Decides a request.
    pub(super) fn commit(&mut self, from: Address, request: CommitRequest) {
        let (id, home, ticket) = (request.id, request.home, request.ticket);
        if self.answer_known(from, ticket, id, home, request.arguments) {
            return;
        }
        let ahead = request.snapshot.max(request.token);
        if let Some(refusal) = self.objection(home, id, ahead) {
            self.refuse(from, ticket, refusal);
            return;
        }
        // Below what was ever published as held, a delta of this snapshot could come too late for
        // what it did not see deleted. While the snapshot is pinned anywhere, that is not so.
        if request.snapshot < self.membership.held_ever() {
            self.refuse(from, ticket, Refusal::SnapshotExpired);
            return;
        }
        let stamp = self.draw(home, request.snapshot, request.token);
        let deltas = self.by_partition(request.buffer.stamped(stamp.time, stamp.writer));
        let is_local = request.messages.is_empty() && deltas.iter().all(|(to, _)| *to == home);
        let durability = match request.durability {
            Durability::Memory if !is_local => Durability::Durable,
            asked => asked,
        };
        let record = Record {
            id,
            stamp,
            snapshot: request.snapshot,
            arguments: request.arguments,
            deltas,
            result: request.result,
            messages: request.messages,
            durability,
        };
        self.append(record, (from, ticket));
    }

    fn append(&mut self, record: Record, waiter: (Address, Ticket)) {
        let (id, stamp) = (record.id, record.stamp);
        let Some(home) = self.holds.get(&stamp).map(|hold| hold.home) else {
            return;
        };
        self.note(format!("logs {id} at {stamp} in {home}"));
        if let Some(partition) = self.own.get_mut(&home) {
            partition.append_commit(Arc::new(record), waiter);
        }
        if self.config.canaries.has(Canary::DeliverBeforeSafe) {
            self.start_deliveries(home, id);
        }
    }

    fn by_partition(
        &self,
        deltas: Vec<(Key, Arc<Cell>)>,
    ) -> Vec<(PartitionId, crate::record::Deltas)> {
        let mut parts: BTreeMap<PartitionId, Vec<(Key, Arc<Cell>)>> = BTreeMap::new();
        for (key, delta) in deltas {
            let to = PartitionId::of(&key, self.config.partitions);
            parts.entry(to).or_default().push((key, delta));
        }
        let shared = parts.into_iter().map(|(to, deltas)| (to, Arc::new(deltas)));
        shared.collect()
    }

    /// Takes the parked writes that stable has caught up with.
    pub(super) fn serve_parked(&mut self) {
        let stable = self.membership.stable();
        let (ready, waiting) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|write| write.token <= stable);
        self.parked = waiting;
        let ready: Vec<Parked> = ready;
        for write in ready {
            self.eventual(write);
        }
    }

    /// A write outside of any snapshot: a commit of one key, made from what its owner has now. It
    /// waits until everything of its session has come: a delete that came later would take the
    /// write for one that had not seen it.
    pub(super) fn eventual(&mut self, write: Parked) {
        if write.token > self.membership.stable() {
            let waits = |other: &Parked| other.ticket == write.ticket;
            if !self.parked.iter().any(waits) && self.parked.len() < PARKED_MAX {
                self.parked.push(write);
            }
            return;
        }
        let Parked {
            from,
            ticket,
            id,
            key,
            op,
            token,
            durability,
        } = write;
        let home = PartitionId::of(&key, self.config.partitions);
        if self.answer_known(from, ticket, id, home, 0) {
            return;
        }
        if let Some(refusal) = self.objection(home, id, token) {
            self.refuse(from, ticket, refusal);
            return;
        }
        // It has seen whatever is here, so all that will ever be folded below what is stable now.
        let snapshot = self.membership.stable();
        let stamp = self.draw(home, snapshot, token);
        let newest = self.own.get(&home).and_then(|p| p.chain(&key)?.newest());
        let mut dots = || Dot::new(stamp.time, stamp.writer, 1);
        let delta = match Cell::delta(newest.as_deref(), &op, stamp.time, &mut dots) {
            Ok(delta) => delta,
            Err(_) => {
                self.holds.remove(&stamp);
                self.refuse(from, ticket, Refusal::WrongKind);
                return;
            }
        };
        let deltas = if delta.is_bottom() {
            Vec::new()
        } else {
            vec![(home, Arc::new(vec![(key.clone(), Arc::new(delta))]))]
        };
        let record = Record {
            id,
            stamp,
            snapshot,
            arguments: 0,
            deltas,
            result: Arc::new(Vec::new()),
            messages: Vec::new(),
            durability,
        };
        // The next such write sees it at once; no snapshot does before it is logged.
        let applied = record.for_partition(home, home);
        self.append(record, (from, ticket));
        if let (Some(partition), Some(applied)) = (self.own.get_mut(&home), applied) {
            partition.apply(&applied);
        }
    }
}
