//! A compute node: gateway and executor in one. It keeps nothing that anybody needs.
//!
//! An attempt at a request pins a snapshot, runs the steps, here or on other compute nodes, and
//! sends what they wrote to the home. If anything is lost on the way the attempt is asked for
//! again; if this node dies, the caller asks another, and the home's record makes one of it. It
//! must not know how a home decides.

mod attempt;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_lattice::{Key, Op, Time, Writer};

use crate::message::{Action, Answer, Body, Envelope, Event, envelope};
use crate::{
    Address, Cache, Config, Durability, Epoch, Now, PartitionId, Refusal, RequestId, Seen, Ticket,
    Token,
};

use attempt::Attempt;
use step::{Reading, Run};

/// What one attempt's steps saw, whatever became of it.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The request.
    pub id: RequestId,
    /// The snapshot.
    pub snapshot: Time,
    /// What was seen, step by step.
    pub seen: Vec<Seen>,
}

/// A write at level `eventual` on its way to its owner.
#[derive(Clone, Debug)]
struct Writing {
    reply_to: Address,
    id: RequestId,
    key: Key,
    op: Op,
    token: Token,
    durability: Durability,
    retry_at_us: u64,
    until_us: u64,
}

/// A compute node.
#[derive(Debug)]
pub struct Compute {
    address: Address,
    incarnation: Writer,
    config: Arc<Config>,
    now: Now,
    epoch: Option<Arc<Epoch>>,
    cache: Cache,
    /// The last number given to an attempt, a run, a reading or a writing.
    last: u64,
    attempts: BTreeMap<u64, Attempt>,
    runs: BTreeMap<u64, Run>,
    readings: BTreeMap<u64, Reading>,
    writings: BTreeMap<u64, Writing>,
    observations: Vec<Observation>,
    polled_us: Option<u64>,
    out: Vec<Action>,
}

impl Compute {
    /// A process that begins. No other had this `incarnation`.
    #[must_use]
    pub fn new(address: Address, incarnation: Writer, config: Arc<Config>) -> Compute {
        Compute {
            address,
            incarnation,
            cache: Cache::new(config.canaries),
            config,
            now: Now::default(),
            epoch: None,
            last: 0,
            attempts: BTreeMap::new(),
            runs: BTreeMap::new(),
            readings: BTreeMap::new(),
            writings: BTreeMap::new(),
            observations: Vec::new(),
            polled_us: None,
            out: Vec::new(),
        }
    }

