//! One attempt at a request: look, pin, run, commit, answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_lattice::Time;

use crate::compute::{Compute, Observation};
use crate::message::{Answer, Body, Call, CommitRequest, StepOutcome};
use crate::{Address, Buffer, Canary, Refusal, RequestId, Seen, Stamp, Ticket, Token, TokenState};

/// How far an attempt has come.
#[derive(Clone, Debug)]
enum Stage {
    /// The home is asked whether the request has a record.
    Looking,
    /// A snapshot is asked for.
    Pinning,
    /// Its steps run.
    Running,
    /// The home is asked to decide.
    Committing(Box<CommitRequest>),
}

/// One attempt.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    call: Call,
    reply_to: Address,
    stage: Stage,
    /// The member that was asked for the pin, and the snapshot.
    pin_at: Option<Address>,
    snapshot: Time,
    /// The group that runs, what it has replied, what was written before.
    group: u32,
    replies: BTreeMap<u32, (Vec<Seen>, Arc<Buffer>)>,
    buffer: Arc<Buffer>,
    seen: Vec<Seen>,
    retry_at_us: u64,
    until_us: u64,
    tries: u64,
}

impl Compute {
    /// A client, or a home with a message's request, calls.
    pub(super) fn call(&mut self, from: Address, call: Call) {
        let until_us = self.now.monotonic_us + self.config.attempt_us;
        if let Some(number) = self.begin(from, call, until_us) {
            self.drive(number);
        }
    }

    fn begin(&mut self, reply_to: Address, call: Call, until_us: u64) -> Option<u64> {
        let loss = self.epoch.as_ref().map_or(0, |epoch| epoch.loss);
        if call.token.state(loss) == TokenState::Lost {
            self.answer(reply_to, call.id, Answer::Refused(Refusal::StateLost));
            return None;
        }
        let number = self.number();
        let attempt = Attempt {
            stage: if call.is_retry {
                Stage::Looking
            } else {
                Stage::Pinning
            },
            call,
            reply_to,
            pin_at: None,
            snapshot: Time::ZERO,
            group: 0,
            replies: BTreeMap::new(),
            buffer: Arc::new(Buffer::new(0)),
            seen: Vec::new(),
            retry_at_us: self.now.monotonic_us + self.config.retry_us / 4,
            until_us,
            tries: 0,
        };
        self.attempts.insert(number, attempt);
        Some(number)
    }

    /// Sends what the attempt waits for.
    fn drive(&mut self, number: u64) {
        let (now_us, retry_us) = (self.now.monotonic_us, self.config.retry_us);
        let Some(epoch) = self.epoch.clone() else {
            return;
        };
        let (ticket, here) = (self.ticket(number), self.address);
        let Some(attempt) = self.attempts.get_mut(&number) else {
            return;
        };
        attempt.retry_at_us = now_us + retry_us;
        attempt.tries += 1;
        let call = &attempt.call;
        match attempt.stage.clone() {
            Stage::Looking => {
                let look = Body::Look {
                    ticket,
                    id: call.id,
                    home: call.home,
                    arguments: call.arguments,
                };
                let home = call.home;
                self.send_to_owner(home, look);
            }
            Stage::Pinning => {
                let token = call.token.time;
                // A member in the same process if there is one, or each in turn.
                let at = epoch.members.iter().find(|placed| placed.address == here);
                let turn = (number + attempt.tries) as usize % epoch.members.len().max(1);
                let at = at.or(epoch.members.get(turn)).map(|placed| placed.address);
                if let Some(at) = at {
                    attempt.pin_at = Some(at);
                    self.send(at, Body::Pin { ticket, token });
                }
            }
            Stage::Running => self.send_steps(number),
            Stage::Committing(request) => {
                self.send_to_owner(request.home, Body::Commit(*request));
            }
        }
    }

