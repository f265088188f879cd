//! Commits in memory, done by whoever asks for them while the log's thread rests, and answered before
//! the log has them where nobody may look for them there: flat combining, as for the shards' turns.
//!
//! It knows the sequencer and its queue. What it leaves to the log lies there in front of whatever
//! may come to see it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, MutexGuard};

use crate::group::Group;
use crate::queue::{Closer, Queue};
use crate::sequencer::Sequencer;

impl Sequencer {
    /// Does what is queued for whoever has queued some of it, while nobody else does and the disk
    /// is not to be waited for. Answers whether it was done.
    pub(crate) fn combine(shared: &Mutex<Sequencer>, queue: &mut MutexGuard<'_, Queue>) -> bool {
        if !queue.is_light() {
            return false;
        }
        let Some(mut sequencer) = shared.try_lock() else {
            return false;
        };
        if !queue.may_wait() && sequencer.inner.engine.is_pressed() {
            return false;
        }
        let (mut commits, mut chunks) = (Vec::new(), Vec::new());
        queue.take(&mut commits, &mut chunks);
        MutexGuard::unlocked(queue, || {
            let work = AssertUnwindSafe(|| {
                let group = sequencer.groups(&mut commits, &mut chunks);
                if group.may_wait() {
                    sequencer.defer(group);
                } else {
                    sequencer.write_some(group);
                }
            });
            if catch_unwind(work).is_err() {
                tracing::error!("writing the log ended in a panic");
                drop(Closer(Arc::clone(&sequencer.inner)));
            }
        });
        // The thread makes checkpoints, and sleeps.
        let inner = &sequencer.inner;
        if sequencer.checkpoints.is_due(inner.options.checkpoint_bytes) {
            queue.hurry();
            inner.wake.notify_one();
        }
        true
    }

    /// Leaves a group to the log's thread, in front of whatever may come to see it, and publishes
    /// it before it is written.
    fn defer(&mut self, mut group: Group) {
        let entries = std::mem::take(&mut group.entries);
        let counters = &self.inner.counters;
        let count = group.commits.len() as u64;
        counters.commits.fetch_add(count, Ordering::Relaxed);
        let taken = group.chunk_bytes as u64;
        self.inner.backlog.fetch_sub(taken, Ordering::Relaxed);
        self.inner.hand_over(self.slot(), entries, false);
        self.publish(group);
    }
}
