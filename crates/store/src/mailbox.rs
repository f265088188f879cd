//! What others ask of a shard, in batches.
//!
//! Anybody posts, the shard's thread takes everything at once. It is woken once for all that
//! came while it slept.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tidemill_lattice::{Cell, Key, Time};

use crate::latch::Part;
use crate::shard::Shard;
use crate::table::{Loaded, Ticket};
use crate::{Done, Error, Update};

/// One thing asked of a shard.
pub(crate) enum Mail {
    /// A write that is decided here, and when it was asked for, in microseconds.
    Update(Update, Done, u64),
    /// Deltas of logged commits.
    Apply(Vec<Slice>, Part),
    /// A key that a reader had to load.
    Offer(Key, Arc<Cell>, Time, Ticket),
    /// The log holds everything handed to it up to this ticket, or never will.
    Logged(u64, Result<(), Error>),
    /// Anything else; the sender waits for it.
    Run(Box<dyn FnOnce(&mut Shard) + Send>, Part),
    /// Nothing more will come.
    Stop,
}

/// A commit's delta of one key.
pub(crate) struct Slice {
    pub(crate) key: Key,
    pub(crate) delta: Cell,
    pub(crate) time: Time,
    pub(crate) snapshot: Time,
    /// What the durable tier had, if the key was not in memory.
    pub(crate) loaded: Option<Loaded>,
}

/// What became of mail that was offered.
pub(crate) enum Offered {
    /// It is to be done at once, after what was posted before it.
    Taken(Vec<Mail>),
    Posted,
    Refused(Mail),
}

/// Called when something was posted to an idle shard; it must be short.
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inbox {
    mail: Vec<Mail>,
    /// The shard's thread sleeps, or is about to.
    idle: bool,
    /// Somebody else has the shard's turn, and will look here again.
    attended: bool,
    /// Updates are refused.
    closing: bool,
    /// Everything is refused: the shard is gone.
    closed: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
pub(crate) struct Mailbox {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

impl Mailbox {
    /// Posts, or hands back what nobody will take.
    pub(crate) fn post(&self, mail: Mail) -> Result<(), Mail> {
        let waker = {
            let mut inbox = self.inbox.lock();
            let refused = inbox.closed || inbox.closing && matches!(mail, Mail::Update(..));
            if refused {
                return Err(mail);
            }
            inbox.mail.push(mail);
            if !inbox.idle || inbox.attended {
                return Ok(());
            }
            inbox.idle = false;
            inbox.waker.clone()
        };
        self.wake(waker);
        Ok(())
    }

    fn wake(&self, waker: Option<Waker>) {
        match waker {
            Some(wake) => wake(),
            None => {
                self.changed.notify_one();
            }
        }
    }

    /// Offers mail to whoever asks, and has the shard's turn: he gets it with all that came
    /// before. While the shard is closing it is posted instead.
    pub(crate) fn offer(&self, mail: Mail) -> Offered {
        let mut inbox = self.inbox.lock();
        if inbox.closing {
            drop(inbox);
            return match self.post(mail) {
                Ok(()) => Offered::Posted,
                Err(mail) => Offered::Refused(mail),
            };
        }
        inbox.attended = true;
        inbox.mail.push(mail);
        Offered::Taken(std::mem::take(&mut inbox.mail))
    }

    /// What has come since, for whoever has the turn; after the last round, or with nothing, he
    /// has it no longer and the shard's thread is woken for the rest.
    pub(crate) fn take_more(&self, into: &mut Vec<Mail>, is_last: bool) {
        let waker = {
            let mut inbox = self.inbox.lock();
            // Stopping is for the shard's own thread.
            if !is_last && !inbox.closing && !inbox.mail.is_empty() {
                std::mem::swap(&mut inbox.mail, into);
                return;
            }
            inbox.attended = false;
            if inbox.mail.is_empty() || !inbox.idle {
                return;
            }
            inbox.idle = false;
            inbox.waker.clone()
        };
        self.wake(waker);
    }

    /// Who is to be called instead of a sleeping thread.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.inbox.lock().waker = Some(waker);
    }

    /// Takes everything posted. If that is nothing, the next post will call the waker.
    pub(crate) fn take(&self, into: &mut Vec<Mail>) {
        let mut inbox = self.inbox.lock();
        std::mem::swap(&mut inbox.mail, into);
        inbox.idle = into.is_empty();
    }

    /// Sleeps until something is posted, or for a while. Tells whether nothing was.
    pub(crate) fn wait(&self, time: std::time::Duration) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.mail.is_empty() {
            inbox.idle = true;
            self.changed.wait_for(&mut inbox, time);
            inbox.idle = false;
        }
        inbox.mail.is_empty()
    }

    /// Takes no more updates.
    pub(crate) fn close(&self) {
        self.inbox.lock().closing = true;
    }

    /// Refuses everything from now on, and what has come.
    pub(crate) fn end(&self) {
        let mail = {
            let mut inbox = self.inbox.lock();
            inbox.closing = true;
            inbox.closed = true;
            std::mem::take(&mut inbox.mail)
        };
        for mail in mail {
            refuse(mail);
        }
    }
}

/// Answers whoever waits for what will not be done. Parts count themselves down.
pub(crate) fn refuse(mail: Mail) {
    if let Mail::Update(_, done, _) = mail {
        crate::shard::answer(done, Err(Error::Closed));
    }
}
