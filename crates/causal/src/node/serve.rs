//! What a member does for compute nodes and for other members' logs.

use std::sync::Arc;

use tidemill_lattice::{Key, Time};

use crate::cache::Fill;
use crate::message::{Action, Body};
use crate::node::{Node, Pin, PinWaiter};
use crate::record::Entry;
use crate::standby::Taken;
use crate::streams::StreamId;
use crate::{Address, Generation, LogWrite, PartitionId, Refusal, Ticket};

impl Node {
    // ---- pins

    /// Pins a snapshot, now or as soon as stable has passed the session's time.
    pub(super) fn pin(&mut self, to: Address, ticket: Ticket, token: Time) {
        if let Some(pin) = self.pins.get(&ticket) {
            let snapshot = pin.snapshot;
            self.send(to, Body::Pinned { ticket, snapshot });
            return;
        }
        let waits = |waiter: &&mut PinWaiter| waiter.ticket == ticket;
        let until_us = self.now.monotonic_us + self.config.lease_us;
        match self.pin_waiters.iter_mut().find(waits) {
            Some(waiter) => waiter.until_us = until_us,
            None => self.pin_waiters.push(PinWaiter {
                to,
                ticket,
                token,
                until_us,
            }),
        }
    }

    pub(super) fn serve_pins(&mut self) {
        let stable = self.membership.stable();
        if stable == Time::ZERO || self.pin_waiters.is_empty() {
            return;
        }
        let until_us = self.now.monotonic_us + self.config.lease_us;
        let (ready, waiting) = std::mem::take(&mut self.pin_waiters)
            .into_iter()
            .partition(|waiter| waiter.token <= stable);
        self.pin_waiters = waiting;
        let ready: Vec<PinWaiter> = ready;
        for waiter in ready {
            let pin = Pin {
                snapshot: stable,
                until_us,
            };
            self.pins.insert(waiter.ticket, pin);
            let body = Body::Pinned {
                ticket: waiter.ticket,
                snapshot: stable,
            };
            self.send(waiter.to, body);
        }
    }

    pub(super) fn expire_pins(&mut self) {
        let now_us = self.now.monotonic_us;
        self.pins.retain(|_, pin| now_us < pin.until_us);
        self.pin_waiters.retain(|waiter| now_us < waiter.until_us);
    }

    // ---- reads

    /// Reads a key at a snapshot. Never waits: everything at or below a snapshot is here.
    pub(super) fn read(
        &mut self,
        from: Address,
        ticket: Ticket,
        id: PartitionId,
        key: &Key,
        at: Time,
        subscribe: Option<Option<StreamId>>,
    ) {
        let stable = self.membership.stable();
        let refusal = match self.own.get(&id) {
            None => Some(Refusal::NotOwner),
            Some(partition) if at < partition.fold_line() => Some(Refusal::SnapshotExpired),
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            self.send(from, Body::Refused { ticket, refusal });
            return;
        }
        let Some(partition) = self.own.get_mut(&id) else {
            return;
        };
        let cell = partition.read(key, at);
        let entry = subscribe.map(|known| {
            let subscriber = (ticket.address, ticket.incarnation);
            let generation = partition.generation;
            let stream = partition
                .streams
                .subscribe(subscriber, known, key, generation, stable);
            let chain = partition.chain(key).cloned().unwrap_or_default();
            let deltas = chain.between(Time::ZERO, stream.through);
            Fill {
                partition: id,
                stream: stream.id,
                sequence: stream.sequence,
                through: stream.through,
                base_through: partition.fold_line(),
                base: Arc::clone(chain.base()),
                deltas: deltas
                    .map(|(stamp, _, delta)| (stamp, Arc::clone(delta)))
                    .collect(),
            }
        });
        let body = Body::Value {
            ticket,
            cell,
            entry,
        };
        self.send(from, body);
    }

    // ---- what goes on in the background

    /// Marks, folds, pushes, images.
    pub(super) fn maintain(&mut self) {
        let now_us = self.now.monotonic_us;
        let stable = self.membership.stable();
        let line = self.membership.fold_line();
        let settled = self.is_ready() && self.membership.is_settled();
        let config = Arc::clone(&self.config);
        let margin_us = config.retention_us + 2 * config.clock_bound_us;
        let oldest_birth_us = self.now.wall_us.saturating_sub(margin_us);
        let mut pushes = Vec::new();
        for partition in self.own.values_mut() {
            if settled && now_us >= partition.marked_at_us + config.mark_us {
                partition.marked_at_us = now_us;
                partition.append_mark(stable);
                let membership = &self.membership;
                partition.forget(&|of| membership.mark(of), oldest_birth_us);
            }
            if now_us >= partition.folded_at_us + config.fold_us {
                partition.folded_at_us = now_us;
                partition.fold(line, stable);
            }
            if now_us >= partition.pushed_at_us + config.push_us {
                partition.pushed_at_us = now_us;
                pushes.extend(partition.pushes(stable));
            }
            let log = &mut partition.log;
            let is_long = log.kept() >= config.image_entries && log.flushed == log.end();
            if is_long && log.writing.is_none() {
                let end = log.end();
                log.writing = Some(end);
                log.imaging = Some(end);
                let image = Some(Arc::new(partition.image()));
                self.out.push(Action::WriteLog(LogWrite {
                    partition: partition.id,
                    generation: partition.generation,
                    from: end,
                    entries: Vec::new(),
                    image,
                }));
            }
        }
        for (to, push) in pushes {
            self.send(to, Body::Push(push));
        }
    }

    /// Holds the tail of somebody else's log.
    pub(super) fn tail(
        &mut self,
        from: Address,
        partition: PartitionId,
        generation: Generation,
        position: usize,
        entries: &[Arc<Entry>],
        flushed: usize,
    ) {
        let taken = self
            .standby
            .take(partition, generation, position, entries, flushed);
        let through = match taken {
            Taken::Through(position) => Some(position),
            Taken::Sealed => None,
        };
        let body = Body::TailHeld {
            partition,
            generation,
            through,
        };
        self.send(from, body);
    }
}
