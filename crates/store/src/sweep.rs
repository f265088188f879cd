//! Forgetting requests: results that have expired go, then ids that need not be refused.
//!
//! It goes in small steps on the sequencer's thread, between groups of commits, and is not
//! synced. A record says the same before and after it was swept, so that it may come late, and
//! a crash in the middle costs nothing.

use std::sync::atomic::Ordering;

use crate::Error;
use crate::engine::Change;
use crate::requests::Sweep;
use crate::sequencer::Sequencer;

/// Records looked at in one step.
const STEP_RECORDS: usize = 256;
/// How often to look when the last look found nothing more.
const PAUSE_US: u64 = 1_000_000;

/// Where sweeping stands.
#[derive(Default)]
pub(crate) struct Sweeper {
    /// Everything due before is swept, so that looking need not pass what was removed there.
    from_us: u64,
    looked_us: u64,
    /// The last step did not come to the end.
    has_more: bool,
}

impl Sweeper {
    /// Takes note of a new record.
    pub(crate) fn recorded(&mut self, due_us: u64) {
        self.from_us = self.from_us.min(due_us);
    }
}

impl Sequencer {
    /// Whether there is a step to do, so that the thread must not sleep.
    pub(crate) fn sweep_busy(&self) -> bool {
        self.sweeper.has_more && self.inner.failure().is_none()
    }

    /// Does one step, if one is due.
    pub(crate) fn sweep_step(&mut self, now_us: u64) {
        let is_early = now_us.abs_diff(self.sweeper.looked_us) < PAUSE_US;
        if is_early && !self.sweeper.has_more || self.inner.failure().is_some() {
            return;
        }
        self.sweeper.looked_us = now_us;
        if let Err(error) = self.sweep_some(now_us) {
            self.sweeper.has_more = false;
            match error {
                // Records are damaged where they are read, too; state is not.
                Error::Corrupt { .. } => tracing::error!(%error, "requests are not forgotten"),
                other => self.inner.stop_writing(&other),
            }
        }
    }

    fn sweep_some(&mut self, now_us: u64) -> Result<(), Error> {
        let engine = &self.inner.engine;
        let due = engine.due(self.sweeper.from_us, now_us, STEP_RECORDS)?;
        let mut changes = Vec::with_capacity(2 * due.len());
        let mut swept = 0;
        for &(due_us, id) in &due {
            changes.push(Change::NotDue(due_us, id));
            // Else it is a leftover of one that was recorded anew since.
            let Some(stored) = engine.request(id)?.filter(|stored| stored.due_us == due_us) else {
                continue;
            };
            match stored.sweep(now_us) {
                Sweep::Keep => {}
                Sweep::Refuse(rest) => changes.push(Change::Record(rest)),
                Sweep::Forget => changes.push(Change::Unrecord(id)),
            }
            swept += 1;
        }
        let sweeper = &mut self.sweeper;
        sweeper.has_more = due.len() == STEP_RECORDS;
        sweeper.from_us = match due.last() {
            Some((last_us, _)) if sweeper.has_more => *last_us,
            _ => now_us,
        };
        if changes.is_empty() {
            return Ok(());
        }
        let counter = &self.inner.counters.requests_swept;
        counter.fetch_add(swept, Ordering::Relaxed);
        engine.change("forgetting requests", changes)
    }
}
