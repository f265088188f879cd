//! One shard: the owner of a slice of the keys, on a thread of its own.
//!
//! Everything that is asked of its keys comes in turns. In a turn it draws times, decides and
//! applies; at the turn's end it hands what it wrote to the log, lets the frontier pass, and
//! answers. The order is the proof: times are held before they are drawn, and the log has the
//! bytes before anybody can see what they say, so whatever is written by somebody who saw them
//! lies behind them in the log.
//!
//! It knows its table, the log's queue and the frontier. It must not know who asks, nor wait
//! for the log: the log's thread waits for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemill_lattice::{Cell, Dot, Key, Time, Writer};

use crate::embedded::Inner;
use crate::mailbox::{self, Mail, Slice};
use crate::meter::{Recorder, ShardMeter};
use crate::record::{self, Entries};
use crate::table::Owner;
use crate::{Committed, Done, Durability, Error, Update};

/// How long a shard sleeps when nobody asks for anything.
const TICK: Duration = Duration::from_millis(500);
/// Rounds of eviction in one turn.
const EVICT_ROUNDS: usize = 16;
/// While more than this waits for the log, writers are answered only once it has theirs.
const BACKLOG_BYTES: u64 = 64 * 1024 * 1024;

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There may be more to do at once.
    Busy,
    /// Nothing was asked. Whoever drives the shard may wait to be woken.
    Idle,
    /// The store has closed. The shard is to be dropped.
    Stopped,
}

/// Who runs the shards, if not the store itself. It lets others that live on a shard's thread,
/// such as connections, write to its keys without handing over.
pub trait Driver: Send + Sync + 'static {
    /// Runs a shard on a thread made for it, until a [`Shard::turn`] says that it has stopped.
    fn drive(&self, shard: Shard);
}

/// Drives shards by sleeping until there is mail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleeper;

impl Driver for Sleeper {
    fn drive(&self, mut shard: Shard) {
        loop {
            match shard.turn() {
                Turn::Busy => {}
                Turn::Idle => shard.inner.mailboxes[shard.index].wait(TICK),
                Turn::Stopped => return,
            }
        }
    }
}

/// Whether what a turn wrote may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Told {
    /// At once.
    Now,
    /// Once the log has this ticket; see [`Shard::when_logged`].
    Later(u64),
}

/// An answer to an update.
struct Answer {
    done: Done,
    committed: Committed,
    asked_us: u64,
}

impl Answer {
    fn tell(self, logged: &Result<(), Error>, meter: &ShardMeter, now_us: u64) {
        meter.answered(now_us.saturating_sub(self.asked_us), 1);
        answer(self.done, logged.clone().map(|()| self.committed));
    }
}

/// Called once the log has what it waits for, or never will.
type WhenLogged = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Who waits for the log.
struct Waiting {
    ticket: u64,
    /// The lowest time that the ticket's entries have.
    from: Time,
    then: Vec<WhenLogged>,
}

/// The owner of a slice of the keys.
pub struct Shard {
    index: usize,
    pub(crate) inner: Arc<Inner>,
    pub(crate) owner: Owner,
    recorder: Recorder,
    writer: Writer,
    /// Written in this turn, on its way to the log.
    entries: Entries,
    /// The first time drawn in this turn.
    from: Option<Time>,
    /// The last time drawn at all.
    last: Time,
    now_us: u64,
    /// As of the turn's beginning: everything at or below is applied, and may be folded.
    seen: Time,
    low_water: Time,
    /// Answers of this turn, and whether they must outlive the machine.
    answers: Vec<Answer>,
    is_durable: bool,
    /// When the update at hand was asked for.
    asked_us: u64,
    waiting: VecDeque<Waiting>,
    /// What the log has lost is applied here, and must never be seen.
    lost: Option<Time>,
    mail: Vec<Mail>,
    is_begun: bool,
}

impl Shard {
    pub(crate) fn new(index: usize, inner: Arc<Inner>, owner: Owner, writer: Writer) -> Shard {
        let now_us = inner.clock.now_micros();
        let meter = Arc::clone(owner.view().meter());
        Shard {
            index,
            inner,
            owner,
            recorder: Recorder::new(meter, index as u64, now_us),
            writer,
            entries: Entries::default(),
            from: None,
            last: Time::ZERO,
            now_us,
            seen: Time::ZERO,
            low_water: Time::ZERO,
            answers: Vec::new(),
            is_durable: false,
            asked_us: 0,
            waiting: VecDeque::new(),
            lost: None,
            mail: Vec::new(),
            is_begun: false,
        }
    }

