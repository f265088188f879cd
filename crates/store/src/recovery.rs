//! Reading back what the last life of a store left: the checkpoint, then the log above it.
//!
//! Groups are replayed into memory; a delta that a key's stored value has already is skipped
//! by the key's own time. Bad groups at the very end of the log are cut; anywhere else they
//! stop the opening, since what was acknowledged after them would hang in the air.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tidemill_lattice::{Time, Writer};

use crate::embedded::shard_of;
use crate::engine::Engine;
use crate::fence::Void;
use crate::loss::Reach;
use crate::owner::{Held, Owner};
use crate::record::{self, Entry, Header};
use crate::requests::StoredRequest;
use crate::sequencer::Logged;
use crate::table::View;
use crate::{Error, MessageId};

/// Where the new life begins.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The new epoch.
    pub(crate) writer: Writer,
    pub(crate) checkpoint: Time,
    /// At or above everything logged: the clock starts here, and all of it is applied.
    pub(crate) floor: Time,
    /// At or above every value that is stored.
    pub(crate) stored_through: Time,
    /// How far it reaches for certain.
    pub(crate) reach: Reach,
    /// The number of the next group.
    pub(crate) next_number: u64,
    pub(crate) logged: VecDeque<Logged>,
    pub(crate) pending: BTreeMap<MessageId, Bytes>,
    pub(crate) posted: BTreeSet<MessageId>,
    pub(crate) consumed: Vec<MessageId>,
    /// Groups to remove: voided by the fence, or torn at the end.
    pub(crate) drop: Vec<u64>,
    /// The records that were written with them.
    pub(crate) voided: Vec<StoredRequest>,
    /// Of those groups, the torn ones.
    pub(crate) torn: Vec<u64>,
}

/// A group that can not be read, until it turns out whether it is the end.
struct Bad {
    number: u64,
    cause: String,
}

/// Replays the log into the owners' tables. Writes nothing.
pub(crate) fn recover(
    engine: &Engine,
    owners: &mut [Owner],
    void: Option<Void>,
) -> Result<Recovered, Error> {
    let meta = engine.meta()?;
    let epoch = meta
        .epoch
        .checked_add(1)
        .ok_or_else(|| engine.corrupt("the epoch", "no next one"))?;
    let mut recovered = Recovered {
        writer: Writer(epoch),
        checkpoint: meta.checkpoint,
        // A checkpoint that did not end has stored values all the same. What is written now must
        // be above them, though the clock be set back.
        floor: meta.checkpoint.max(meta.stored_through),
        reach: Reach {
            last: meta.checkpoint,
            seen: meta.checkpoint,
        },
        next_number: meta.log_start,
        stored_through: meta.stored_through,
        ..Recovered::default()
    };
    for message in engine.messages() {
        let (id, body) = message?;
        recovered.pending.insert(id, body);
        recovered.posted.insert(id);
    }
    let mut bad: Vec<Bad> = Vec::new();
    for group in engine.groups() {
        let (number, bytes) = group?;
        let (header, entries) = match read(number, &bytes) {
            Ok(group) => group,
            Err(cause) => {
                bad.push(Bad { number, cause });
                continue;
            }
        };
        if void.is_some_and(|void| void.covers(number, header.writer)) {
            recovered.floor = recovered.floor.max(header.high);
            recovered.drop.push(number);
            continue;
        }
        if let Some(first) = bad.first() {
            let last = number.saturating_sub(1);
            let place = format!("log groups {} to {last}", first.number);
            return Err(engine.corrupt(place, first.cause.clone()));
        }
        recovered.follow(engine, header, bytes.len() as u64)?;
        for entry in entries {
            recovered.replay(engine, owners, entry)?;
        }
    }
    for torn in bad {
        tracing::warn!(
            number = torn.number,
            cause = torn.cause,
            "cutting a torn group off the log"
        );
        recovered.drop.push(torn.number);
        recovered.torn.push(torn.number);
    }
    if !recovered.drop.is_empty() {
        // Rare, and the only time that all records are looked through.
        for record in engine.requests(None) {
            let record = record?;
            if recovered.drop.contains(&record.group) {
                recovered.voided.push(record);
            }
        }
    }
    Ok(recovered)
}

fn read(number: u64, bytes: &Bytes) -> Result<(Header, Vec<Entry>), String> {
    let (header, entries) = record::decode(bytes).map_err(|e| e.to_string())?;
    if header.number != number {
        return Err("it is another group than its key says".to_owned());
    }
    Ok((header, entries))
}

impl Recovered {
    /// Checks that no group is missing before this one.
    fn follow(&mut self, engine: &Engine, header: Header, size_bytes: u64) -> Result<(), Error> {
        let Header { number, high, .. } = header;
        // Behind the first one there may be trimmed ones, all covered by the checkpoint.
        let is_first = self.logged.is_empty();
        let follows = number == self.next_number || is_first && number < self.next_number;
        if !follows {
            let last = number.saturating_sub(1);
            let place = format!("log groups {} to {last}", self.next_number);
            return Err(engine.corrupt(place, "they are missing"));
        }
        self.next_number = number + 1;
        self.floor = self.floor.max(high);
        self.reach.last = self.reach.last.max(high);
        self.logged.push_back(Logged {
            number,
            high,
            size_bytes,
        });
        Ok(())
    }

    fn replay(&mut self, engine: &Engine, owners: &mut [Owner], entry: Entry) -> Result<(), Error> {
        let time = entry.time;
        self.reach.seen = self.reach.seen.max(entry.snapshot);
        if time <= self.checkpoint {
            return Ok(());
        }
        let count = owners.len();
        for (key, delta) in entry.deltas {
            let Some(owner) = owners.get_mut(shard_of(&key, count)) else {
                continue;
            };
            let place = match owner.place(&key) {
                Some(place) => place,
                None => {
                    let stored = engine.load(&key)?;
                    owner.admit(key, stored)
                }
            };
            // Nothing is folded yet: entries to come may have seen less than this one.
            let push = |held: &mut Held<'_>| held.push(delta, time, entry.snapshot);
            owner.with(place, false, push);
        }
        for (index, body) in (0..).zip(entry.messages) {
            self.pending.insert((time, index), body);
        }
        if let Some(message) = entry.consumes {
            self.pending.remove(&message);
            if self.posted.contains(&message) {
                self.consumed.push(message);
            }
        }
        Ok(())
    }
}

/// The tables of so many shards, with nothing in them.
pub(crate) fn owners(count: usize) -> Vec<Owner> {
    (0..count)
        .map(|_| Owner::new(Arc::new(View::default())))
        .collect()
}
