//! Reading back what the last life of a store left: the checkpoint, then the log above it.
//!
//! Records are replayed into memory; a delta that a key's stored value has already is skipped
//! by the key's own time. Bad records at the very end of the log are cut; anywhere else they
//! stop the opening, since what was acknowledged after them would hang in the air.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use tidemill_lattice::{Time, Writer};

use crate::engine::Engine;
use crate::fence::Void;
use crate::record::{self, Record};
use crate::sequencer::Logged;
use crate::tables::Tables;
use crate::{Error, MessageId};

/// Where the new life begins.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The new epoch.
    pub(crate) writer: Writer,
    pub(crate) checkpoint: Time,
    /// Everything at or below is applied.
    pub(crate) stable: Time,
    /// Above everything logged, valid or not: the clock starts here.
    pub(crate) floor: Time,
    /// The last record kept.
    pub(crate) previous: Time,
    pub(crate) logged: VecDeque<Logged>,
    pub(crate) pending: BTreeMap<MessageId, Bytes>,
    pub(crate) posted: BTreeSet<MessageId>,
    pub(crate) consumed: Vec<MessageId>,
    /// Records to remove: voided by the fence, or torn at the end.
    pub(crate) drop: Vec<(Time, Writer)>,
}

/// A record that can not be read, until it turns out whether it is the end.
struct Bad {
    time: Time,
    writer: Writer,
    cause: String,
}

/// Replays the log into `tables`. Writes nothing.
pub(crate) fn recover(
    engine: &Engine,
    tables: &Tables,
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
        stable: meta.checkpoint,
        floor: meta.checkpoint,
        previous: meta.checkpoint,
        ..Recovered::default()
    };
    for message in engine.messages() {
        let (id, body) = message?;
        recovered.pending.insert(id, body);
        recovered.posted.insert(id);
    }
    let mut bad: Vec<Bad> = Vec::new();
    for entry in engine.records() {
        let (time, writer, bytes) = entry?;
        recovered.floor = recovered.floor.max(time);
        if void.is_some_and(|void| void.covers(time, writer)) {
            recovered.drop.push((time, writer));
            continue;
        }
        match read(time, writer, &bytes) {
            Err(cause) => bad.push(Bad {
                time,
                writer,
                cause,
            }),
            Ok(record) => {
                if let Some(first) = bad.first() {
                    let place = format!("log records {} to {}", first.time, time.prev());
                    return Err(engine.corrupt(place, first.cause.clone()));
                }
                let size_bytes = bytes.len() as u64;
                recovered.logged.push_back(Logged {
                    time,
                    writer,
                    size_bytes,
                });
                recovered.replay(engine, tables, record)?;
            }
        }
    }
    for torn in bad {
        tracing::warn!(time = %torn.time, cause = torn.cause, "cutting a torn record off the log");
        recovered.drop.push((torn.time, torn.writer));
    }
    Ok(recovered)
}

fn read(time: Time, writer: Writer, bytes: &Bytes) -> Result<Record, String> {
    let record = record::decode(bytes).map_err(|e| e.to_string())?;
    if record.header.time != time || record.header.writer != writer {
        return Err("it is another record than its key says".to_owned());
    }
    Ok(record)
}

impl Recovered {
    fn replay(&mut self, engine: &Engine, tables: &Tables, record: Record) -> Result<(), Error> {
        let time = record.header.time;
        let first = self.logged.len() == 1;
        // Behind the first record there may be trimmed ones, all covered by the checkpoint.
        let follows = record.header.previous == self.previous
            || first && record.header.previous <= self.checkpoint;
        if !follows {
            let place = format!("log records after {} and before {time}", self.previous);
            return Err(engine.corrupt(place, "they are missing"));
        }
        self.previous = time;
        self.stable = self.stable.max(time);
        if time <= self.checkpoint {
            return Ok(());
        }
        for (key, delta) in record.deltas {
            if !tables.has(&key) {
                tables.admit(&key, engine.load(&key)?);
            }
            // Nothing is folded yet: records to come may have seen less than this one.
            tables.apply(key, delta, time, record.snapshot, Time::ZERO);
        }
        for (index, body) in (0..).zip(record.messages) {
            self.pending.insert((time, index), body);
        }
        if let Some(message) = record.consumes {
            self.pending.remove(&message);
            if self.posted.contains(&message) {
                self.consumed.push(message);
            }
        }
        Ok(())
    }
}
