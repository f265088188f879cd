//! What follows a safe record: answers, deliveries, messages.

use crate::message::{Action, Answer, Body, Call};
use crate::node::Node;
use crate::opening::Opening;
use crate::record::Applied;
use crate::{Address, PartitionId, Refusal, RequestId, Stamp, Token};

/// A commit's deltas on their way to one partition.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    id: RequestId,
    applied: Applied,
    /// Whether this member publishes nothing in its epoch before it has arrived.
    pub(super) is_gate: bool,
    retry_at_us: u64,
}

impl Delivery {
    pub(super) fn new(id: RequestId, applied: Applied, is_gate: bool) -> Delivery {
        Delivery {
            id,
            applied,
            is_gate,
            retry_at_us: 0,
        }
    }
}

/// A record that has become safe.
struct Settled {
    home: PartitionId,
    id: RequestId,
    is_served: bool,
}

impl Node {
    /// Answers for, delivers and lets go of what has become safe.
    pub(super) fn settle_records(&mut self) {
        let Some(epoch) = self.membership.epoch().cloned() else {
            return;
        };
        let mut settled = Vec::new();
        let opening = self.opening.values_mut().filter_map(Opening::partition_mut);
        let served = self.own.values_mut().map(|partition| (partition, true));
        for (partition, is_served) in served.chain(opening.map(|partition| (partition, false))) {
            if partition.unsafe_records.is_empty() {
                continue;
            }
            let has_standby = epoch.standby(partition.id).is_some();
            let (log, known) = (&partition.log, &mut partition.known);
            let home = partition.id;
            partition.unsafe_records.retain(|(end, id)| {
                let Some(known) = known.get_mut(id) else {
                    return false;
                };
                let is_safe = *end <= log.safe(known.record.durability, has_standby);
                if is_safe {
                    known.is_safe = true;
                    settled.push(Settled {
                        home,
                        id: *id,
                        is_served,
                    });
                }
                !is_safe
            });
        }
        for each in settled {
            self.settle(&each);
        }
    }

    fn settle(&mut self, settled: &Settled) {
        let Some(known) = self
            .logged(settled.home)
            .and_then(|partition| partition.known.get_mut(&settled.id))
        else {
            return;
        };
        let record = std::sync::Arc::clone(&known.record);
        for (to, ticket) in std::mem::take(&mut known.waiters) {
            let body = Body::Decided {
                ticket,
                stamp: record.stamp,
                snapshot: record.snapshot,
                result: std::sync::Arc::clone(&record.result),
            };
            self.send(to, body);
        }
        // A partition that is being opened delivers when it is done with what it is owed.
        if settled.is_served {
            self.start_deliveries(settled.home, settled.id);
        }
    }

    pub(super) fn start_deliveries(&mut self, home: PartitionId, id: RequestId) {
        let Some(known) = self.own.get_mut(&home).and_then(|p| p.known.get_mut(&id)) else {
            return;
        };
        let record = std::sync::Arc::clone(&known.record);
        if record.deltas.is_empty() {
            known.is_delivered = true;
            self.holds.remove(&record.stamp);
            return;
        }
        for (to, _) in &record.deltas {
            if let Some(applied) = record.for_partition(home, *to) {
                let delivery = Delivery::new(id, applied, false);
                self.deliveries
                    .entry((record.stamp, *to))
                    .or_insert(delivery);
            }
        }
        self.retry_deliveries();
    }

    /// Sends what is due; what belongs to a partition here is applied at once.
    pub(super) fn retry_deliveries(&mut self) {
        let now_us = self.now.monotonic_us;
        let mut due = Vec::new();
        for ((stamp, to), delivery) in &mut self.deliveries {
            if now_us >= delivery.retry_at_us {
                delivery.retry_at_us = now_us + self.config.retry_us;
                due.push((*stamp, *to, delivery.applied.clone()));
            }
        }
        for (stamp, partition, applied) in due {
            if let Some(here) = self.logged(partition) {
                here.apply(&applied);
                self.delivered(partition, stamp);
            } else {
                self.send_to_owner(partition, Body::Deliver { partition, applied });
            }
        }
    }

    pub(super) fn deliver(&mut self, from: Address, id: PartitionId, applied: &Applied) {
        if let Some(partition) = self.logged(id) {
            partition.apply(applied);
            self.clock.observe(applied.stamp.time);
            let body = Body::Delivered {
                partition: id,
                stamp: applied.stamp,
            };
            self.send(from, body);
        }
    }