    /// Its place among the store's shards.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether it owns a key.
    #[must_use]
    pub fn owns(&self, key: &Key) -> bool {
        self.inner.shard_of(key) == self.index
    }

    /// Who is to be called when something is asked of an idle shard, from any thread. Without
    /// it, a thread that sleeps in [`Sleeper`] is woken.
    pub fn set_waker(&self, waker: Arc<dyn Fn() + Send + Sync>) {
        self.inner.mailboxes[self.index].set_waker(waker);
    }

    /// Does everything that was asked by others since the last turn.
    pub fn turn(&mut self) -> Turn {
        let mut mail = std::mem::take(&mut self.mail);
        self.inner.mailboxes[self.index].take(&mut mail);
        let mut outcome = if mail.is_empty() {
            Turn::Idle
        } else {
            Turn::Busy
        };
        let mut taken = 0;
        for mail in mail.drain(..) {
            match mail {
                Mail::Update(update, done, asked_us) => {
                    taken += 1;
                    self.asked_us = asked_us;
                    self.answer_update(update, done);
                }
                Mail::Apply(slices, part) => {
                    taken += slices.len() as u64;
                    let applied = slices.into_iter().try_for_each(|slice| self.apply(slice));
                    part.done(applied);
                }
                Mail::Offer(key, cell, through, ticket) => {
                    self.owner.offer(&key, cell, through, ticket);
                }
                Mail::Logged(ticket, logged) => self.logged(ticket, &logged),
                Mail::Run(work, part) => {
                    work(self);
                    part.done(Ok(()));
                }
                Mail::Stop => outcome = Turn::Stopped,
            }
        }
        self.mail = mail;
        if taken > 0 {
            self.recorder.took(taken);
        }
        self.end_turn();
        self.evict();
        self.show();
        outcome
    }

    fn show(&mut self) {
        let view = self.owner.view();
        self.recorder.holds(view.keys(), view.bytes(), view.dirty());
        self.recorder.tick(self.inner.clock.now_micros());
    }

    fn begin(&mut self) {
        if self.is_begun {
            return;
        }
        self.is_begun = true;
        self.now_us = self.inner.clock.now_micros();
        self.seen = self.inner.advance();
        self.low_water = self.inner.pins.low_water(self.now_us);
    }

