//! What messages are called, what they show in a trace, and roughly what they weigh.

use std::fmt;
use std::sync::Arc;

use tidemill_lattice::Cell;

use crate::message::{Answer, Body, Seen};
use crate::record::deltas_bytes;

impl Body {
    /// Its name, for traces and counts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Body::Call(_) => "call",
            Body::Write { .. } => "write",
            Body::Answered { .. } => "answered",
            Body::Look { .. } => "look",
            Body::NotKnown { .. } => "not-known",
            Body::Pin { .. } => "pin",
            Body::Pinned { .. } => "pinned",
            Body::Unpin { .. } => "unpin",
            Body::Read { .. } => "read",
            Body::Value { .. } => "value",
            Body::Push(_) => "push",
            Body::Commit(_) => "commit",
            Body::Eventual { .. } => "eventual",
            Body::Decided { .. } => "decided",
            Body::Refused { .. } => "refused",
            Body::StepCall { .. } => "step-call",
            Body::StepReply { .. } => "step-reply",
            Body::Gossip(_) => "gossip",
            Body::Deliver { .. } => "deliver",
            Body::Delivered { .. } => "delivered",
            Body::Tail { .. } => "tail",
            Body::TailHeld { .. } => "tail-held",
            Body::Seal { .. } => "seal",
            Body::Sealed { .. } => "sealed",
            Body::Redo { .. } => "redo",
            Body::Redone { .. } => "redone",
            Body::IsOpen { .. } => "is-open",
            Body::Open { .. } => "open",
            Body::Stale => "stale",
        }
    }

    /// Whether a compute node takes it; a member takes the rest, and both take [`Body::Stale`].
    #[must_use]
    pub fn is_for_compute(&self) -> bool {
        matches!(
            self,
            Body::Call(_)
                | Body::Write { .. }
                | Body::NotKnown { .. }
                | Body::Pinned { .. }
                | Body::Value { .. }
                | Body::Push(_)
                | Body::Decided { .. }
                | Body::Refused { .. }
                | Body::StepCall { .. }
                | Body::StepReply { .. }
        )
    }

    /// Whether it belongs to a commit itself: not to running the request, and not to what goes
    /// on anyway.
    #[must_use]
    pub fn is_of_commit(&self) -> bool {
        matches!(
            self,
            Body::Commit(_)
                | Body::Decided { .. }
                | Body::Tail { .. }
                | Body::TailHeld { .. }
                | Body::Deliver { .. }
                | Body::Delivered { .. }
        )
    }

    /// Roughly its bytes on the wire, framing included.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        let cell = |cell: &Option<Arc<Cell>>| {
            let mut encoded = Vec::new();
            if let Some(cell) = cell {
                cell.encode(&mut encoded);
            }
            encoded.len()
        };
        let seen = |result: &[Seen]| result.iter().map(|s| 8 + cell(&s.cell)).sum::<usize>();
        32 + match self {
            Body::Commit(commit) => 48 + commit.buffer.wire_bytes() + seen(&commit.result),
            Body::Decided { result, .. } => 36 + seen(result),
            Body::Deliver { applied, .. } => 22 + deltas_bytes(&applied.deltas),
            Body::Tail { entries, .. } => 32 + entries.iter().map(|e| e.bytes()).sum::<usize>(),
            Body::Value { cell: value, .. } => 24 + cell(value),
            Body::Gossip(gossip) => 12 * (gossip.beats.len() * 4 + gossip.marks.len()),
            _ => 24,
        }
    }
}

impl fmt::Display for Body {
    #[allow(clippy::too_many_lines, reason = "one arm a message")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Body::Call(call) => write!(f, " {} token {}", call.id, call.token.time),
            Body::Answered { id, answer } => match answer {
                Answer::Done {
                    commit, snapshot, ..
                } => match commit {
                    Some(commit) => write!(f, " {id} at {commit} from {snapshot}"),
                    None => write!(f, " {id} read from {snapshot}"),
                },
                Answer::Refused(refusal) => write!(f, " {id} refused: {refusal:?}"),
            },
            Body::Look {
                ticket, id, home, ..
            } => write!(f, " {id} in {home} for {ticket}"),
            Body::Pin { ticket, token } => write!(f, " {ticket} above {token}"),
            Body::Pinned { ticket, snapshot } => write!(f, " {ticket} at {snapshot}"),
            Body::NotKnown { ticket } | Body::Unpin { ticket } => write!(f, " {ticket}"),
            Body::Read {
                ticket, key, at, ..
            } => write!(f, " {ticket} {key} at {at}"),
            Body::Value { ticket, .. } => write!(f, " {ticket}"),
            Body::Push(push) => write!(f, " {push}"),
            Body::Commit(commit) => write!(
                f,
                " {} in {} from {} for {}",
                commit.id, commit.home, commit.snapshot, commit.ticket
            ),
            Body::Write { id, key, .. } | Body::Eventual { id, key, .. } => {
                write!(f, " {id} {key}")
            }
            Body::Decided { ticket, stamp, .. } => write!(f, " {ticket} at {stamp}"),
            Body::Refused { ticket, refusal } => write!(f, " {ticket}: {refusal:?}"),
            Body::StepCall { run, at, .. } => write!(f, " {} {}.{} at {at}", run.0, run.1, run.2),
            Body::StepReply { run, .. } => write!(f, " {} {}.{}", run.0, run.1, run.2),
            Body::Gossip(gossip) => match gossip.frontiers.get(&gossip.from) {
                Some(frontier) => write!(f, " frontier {frontier}"),
                None => Ok(()),
            },
            Body::Deliver { partition, applied } => write!(f, " {} to {partition}", applied.stamp),
            Body::Delivered { partition, stamp } => write!(f, " {stamp} to {partition}"),
            Body::Tail {
                partition,
                from,
                entries,
                ..
            } => {
                write!(f, " {partition} {from}+{}", entries.len())
            }
            Body::TailHeld {
                partition, through, ..
            } => write!(f, " {partition} {through:?}"),
            Body::Seal {
                partition,
                generation,
            } => write!(f, " {partition} {generation}"),
            Body::Sealed {
                partition,
                generation,
                tail,
                ..
            } => {
                let length = tail.as_ref().map_or(0, |tail| tail.entries.len());
                write!(f, " {partition} {generation} tail of {length}")
            }
            Body::Redo {
                home,
                partition,
                above,
            } => {
                write!(f, " {home} to {partition} above {above}")
            }
            Body::Redone {
                home,
                partition,
                applied,
            } => {
                write!(f, " {home} to {partition}: {}", applied.len())
            }
            Body::IsOpen { partition } | Body::Open { partition } => write!(f, " {partition}"),
            Body::Stale => Ok(()),
        }
    }
}