    pub(super) fn delivered(&mut self, partition: PartitionId, stamp: Stamp) {
        let Some(delivery) = self.deliveries.remove(&(stamp, partition)) else {
            return;
        };
        let first = (stamp, PartitionId(0));
        let rest = self.deliveries.range(first..).next();
        if rest.is_some_and(|((other, _), _)| *other == stamp) {
            return;
        }
        self.holds.remove(&stamp);
        if let Some(home) = self.own.get_mut(&delivery.applied.home)
            && let Some(known) = home.known.get_mut(&delivery.id)
        {
            known.is_delivered = true;
        }
    }

    // ---- outgoing messages

    /// Sends each message of a safe record until the request that it is has been answered.
    pub(super) fn send_messages(&mut self) {
        let now_us = self.now.monotonic_us;
        let Some(loss) = self.membership.epoch().map(|epoch| epoch.loss) else {
            return;
        };
        let mut calls = Vec::new();
        for known in self.own.values_mut().flat_map(|p| p.known.values_mut()) {
            let record = &known.record;
            let is_due = known.is_safe && now_us >= known.send_at_us;
            if !is_due || known.sent.len() >= record.messages.len() {
                continue;
            }
            let is_retry = known.send_at_us > 0;
            known.send_at_us = now_us + 4 * self.config.retry_us;
            for (place, message) in (0_u32..).zip(&record.messages) {
                if known.sent.contains(&place) {
                    continue;
                }
                calls.push(Call {
                    id: record.message_id(place),
                    home: message.home,
                    arguments: u64::from(place),
                    token: Token::default().after(Some(record.stamp.time), record.snapshot, loss),
                    durability: record.durability,
                    steps: std::sync::Arc::clone(&message.steps),
                    messages: Vec::new(),
                    is_keyed: true,
                    is_retry,
                });
            }
        }
        for call in calls {
            if let Some(executor) = self.next_executor() {
                self.send(executor, Body::Call(call));
            }
        }
    }

    pub(super) fn message_answered(&mut self, id: RequestId, answer: &Answer) {
        // A message that is too old to be known has been answered before, or never will be.
        let is_final = matches!(
            answer,
            Answer::Done { .. } | Answer::Refused(Refusal::RequestExpired | Refusal::WrongKind)
        );
        if !is_final || id.child == 0 {
            return;
        }
        let place = id.child - 1;
        let sender = |known: &&mut crate::partition::Known| known.record.message_id(place) == id;
        for partition in self.own.values_mut() {
            let found = partition.known.values_mut().find(sender);
            if let Some(sent) = found.map(|known| known.record.id) {
                partition.append_sent(sent, place);
                return;
            }
        }
    }

    // ---- the standby's tail

    /// Sends the standby what it has to have.
    pub(super) fn replicate(&mut self) {
        let now_us = self.now.monotonic_us;
        let Some(epoch) = self.membership.epoch().cloned() else {
            return;
        };
        let mut sends = Vec::new();
        for partition in self.own.values_mut() {
            let Some(standby) = epoch.standby(partition.id) else {
                // Nobody to hold it: only stable storage makes it safe.
                partition.urgent = partition.urgent.max(partition.replicate);
                continue;
            };
            let log = &mut partition.log;
            let held = log.standby.max(log.flushed);
            let is_new = partition.replicate > log.sent;
            let is_late =
                partition.replicate > held && now_us >= log.sent_at_us + self.config.retry_us;
            if partition.replicate <= held || !(is_new || is_late) {
                continue;
            }
            let from = if is_late { held } else { held.max(log.sent) };
            log.sent = log.end();
            log.sent_at_us = now_us;
            let body = Body::Tail {
                partition: partition.id,
                generation: partition.generation,
                from,
                entries: log.from(from),
                flushed: log.flushed,
            };
            sends.push((standby.address, body));
        }
        for (to, body) in sends {
            self.send(to, body);
        }
    }

    pub(super) fn tail_held(
        &mut self,
        id: PartitionId,
        generation: crate::Generation,
        through: Option<usize>,
    ) {
        let Some(partition) = self.own.get_mut(&id) else {
            return;
        };
        if partition.generation != generation {
            return;
        }
        match through {
            Some(position) => partition.log.standby = partition.log.standby.max(position),
            None => {
                self.close(id);
                self.out.push(Action::ReadEpoch);
            }
        }
    }
}
