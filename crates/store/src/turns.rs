//! Whose turn a shard is.
//!
//! A shard is one thread's at a time. Mostly that is the thread that drives it; but whoever asks
//! something of a shard that is nobody's just now takes the turn himself, with everything that
//! others have asked meanwhile, instead of waking a thread and waiting for it. That is flat
//! combining (Hendler, Incze, Shavit, Tzafrir 2010).
//!
//! It knows mail and turns, not what they do.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::embedded::Inner;
use crate::mailbox::{Mail, Offered};
use crate::shard::{Shard, Turn};

/// Turns that one who asks takes in a row for others.
const ROUNDS_MAX: usize = 8;

thread_local! {
    /// This thread has a shard's turn.
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
    /// This thread drives a shard.
    static DRIVES: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread has a shard's turn, or drives one: then it must not wait for a shard, since
/// what it waits for may be its own to do.
pub(crate) fn must_not_wait() -> bool {
    IN_TURN.get() || DRIVES.get()
}

/// Notes that this thread drives a shard, for as long as it lives.
pub(crate) fn begin_driving() {
    DRIVES.set(true);
}

/// Notes that this thread has a turn, while it lives.
struct InTurn {
    before: bool,
}

impl InTurn {
    fn begin() -> InTurn {
        InTurn {
            before: IN_TURN.replace(true),
        }
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        IN_TURN.set(self.before);
    }
}

/// A shard that may be had by turns. Empty once it has stopped.
pub(crate) type Slot = Arc<Mutex<Option<Shard>>>;

/// A shard for the thread that drives it.
pub struct Turns {
    index: usize,
    inner: Arc<Inner>,
    slot: Slot,
}

impl Turns {
    pub(crate) fn new(index: usize, inner: Arc<Inner>, slot: Slot) -> Turns {
        Turns { index, inner, slot }
    }

    /// The shard's place among the store's.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Who is to be called when something is asked of an idle shard, from any thread. Without
    /// it, a thread that sleeps in [`Turns::sleep`] is woken.
    pub fn set_waker(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        self.inner.mailboxes[self.index].set_waker(waker);
    }

    /// Does everything that was asked by others since the last turn.
    pub fn turn(&self) -> Turn {
        let mut slot = self.slot.lock();
        let _turn = InTurn::begin();
        let outcome = slot.as_mut().map_or(Turn::Stopped, Shard::turn);
        let stopped = (outcome == Turn::Stopped).then(|| slot.take());
        drop(slot);
        // It answers whoever is left, who may ask again.
        drop(stopped);
        outcome
    }

    /// Shows `work` the shard, if it has not stopped. Not to be nested.
    pub fn with<T>(&self, work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        let mut slot = self.slot.lock();
        let _turn = InTurn::begin();
        slot.as_mut().map(work)
    }

    /// Sleeps until something is asked, or for a while, and then rests.
    pub fn sleep(&self, time: Duration) {
        if self.inner.mailboxes[self.index].wait(time) {
            self.rest();
        }
    }

    /// To be called by a driver whose shard was asked nothing for a while.
    pub fn rest(&self) {
        (self.inner.options.at_rest)();
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // Also after a panic: nobody may wait for a shard that nobody drives.
        drop(self.slot.lock().take());
    }
}

impl Inner {
    /// Asks something of a shard: at once on this thread where it is nobody's turn, else by
    /// mail.
    ///
    /// # Errors
    /// The mail, if nobody will take it.
    pub(crate) fn ask(&self, index: usize, mail: Mail) -> Result<(), Mail> {
        let mailbox = &self.mailboxes[index];
        let Some(slot) = self.slots.get().and_then(|slots| slots.get(index)) else {
            return mailbox.post(mail);
        };
        let Some(mut held) = slot.try_lock() else {
            return mailbox.post(mail);
        };
        let Some(shard) = held.as_mut() else {
            return mailbox.post(mail);
        };
        let _turn = InTurn::begin();
        // What was asked before comes first.
        let mut taken = match mailbox.offer(mail) {
            Offered::Taken(taken) => taken,
            Offered::Posted => return Ok(()),
            Offered::Refused(mail) => return Err(mail),
        };
        let turns = catch_unwind(AssertUnwindSafe(|| {
            let mut rounds = 0;
            while !taken.is_empty() {
                shard.do_all(&mut taken);
                rounds += 1;
                mailbox.take_more(&mut taken, rounds >= ROUNDS_MAX);
            }
        }));
        if turns.is_err() {
            tracing::error!(index, "a shard's turn ended in a panic");
            mailbox.end();
            drop(held.take());
        }
        Ok(())
    }
}