    /// Takes an event in and says what is to be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        self.now = now;
        match event {
            Event::Tick => self.tick(),
            Event::Message(envelope) => self.message(envelope),
            Event::Epoch(epoch) => {
                let known = self.epoch.as_ref().map_or(0, |epoch| epoch.number);
                if epoch.number > known {
                    self.epoch = Some(epoch);
                }
            }
            Event::LogOpened { .. } | Event::LogWritten { .. } | Event::LogFenced { .. } => {}
        }
        std::mem::take(&mut self.out)
    }

    /// What attempts have seen since this was asked last.
    pub fn take_observations(&mut self) -> Vec<Observation> {
        std::mem::take(&mut self.observations)
    }

    /// Its cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn ticket(&self, number: u64) -> Ticket {
        Ticket {
            address: self.address,
            incarnation: self.incarnation,
            number,
        }
    }

    fn is_mine(&self, ticket: Ticket) -> bool {
        ticket.address == self.address && ticket.incarnation == self.incarnation
    }

    fn send(&mut self, to: Address, body: Body) {
        let number = self.epoch.as_ref().map_or(0, |epoch| epoch.number);
        let envelope = envelope(self.address, number, Time::ZERO, body);
        self.out.push(Action::Send { to, envelope });
    }

    fn send_to_owner(&mut self, partition: PartitionId, body: Body) {
        let owner = self.epoch.as_ref().and_then(|epoch| epoch.owner(partition));
        if let Some(owner) = owner {
            self.send(owner.address, body);
        }
    }

    fn answer(&mut self, to: Address, id: RequestId, answer: Answer) {
        self.send(to, Body::Answered { id, answer });
    }

    fn message(&mut self, envelope: Envelope) {
        let Envelope {
            from, epoch, body, ..
        } = envelope;
        let known = self.epoch.as_ref().map_or(0, |epoch| epoch.number);
        if epoch > known {
            // A snapshot of a newer epoch must not be read from an owner of an older one.
            self.out.push(Action::ReadEpoch);
            return;
        }
        match body {
            Body::Call(call) => self.call(from, call),
            Body::Write {
                id,
                key,
                op,
                token,
                durability,
            } => self.write(Writing {
                reply_to: from,
                id,
                key,
                op,
                token,
                durability,
                retry_at_us: 0,
                until_us: self.now.monotonic_us + self.config.attempt_us,
            }),
            Body::NotKnown { ticket } if self.is_mine(ticket) => self.not_known(ticket.number),
            Body::Pinned { ticket, snapshot } => self.pinned(from, ticket, snapshot),
            Body::Value {
                ticket,
                cell,
                entry,
            } if self.is_mine(ticket) => self.value(ticket.number, cell, entry),
            Body::Push(push) if push.subscriber == self.incarnation => self.cache.push(&push),
            Body::Decided {
                ticket,
                stamp,
                snapshot,
                result,
            } if self.is_mine(ticket) => self.decided(ticket.number, stamp, snapshot, result),
            Body::Refused { ticket, refusal } if self.is_mine(ticket) => {
                self.refused(ticket.number, refusal);
            }
            Body::StepCall {
                run,
                at,
                before,
                step,
            } => self.start_run(from, run, at, before, step),
            Body::StepReply { run, outcome } if self.is_mine(run.0) => {
                self.step_reply((run.0.number, run.1, run.2), outcome);
            }
            Body::Stale => self.out.push(Action::ReadEpoch),
            _ => {}
        }
    }

    fn tick(&mut self) {
        let now_us = self.now.monotonic_us;
        let poll_us = self.config.epoch_poll_us;
        if self
            .polled_us
            .is_none_or(|polled| now_us >= polled + poll_us)
        {
            self.polled_us = Some(now_us);
            self.out.push(Action::ReadEpoch);
        }
        if self.epoch.is_some() {
            self.retry_attempts();
            self.retry_readings();
            self.retry_writings();
        }
    }

    // ---- writes at level `eventual`

    fn write(&mut self, writing: Writing) {
        let number = self.number();
        self.writings.insert(number, writing);
        self.retry_writings();
    }

    fn retry_writings(&mut self) {
        let now_us = self.now.monotonic_us;
        self.writings.retain(|_, writing| now_us < writing.until_us);
        let mut due = Vec::new();
        for (number, writing) in &mut self.writings {
            if now_us >= writing.retry_at_us {
                writing.retry_at_us = now_us + self.config.retry_us;
                due.push((*number, writing.clone()));
            }
        }
        for (number, writing) in due {
            let partition = PartitionId::of(&writing.key, self.config.partitions);
            let body = Body::Eventual {
                ticket: self.ticket(number),
                id: writing.id,
                key: writing.key,
                op: writing.op,
                token: writing.token.time,
                durability: writing.durability,
            };
            self.send_to_owner(partition, body);
        }
    }

    // ---- answers

    fn decided(
        &mut self,
        number: u64,
        stamp: crate::Stamp,
        snapshot: Time,
        result: Arc<Vec<Seen>>,
    ) {
        if let Some(writing) = self.writings.remove(&number) {
            let token = self.token_after(writing.token, Some(stamp.time), Time::ZERO);
            let answer = Answer::Done {
                commit: Some(stamp),
                snapshot: Time::ZERO,
                result,
                token,
            };
            self.answer(writing.reply_to, writing.id, answer);
        } else {
            self.finish(number, Some(stamp), snapshot, result);
        }
    }

    fn refused(&mut self, number: u64, refusal: Refusal) {
        if self.readings.contains_key(&number) {
            self.reading_refused(number, refusal);
        } else if self.writings.contains_key(&number) {
            let is_passing = matches!(
                refusal,
                Refusal::NotOwner | Refusal::Unconfirmed | Refusal::ClockAhead
            );
            if !is_passing && let Some(writing) = self.writings.remove(&number) {
                self.answer(writing.reply_to, writing.id, Answer::Refused(refusal));
            }
        } else {
            self.attempt_refused(number, refusal);
        }
    }
}
