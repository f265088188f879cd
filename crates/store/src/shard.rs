//! One shard: the owner of a slice of the keys, one thread's at a time.
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
use crate::owner::{Held, Owner};
use crate::record::Entries;
use crate::table::Place;
use crate::turns::Turns;
use crate::writing::{Seen, Writing, Written};
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
    /// Runs a shard on a thread made for it, until a [`Turns::turn`] says that it has stopped.
    fn drive(&self, shard: Turns);
}

/// Drives shards by sleeping until there is mail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleeper;

impl Driver for Sleeper {
    fn drive(&self, shard: Turns) {
        loop {
            match shard.turn() {
                Turn::Busy => {}
                Turn::Idle => shard.sleep(TICK),
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
    /// Where that is which is still open, and how many writes it was.
    written: Vec<Place>,
    writes: u64,
    /// The time of what is open.
    drawn: Option<Time>,
    /// The first time drawn in this turn.
    from: Option<Time>,
    /// The last time drawn at all.
    last: Time,
    now_us: u64,
    /// As of the turn's beginning: everything at or below is applied.
    seen: Time,
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
            written: Vec::new(),
            writes: 0,
            drawn: None,
            from: None,
            last: Time::ZERO,
            now_us,
            seen: Time::ZERO,
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

    /// Does everything that was asked by others since the last turn.
    pub(crate) fn turn(&mut self) -> Turn {
        let mut mail = std::mem::take(&mut self.mail);
        self.inner.mailboxes[self.index].take(&mut mail);
        let is_idle = mail.is_empty();
        let is_stopped = self.do_all(&mut mail);
        self.mail = mail;
        match (is_stopped, is_idle) {
            (true, _) => Turn::Stopped,
            (false, true) => Turn::Idle,
            (false, false) => Turn::Busy,
        }
    }

    /// Does what is asked, in one turn. Tells whether that was to stop.
    pub(crate) fn do_all(&mut self, mail: &mut Vec<Mail>) -> bool {
        let mut is_stopped = false;
        let mut taken = 0;
        for mail in mail.drain(..) {
            match mail {
                Mail::Update(update, done, asked_us) => {
                    taken += 1;
                    self.asked_us = asked_us;
                    self.answer_update(update, done);
                }
                Mail::Apply(slices, part) => {
                    // Before anybody is told: what is answered no longer waits.
                    self.recorder.took(slices.len() as u64);
                    let applied = slices.into_iter().try_for_each(|slice| self.apply(slice));
                    part.done(applied);
                }
                Mail::Offer(key, cell, through, ticket) => {
                    self.owner.offer(key, cell, through, ticket);
                }
                Mail::Logged(ticket, logged) => self.logged(ticket, &logged),
                Mail::Run(work, part) => {
                    work(self);
                    part.done(Ok(()));
                }
                Mail::Stop => is_stopped = true,
            }
        }
        if taken > 0 {
            self.recorder.took(taken);
        }
        self.end_turn();
        self.evict();
        self.show();
        is_stopped
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
    }

    /// Decides a write of a key of this shard. What it writes is seen by later updates and by
    /// [`Store::newest`](crate::Store::newest) at once, and by snapshots after [`Shard::flush`].
    ///
    /// `decide` gets what the key holds, the time to judge expiry by, and the next dots; it gives
    /// the delta, if any, and an answer of its own. All writes of a turn are of one time (but for
    /// those after a commit that was applied in it), and
    /// those of one key are one delta, so that a key written a thousand times is logged once.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Full`], [`Error::TooLarge`] if it can not be written;
    /// [`Error::Io`] or [`Error::Corrupt`] if the key can not be read. Then nothing was.
    pub fn update<T>(
        &mut self,
        key: &Key,
        durability: Durability,
        decide: impl FnOnce(Seen<'_>, Time, &mut dyn FnMut() -> Dot) -> (Option<Cell>, T),
    ) -> Result<T, Error> {
        if let Some(error) = self.inner.failure() {
            return Err(error);
        }
        self.begin();
        let time = self.time();
        let place = match self.owner.place(key) {
            Some(place) => Some(place),
            None => {
                let stored = self.inner.engine.load(key)?;
                stored.map(|stored| self.owner.admit(key.clone(), Some(stored)))
            }
        };
        let mut writing = Writing {
            inner: &self.inner,
            writer: self.writer,
            now_us: self.now_us,
            time,
            seen: self.seen,
        };
        let (answer, written) = match place {
            Some(place) => {
                let update = |held: &mut Held<'_>| writing.update(key, held, decide);
                let (answer, written) = self
                    .owner
                    .with(place, true, update)
                    .ok_or(Error::Closed)??;
                (answer, written.map(|written| (place, written)))
            }
            // Nothing is kept of a key that is looked at and not written.
            None => {
                let (delta, dots, answer) = writing.decide(Seen::nothing(), 0, decide);
                let Some(delta) = delta else {
                    return Ok(answer);
                };
                writing.take_room(key, &delta)?;
                let (time, seen) = (writing.time, writing.seen);
                let place = self.owner.admit(key.clone(), None);
                let write = |held: &mut Held<'_>| held.write(delta, time, seen, dots);
                self.owner.with(place, false, write);
                (answer, Some((place, Written::First)))
            }
        };
        if let Some((place, written)) = written {
            self.recorder.wrote(key);
            self.writes += 1;
            self.is_durable |= durability == Durability::Durable;
            if written == Written::First {
                self.written.push(place);
                self.inner.watchers.note(key, time);
            }
            if written == Written::Large {
                self.close();
            }
        }
        Ok(answer)
    }

    /// The time of this turn's writes. It is held before it is drawn.
    fn time(&mut self) -> Time {
        if let Some(time) = self.drawn {
            return time;
        }
        let time = self.inner.frontier.draw(self.index, 1, self.now_us);
        self.drawn = Some(time);
        self.from.get_or_insert(time);
        self.last = time;
        time
    }

    /// Ends what is open: what is written from now on has another time.
    fn close(&mut self) {
        for place in self.written.drain(..) {
            self.owner.close(place, &mut self.entries);
        }
        self.drawn = None;
    }

    /// Hands what was written to the log and makes it visible: at once, or once the log has it
    /// where any of it was to be [`Durability::Durable`].
    pub fn flush(&mut self) -> Told {
        self.close();
        let is_slow = self.inner.backlog.load(Ordering::Relaxed) > BACKLOG_BYTES;
        let waits = std::mem::take(&mut self.is_durable) || is_slow;
        let ticket = self.hand_over(waits);
        self.is_begun = false;
        let told = self.let_go(ticket, waits);
        self.settle();
        told
    }

    /// Lets the frontier pass this turn's times, or says what they wait for.
    fn let_go(&mut self, ticket: Option<u64>, waits: bool) -> Told {
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

    /// Folds what may be folded by now.
    fn settle(&mut self) {
        self.inner.advance();
        let low_water = self.inner.pins.low_water(self.now_us);
        self.owner.settle(low_water);
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

    /// The greatest time of what this shard has written.
    #[must_use]
    pub fn last(&self) -> Time {
        self.last
    }

    /// Calls `then`, on some thread, once every new snapshot has what this shard has flushed
    /// through a time and the log has.
    pub fn when_stable(&self, through: Time, then: impl FnOnce() + Send + 'static) {
        self.inner.when_stable(through, then);
    }

    /// Gives the log the turn's entries so far. Answers the ticket, if there were any.
    fn hand_over(&mut self, waits: bool) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        let counters = &self.inner.counters;
        let count = std::mem::take(&mut self.writes);
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
                let delta = decide(seen.cell(), at, dots);
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
                    repeated: None,
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
            // What others held back, or what has just been recovered.
            self.now_us = self.inner.clock.now_micros();
            return self.settle();
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
        if self.drawn.is_some_and(|drawn| drawn < time) {
            // Who writes from here on may have seen it, so his time must be above it.
            self.close();
        }
        let here = self.owner.place(&key);
        let place = match here {
            Some(place) => place,
            None => {
                let stored = match loaded {
                    Some(loaded) if self.owner.is_current(&key, loaded.ticket) => loaded.stored,
                    _ => self.inner.engine.load(&key)?,
                };
                self.owner.admit(key.clone(), stored)
            }
        };
        let push = |held: &mut Held<'_>| held.push(delta, time, snapshot);
        self.owner.with(place, here.is_some(), push);
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

/// Calls `done`. A panic in it is its owner's fault and must not end the thread.
pub(crate) fn answer(done: Done, outcome: Result<Committed, Error>) {
    if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
        tracing::error!("the callback of a commit panicked");
    }
}