    /// Decides a write of a key of this shard. What it writes is seen by later updates and by
    /// [`Store::newest`](crate::Store::newest) at once, and by snapshots after [`Shard::flush`].
    ///
    /// `decide` gets the key's newest cell (tombstones included, `None` if nothing was ever
    /// written), the time to judge expiry by, and the next dots; it gives the delta, if any,
    /// and an answer of its own.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`], [`Error::TooLarge`] if it can not be written;
    /// [`Error::Io`] or [`Error::Corrupt`] if the key can not be read. Then nothing was.
    pub fn update<T>(
        &mut self,
        key: &Key,
        durability: Durability,
        decide: impl FnOnce(Option<&Cell>, Time, &mut dyn FnMut() -> Dot) -> (Option<Cell>, T),
    ) -> Result<T, Error> {
        if let Some(error) = self.inner.failure() {
            return Err(error);
        }
        self.begin();
        let time = self.inner.frontier.draw(self.index, 1, self.now_us);
        self.from.get_or_insert(time);
        self.last = time;
        let (writer, mut sequence) = (self.writer, 0);
        let mut dots = || {
            sequence += 1;
            Dot::new(time, writer, sequence - 1)
        };
        let mut logging = Logging {
            inner: &self.inner,
            entries: &mut self.entries,
            now_us: self.now_us,
            time,
            seen: self.seen,
        };
        let (low_water, before) = (self.low_water, logging.entries.count());
        let mut decide = Some(decide);
        let mut attempt = |owner: &mut Owner, logging: &mut Logging<'_>| {
            owner.with(key, true, |held| {
                let decide = decide.take().ok_or(Error::Closed)?;
                let (delta, answer) = decide(held.newest(), time.prev(), &mut dots);
                let Some(delta) = delta.filter(|delta| !delta.is_bottom()) else {
                    return Ok(answer);
                };
                logging.write(key, &delta)?;
                held.push(key, delta, time, logging.seen, low_water);
                Ok(answer)
            })
        };
        let answer = match attempt(&mut self.owner, &mut logging) {
            Some(answer) => answer?,
            None => match self.inner.engine.load(key)? {
                Some(stored) => {
                    self.owner.admit(key, Some(stored));
                    attempt(&mut self.owner, &mut logging).unwrap_or(Err(Error::Closed))?
                }
                // Nothing is kept of a key that is looked at and not written.
                None => {
                    let decide = decide.take().ok_or(Error::Closed)?;
                    let (delta, answer) = decide(None, time.prev(), &mut dots);
                    if let Some(delta) = delta.filter(|delta| !delta.is_bottom()) {
                        logging.write(key, &delta)?;
                        let seen = logging.seen;
                        self.owner.admit(key, None);
                        self.owner.with(key, false, |held| {
                            held.push(key, delta, time, seen, low_water);
                        });
                    }
                    answer
                }
            },
        };
        let is_written = self.entries.count() > before;
        if is_written {
            self.recorder.wrote(key);
            self.inner.watchers.note(key, time);
        }
        self.is_durable |= is_written && durability == Durability::Durable;
        Ok(answer)
    }

    /// Hands what was written to the log and makes it visible: at once, or once the log has it
    /// where any of it was to be [`Durability::Durable`].
    pub fn flush(&mut self) -> Told {
        let is_slow = self.inner.backlog.load(Ordering::Relaxed) > BACKLOG_BYTES;
        let waits = std::mem::take(&mut self.is_durable) || is_slow;
        let ticket = self.hand_over(waits);
        self.is_begun = false;
        match (ticket, self.waiting.back()) {
            (Some(ticket), _) if waits => {
                let from = self.from.take().unwrap_or(self.seen.next());
                self.waiting.push_back(Waiting {
                    ticket,
                    from,
                    then: Vec::new(),
                });
                self.release();
                Told::Later(ticket)
            }
            // The frontier can not pass what others wait for.
            (_, Some(last)) => {
                self.from = None;
                Told::Later(last.ticket)
            }
            _ => {
                self.from = None;
                self.release();
                Told::Now
            }
        }
    }

    /// Calls `then`, on this thread, once the log has the ticket or has failed.
    pub fn when_logged(
        &mut self,
        ticket: u64,
        then: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let found = self.waiting.iter_mut().find(|each| each.ticket >= ticket);
        match found {
            Some(waiting) => waiting.then.push(Box::new(then)),
            None => then(self.inner.failure().map_or(Ok(()), Err)),
        }
    }

    /// Calls `then`, on some thread, once every new snapshot has what this shard has flushed and
    /// the log has.
    pub fn when_stable(&self, then: impl FnOnce() + Send + 'static) {
        self.inner.when_stable(self.last, then);
    }

    /// Gives the log the turn's entries so far. Answers the ticket, if there were any.
    fn hand_over(&mut self, waits: bool) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        let counters = &self.inner.counters;
        let count = self.entries.count() as u64;
        counters.commits.fetch_add(count, Ordering::Relaxed);
        let entries = std::mem::take(&mut self.entries);
        Some(self.inner.hand_over(self.index, entries, waits))
    }

    /// Lets the frontier pass what is applied and safe, and not of a turn that is not over.
    fn release(&self) {
        let waiting = self.waiting.front().map(|first| first.from);
        let rest = [self.lost, waiting, self.from].into_iter().flatten().min();
        self.inner.frontier.release(self.index, rest);
        if self.inner.watchers.is_any() {
            self.inner.watchers.advanced(self.inner.advance());
        }
        self.inner.wake_stable();
    }

    fn answer_update(&mut self, update: Update, done: Done) {
        let Update {
            key,
            durability,
            decide,
        } = update;
        let decided = catch_unwind(AssertUnwindSafe(|| {
            self.update(&key, durability, |seen, at, dots| {
                let delta = decide(seen, at, dots);
                let time = delta.is_some().then(|| at.next());
                (delta, time)
            })
        }));
        match decided {
            Ok(Ok(written)) => {
                let time = written.unwrap_or(self.seen);
                let committed = Committed {
                    time,
                    messages: Vec::new(),
                };
                self.answers.push(Answer {
                    done,
                    committed,
                    asked_us: self.asked_us,
                });
            }
            Ok(Err(error)) => answer(done, Err(error)),
            Err(_) => answer(
                done,
                Err(Error::Io {
                    operation: "deciding an update",
                    directory: self.inner.options.directory.clone(),
                    cause: "the decision panicked; please report this".to_owned(),
                }),
            ),
        }
    }

    fn end_turn(&mut self) {
        if !self.is_begun {
            return;
        }
        let told = self.flush();
        let answers = std::mem::take(&mut self.answers);
        let (inner, meter) = (
            Arc::clone(&self.inner),
            Arc::clone(self.owner.view().meter()),
        );
        let tell = move |logged: Result<(), Error>| {
            let times = answers.iter().map(|each: &Answer| each.committed.time);
            let Some(last) = times.max() else { return };
            let clock = Arc::clone(&inner.clock);
            inner.when_stable(last, move || {
                let now_us = clock.now_micros();
                for each in answers {
                    each.tell(&logged, &meter, now_us);
                }
            });
        };
        match told {
            Told::Now => tell(Ok(())),
            Told::Later(ticket) => self.when_logged(ticket, tell),
        }
    }

    /// Applies a delta that is in the log.
    fn apply(&mut self, slice: Slice) -> Result<(), Error> {
        let Slice {
            key,
            delta,
            time,
            snapshot,
            loaded,
        } = slice;
        self.begin();
        let was_here = self.owner.has(&key);
        if !was_here {
            let stored = match loaded {
                Some(loaded) if self.owner.is_current(&key, loaded.ticket) => loaded.stored,
                _ => self.inner.engine.load(&key)?,
            };
            self.owner.admit(&key, stored);
        }
        let low_water = self.low_water;
        self.owner.with(&key, was_here, |held| {
            held.push(&key, delta, time, snapshot, low_water);
        });
        self.recorder.wrote(&key);
        self.inner.watchers.note(&key, time);
        Ok(())
    }

    fn logged(&mut self, ticket: u64, outcome: &Result<(), Error>) {
        let mut then = Vec::new();
        while let Some(first) = self.waiting.pop_front_if(|first| first.ticket <= ticket) {
            if outcome.is_err() {
                self.lost = Some(self.lost.map_or(first.from, |lost| lost.min(first.from)));
            }
            then.extend(first.then);
        }
        // Before anybody is told.
        self.release();
        for then in then {
            then(outcome.clone());
        }
    }

    fn evict(&mut self) {
        let budget = self.inner.options.memory_bytes / self.inner.views.len() as u64;
        for _ in 0..EVICT_ROUNDS {
            if self.owner.view().bytes() <= budget {
                return;
            }
            let evicted = self.owner.evict(budget);
            self.recorder.evicted(evicted);
            if evicted == 0 {
                return;
            }
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // Also after a panic: nobody may wait for a shard that is gone.
        self.inner.mailboxes[self.index].end();
        for mail in self.mail.drain(..) {
            mailbox::refuse(mail);
        }
        for waiting in self.waiting.drain(..) {
            for then in waiting.then {
                then(Err(Error::Closed));
            }
        }
    }
}

/// Where an update's bytes go.
struct Logging<'a> {
    inner: &'a Inner,
    entries: &'a mut Entries,
    now_us: u64,
    time: Time,
    seen: Time,
}

impl Logging<'_> {
    fn write(&mut self, key: &Key, delta: &Cell) -> Result<(), Error> {
        let size_bytes = self.entries.write(self.time, self.seen, key, delta);
        let limit_bytes = record::LIMIT_BYTES;
        let room = if size_bytes > limit_bytes {
            Err(Error::TooLarge {
                size_bytes,
                limit_bytes,
            })
        } else {
            self.inner.space.take(size_bytes, self.now_us)
        };
        if room.is_err() {
            self.entries.undo(size_bytes);
        }
        room
    }
}

/// Calls `done`. A panic in it is its owner's fault and must not end the thread.
pub(crate) fn answer(done: Done, outcome: Result<Committed, Error>) {
    if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
        tracing::error!("the callback of a commit panicked");
    }
}