    pub(super) fn retry_attempts(&mut self) {
        let now_us = self.now.monotonic_us;
        let given_up = |attempt: &Attempt| now_us >= attempt.until_us;
        let gone: Vec<u64> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| given_up(attempt))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            // The caller asks again, here or elsewhere.
            self.end(number);
        }
        let due: Vec<u64> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| now_us >= attempt.retry_at_us)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.drive(number);
        }
    }

    pub(super) fn not_known(&mut self, number: u64) {
        if let Some(attempt) = self.attempts.get_mut(&number)
            && matches!(attempt.stage, Stage::Looking)
        {
            attempt.stage = Stage::Pinning;
            self.drive(number);
        }
    }

    pub(super) fn pinned(&mut self, from: Address, ticket: Ticket, snapshot: Time) {
        let wanted = self.is_mine(ticket)
            && self.attempts.get(&ticket.number).is_some_and(|attempt| {
                matches!(attempt.stage, Stage::Pinning) && snapshot >= attempt.call.token.time
            });
        if !wanted {
            // An answer to a question that was asked elsewhere too.
            let held = self.is_mine(ticket)
                && self
                    .attempts
                    .get(&ticket.number)
                    .is_some_and(|attempt| attempt.pin_at == Some(from));
            if !held {
                self.send(from, Body::Unpin { ticket });
            }
            return;
        }
        if let Some(attempt) = self.attempts.get_mut(&ticket.number) {
            attempt.pin_at = Some(from);
            attempt.snapshot = snapshot;
            attempt.stage = Stage::Running;
            self.drive(ticket.number);
        }
    }

    /// Starts the steps of the group that have not replied.
    fn send_steps(&mut self, number: u64) {
        let ticket = self.ticket(number);
        let Some(attempt) = self.attempts.get(&number) else {
            return;
        };
        let Some(group) = attempt.call.steps.get(attempt.group as usize).cloned() else {
            self.steps_done(number);
            return;
        };
        let (at, before) = (attempt.snapshot, Arc::clone(&attempt.buffer));
        let place = attempt.group;
        let replied: BTreeSet<u32> = attempt.replies.keys().copied().collect();
        for (index, step) in (0..).zip(group) {
            if replied.contains(&index) {
                continue;
            }
            let run = (ticket, place, index);
            let before = Arc::clone(&before);
            match step.place {
                Some(elsewhere) if elsewhere != self.address => {
                    let body = Body::StepCall {
                        run,
                        at,
                        before,
                        step,
                    };
                    self.send(elsewhere, body);
                }
                _ if self.is_running(run) => {}
                _ => self.start_run(self.address, run, at, before, step),
            }
        }
    }

    /// A step has replied. One reply is accepted for each step: a lost answer makes it run twice.
    pub(super) fn step_reply(&mut self, run: (u64, u32, u32), outcome: StepOutcome) {
        let (number, group, index) = run;
        let twice = self.config.canaries.has(Canary::StepReplyTwice);
        let Some(attempt) = self.attempts.get_mut(&number) else {
            return;
        };
        if !matches!(attempt.stage, Stage::Running) || attempt.group != group {
            if twice
                && matches!(attempt.stage, Stage::Running)
                && group < attempt.group
                && let StepOutcome::Done { wrote, .. } = outcome
            {
                Arc::make_mut(&mut attempt.buffer).absorb(&wrote);
            }
            return;
        }
        match outcome {
            StepOutcome::Failed(refusal) => self.attempt_refused(number, refusal),
            StepOutcome::Done { seen, wrote } => {
                if attempt.replies.contains_key(&index) {
                    if twice {
                        Arc::make_mut(&mut attempt.buffer).absorb(&wrote);
                    }
                    return;
                }
                attempt.replies.insert(index, (seen, wrote));
                let steps = attempt.call.steps.get(group as usize).map_or(0, Vec::len);
                if attempt.replies.len() == steps {
                    // Siblings join in the order of their ids, whenever they replied.
                    for (_, (seen, wrote)) in std::mem::take(&mut attempt.replies) {
                        attempt.seen.extend(seen);
                        Arc::make_mut(&mut attempt.buffer).absorb(&wrote);
                    }
                    attempt.group += 1;
                    self.send_steps(number);
                }
            }
        }
    }

    fn steps_done(&mut self, number: u64) {
        let ticket = self.ticket(number);
        let Some(attempt) = self.attempts.get_mut(&number) else {
            return;
        };
        let (snapshot, call) = (attempt.snapshot, &attempt.call);
        self.observations.push(Observation {
            id: call.id,
            snapshot,
            seen: attempt.seen.clone(),
        });
        let result = Arc::new(std::mem::take(&mut attempt.seen));
        if attempt.buffer.is_empty() && call.messages.is_empty() && !call.is_keyed {
            self.finish(number, None, snapshot, result);
            return;
        }
        let request = CommitRequest {
            ticket,
            id: call.id,
            home: call.home,
            arguments: call.arguments,
            snapshot,
            token: call.token.time,
            buffer: Arc::clone(&attempt.buffer),
            result,
            messages: call.messages.clone(),
            durability: call.durability,
        };
        attempt.stage = Stage::Committing(Box::new(request));
        self.drive(number);
    }

    pub(super) fn token_after(&self, token: Token, commit: Option<Time>, snapshot: Time) -> Token {
        let loss = self.epoch.as_ref().map_or(0, |epoch| epoch.loss);
        let forgets = self.config.canaries.has(Canary::TokenForgetsSnapshot);
        let snapshot = if forgets { Time::ZERO } else { snapshot };
        token.after(commit, snapshot, loss)
    }

    pub(super) fn finish(
        &mut self,
        number: u64,
        commit: Option<Stamp>,
        snapshot: Time,
        result: Arc<Vec<Seen>>,
    ) {
        let Some(attempt) = self.end(number) else {
            return;
        };
        let commit_time = commit.map(|stamp| stamp.time);
        let token = self.token_after(attempt.call.token, commit_time, snapshot);
        let answer = Answer::Done {
            commit,
            snapshot,
            result,
            token,
        };
        self.answer(attempt.reply_to, attempt.call.id, answer);
    }

    /// Forgets an attempt and lets go of its pin.
    fn end(&mut self, number: u64) -> Option<Attempt> {
        let attempt = self.attempts.remove(&number)?;
        let ticket = self.ticket(number);
        if let Some(at) = attempt.pin_at {
            self.send(at, Body::Unpin { ticket });
        }
        if !attempt.seen.is_empty() {
            self.observations.push(Observation {
                id: attempt.call.id,
                snapshot: attempt.snapshot,
                seen: attempt.seen.clone(),
            });
        }
        Some(attempt)
    }

    pub(super) fn attempt_refused(&mut self, number: u64, refusal: Refusal) {
        match refusal {
            // Ask again when the epoch is known, or when the clock has caught up.
            Refusal::NotOwner | Refusal::Unconfirmed | Refusal::ClockAhead => {}
            Refusal::SnapshotExpired => {
                // From the start, with a new snapshot; a little later, since asking at once may
                // give the same one.
                if let Some(attempt) = self.end(number) {
                    let call = Call {
                        is_retry: true,
                        ..attempt.call
                    };
                    self.begin(attempt.reply_to, call, attempt.until_us);
                }
            }
            Refusal::RequestExpired
            | Refusal::OtherArguments
            | Refusal::StateLost
            | Refusal::WrongKind => {
                if let Some(attempt) = self.end(number) {
                    let id: RequestId = attempt.call.id;
                    self.answer(attempt.reply_to, id, Answer::Refused(refusal));
                }
            }
        }
    }
}
