//! A partition in a directory of this machine.
//!
//! It puts the parts together: the directory's lock, the engine, the shards with their threads,
//! the pins, and the log's thread. Reads are answered here, on the caller's thread.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tidemill_lattice::{Cell, Clock, Key, Time, Writer};

use crate::engine::Engine;
use crate::frontier::Frontier;
use crate::latch::Latch;
use crate::lock::DirectoryLock;
use crate::loss::Losses;
use crate::mailbox::{Mail, Mailbox};
use crate::observed::ShardStats;
use crate::opening::{self, Threads};
use crate::queue::{Queue, Queued};
use crate::record::Entries;
use crate::sequencer::Sequencer;
use crate::shard::Shard;
use crate::space::Space;
use crate::stable::Unstable;
use crate::table::{Found, View, hash_of};
use crate::turns::{self, Slot};
use crate::watch::{Wake, Watch, Watched, Watchers};
use crate::{
    Commit, Committed, Done, Durability, Error, Look, MessageId, Observed, Options, Page, Pins,
    RecordedRequest, Snapshot, Stats, Store, Update, backup, export, scan,
};

/// A key hashes to one of so many slots, by XXH3-64 of its encoded form; a shard owns a range
/// of them.
pub(crate) const SLOTS: u64 = 4096;

/// Numbers that the sequencer counts and everybody reads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) commits_per_flush: [AtomicU64; 8],
    pub(crate) log_bytes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint: AtomicU64,
    pub(crate) read_only: AtomicBool,
    pub(crate) requests_repeated: AtomicU64,
    pub(crate) requests_swept: AtomicU64,
}

/// What readers, shards and the sequencer share. The lock is the last to go.
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) engine: Engine,
    pub(crate) views: Vec<Arc<View>>,
    pub(crate) mailboxes: Vec<Mailbox>,
    /// The shards, which hold this in turn: each leaves its slot when it stops.
    pub(crate) slots: OnceLock<Vec<Slot>>,
    pub(crate) frontier: Frontier,
    pub(crate) pins: Arc<Pins>,
    pub(crate) pending: Mutex<BTreeMap<MessageId, Bytes>>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) wake: Condvar,
    pub(crate) space: Space,
    pub(crate) losses: Losses,
    /// Bytes that shards have written and the log has not.
    pub(crate) backlog: AtomicU64,
    /// No commit with a record at or below this time is lost with the machine: they draw their
    /// times as their groups are made, so none of an earlier group is above one of a later.
    pub(crate) synced_through: AtomicU64,
    /// Who waits for the frontier to pass a time.
    pub(crate) unstable: Unstable,
    /// Groups of the log from this one on were voided in this life, and their records with them.
    pub(crate) voided_from: AtomicU64,
    pub(crate) counters: Counters,
    /// Why nothing is written any more; see `counters.read_only`.
    pub(crate) cause: Mutex<Option<String>>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) _lock: DirectoryLock,
}

/// Which of `count` shards owns a key.
pub(crate) fn shard_of(key: &Key, count: usize) -> usize {
    shard_of_hash(hash_of(key), count)
}

pub(crate) fn shard_of_hash(hash: u64, count: usize) -> usize {
    (hash % SLOTS * count as u64 / SLOTS) as usize
}

impl Inner {
    pub(crate) fn shard_of(&self, key: &Key) -> usize {
        shard_of(key, self.views.len())
    }

    /// Moves snapshots up to the newest complete state.
    pub(crate) fn advance(&self) -> Time {
        let stable = self.frontier.stable();
        self.pins.advance(stable);
        stable
    }

    /// A key as of `at`. The caller checks the pin afterwards.
    pub(crate) fn read(&self, key: &Key, at: Time, keep: bool) -> Result<Option<Arc<Cell>>, Error> {
        let hash = hash_of(key);
        let shard = shard_of_hash(hash, self.views.len());
        let view = &self.views[shard];
        if keep {
            view.meter().read(key);
        }
        let ticket = match view.get(key, hash, at) {
            Found::Here(cell) => return Ok(cell),
            // The pin has expired; whoever checks it says so.
            Found::Folded => return Ok(None),
            Found::Cold(ticket) => ticket,
        };
        // A key missing from memory is clean: the durable tier has every commit to it that a
        // live snapshot can see, and no other, since only folded bases are stored.
        let began_us = self.clock.now_micros();
        let stored = self.engine.load(key)?;
        if keep {
            let elapsed_us = self.clock.now_micros().saturating_sub(began_us);
            view.meter().cold_read(elapsed_us);
        }
        let Some(stored) = stored else {
            return Ok(None);
        };
        let cell = Arc::new(stored.cell);
        if keep {
            let offer = Mail::Offer(key.clone(), Arc::clone(&cell), stored.through, ticket);
            // A shard that is gone keeps nothing.
            drop(self.ask(shard, offer));
        }
        Ok((!cell.is_bottom()).then_some(cell))
    }

    /// What the log says of a request, whether all of it can be seen yet or not.
    pub(crate) fn recorded(&self, id: u128, now_us: u64) -> Result<Option<RecordedRequest>, Error> {
        let stored = self.engine.request(id)?;
        let voided_from = self.voided_from.load(Ordering::SeqCst);
        let stands = stored.filter(|stored| stored.group < voided_from);
        Ok(stands.and_then(|stored| stored.at(now_us)))
    }

    /// The newest complete state, pinned, with the messages that are pending in it. What is
    /// pending changes, and the frontier passes it, under one lock.
    pub(crate) fn snapshot_with_messages(&self) -> (Snapshot, Vec<(MessageId, Bytes)>) {
        let pending = self.pending.lock();
        self.advance();
        let at = self.pins.pin(self.clock.now_micros());
        let messages = pending.iter().map(|(id, body)| (*id, body.clone()));
        (at, messages.collect())
    }

    /// Gives the log what a shard has written. Answers the ticket.
    pub(crate) fn hand_over(&self, shard: usize, entries: Entries, waits: bool) -> u64 {
        // Nobody waits for the log, so all of it is answered before it is safe.
        if !waits && let Err(error) = self.losses.updates() {
            self.stop_writing(&error);
        }
        let bytes = entries.len() as u64;
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
        let (ticket, wakes) = self.queue.lock().hand_over(shard, entries, waits);
        if wakes {
            self.wake.notify_one();
        }
        ticket
    }

    /// Does something on a shard's thread and waits for it. Never to be called from one.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        shard: usize,
        work: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let latch = Latch::default();
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        let work = move |shard: &mut Shard| *slot.lock() = Some(work(shard));
        drop(self.ask(shard, Mail::Run(Box::new(work), latch.part())));
        latch.wait()?;
        result.lock().take().ok_or(Error::Closed)
    }

    /// Why nothing can be written, if a write has failed.
    pub(crate) fn failure(&self) -> Option<Error> {
        if !self.counters.read_only.load(Ordering::Relaxed) {
            return None;
        }
        let cause = self.cause.lock().clone().unwrap_or_default();
        Some(Error::ReadOnly {
            directory: self.options.directory.clone(),
            cause,
        })
    }

    pub(crate) fn stop_writing(&self, error: &Error) {
        tracing::error!(%error, "the store is read-only from now on");
        self.cause.lock().get_or_insert_with(|| error.to_string());
        self.counters.read_only.store(true, Ordering::Relaxed);
        self.wake_stable();
    }
}

/// A store in a directory. Dropping it answers what is queued, syncs, and releases the
/// directory.
pub struct Embedded {
    inner: Arc<Inner>,
    sequencer: Arc<Mutex<Sequencer>>,
    threads: Option<Threads>,
    writer: Writer,
}

impl Embedded {
    pub(crate) fn new(
        inner: Arc<Inner>,
        sequencer: Arc<Mutex<Sequencer>>,
        threads: Threads,
        writer: Writer,
    ) -> Embedded {
        Embedded {
            inner,
            sequencer,
            threads: Some(threads),
            writer,
        }
    }

    /// Opens a directory: takes its lock, recovers what the last life left, begins a new
    /// epoch, and starts the threads. `clock` is the wall clock.
    ///
    /// # Errors
    /// [`Error::InUse`] if another store has it open; [`Error::Corrupt`] if what is there is
    /// damaged; [`Error::Format`] if another version wrote it; [`Error::Io`] otherwise.
    pub fn open(options: Options, clock: Arc<dyn Clock>) -> Result<Embedded, Error> {
        opening::open(options, clock)
    }

    /// The writer of this life of the store: an epoch, one above the last life's.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// Makes the durable tier complete through the low water and trims the log behind it.
    /// Blocks until done; for tests, backups and orderly stops. The store does it by itself
    /// as the log grows.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`] or [`Error::ReadOnly`] if it can not be written.
    pub fn checkpoint(&self) -> Result<Time, Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        {
            let mut queue = self.inner.queue.lock();
            if queue.closing {
                return Err(Error::Closed);
            }
            queue.checkpoints.push(sender);
        }
        self.inner.wake.notify_one();
        receiver.recv().map_err(|_| Error::Closed)?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let Some(threads) = self.threads.take() else {
            return;
        };
        let inner = Arc::clone(&self.inner);
        if !threads.has(thread::current().id()) {
            threads.end(&inner);
            return inner.watchers.close();
        }
        // Dropped from a `done`: a thread can not wait for itself.
        let closer = thread::Builder::new().name("store-closer".to_owned());
        let end = move || {
            threads.end(&inner);
            inner.watchers.close();
        };
        if let Err(error) = closer.spawn(end) {
            tracing::error!(%error, "the store could not be closed in order");
        }
    }
}

/// Does something when the last copy of it goes.
struct Last(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Last {
    fn new(then: impl FnOnce() + Send + Sync + 'static) -> Last {
        Last(Some(Box::new(then)))
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

impl Store for Embedded {
    fn snapshot(&self) -> Snapshot {
        // Every request takes one; the time matters to what expires and to how old a pin may be.
        let now_us = self.inner.clock.coarse_micros();
        self.inner.frontier.tick(now_us);
        self.inner.advance();
        self.inner.pins.pin(now_us)
    }

    fn stable(&self) -> Time {
        let inner = &*self.inner;
        inner.frontier.tick(inner.clock.now_micros());
        inner.advance()
    }

    fn when_stable(&self, time: Time, then: Box<dyn FnOnce() + Send>) {
        // Nobody may wait for a time that no clock comes to.
        self.inner.frontier.reach(time);
        self.inner.when_stable(time, then);
    }

    fn losses(&self) -> u32 {
        self.inner.losses.count()
    }

    fn has_kept(&self, losses: u32, time: Time) -> bool {
        self.inner.losses.kept(losses, time)
    }

    fn read_at(&self, key: &Key, at: &Snapshot) -> Result<Option<Arc<Cell>>, Error> {
        let cell = self.inner.read(key, at.time(), true);
        self.inner.pins.check(at.time())?;
        cell
    }

    fn newest(&self, key: &Key) -> Result<Option<Arc<Cell>>, Error> {
        if self.inner.failure().is_some() {
            // What the log has lost is here and never happened.
            return self.read_at(key, &self.snapshot());
        }
        self.inner.read(key, Time::MAX, true)
    }

    fn look(
        &self,
        key: &Key,
        at: Option<&Snapshot>,
        see: &mut dyn FnMut(Look<'_>),
    ) -> Result<(), Error> {
        let inner = &*self.inner;
        if at.is_none() && inner.failure().is_some() {
            return self.look(key, Some(&self.snapshot()), see);
        }
        let hash = hash_of(key);
        let view = &inner.views[shard_of_hash(hash, inner.views.len())];
        let time = at.map_or(Time::MAX, Snapshot::time);
        let found = view.look(key, hash, time, see);
        if let Some(at) = at {
            inner.pins.check(at.time())?;
        }
        if found.is_err() {
            let cell = inner.read(key, time, true)?;
            see(Look::Cell(cell.as_deref()));
        } else {
            view.meter().read(key);
        }
        Ok(())
    }

    fn prefetch(&self, keys: &[Key]) {
        self.inner.prefetch(keys);
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: &Snapshot,
    ) -> Result<Page, Error> {
        scan::page(&self.inner, prefix, after, limit, at.time())
    }

    fn commit(&self, commit: Commit, done: Done) {
        if commit.is_empty() {
            return done(Ok(Committed {
                time: commit.snapshot,
                messages: Vec::new(),
                repeated: None,
            }));
        }
        let inner = &*self.inner;
        if commit.durability == Durability::Memory
            && let Err(error) = inner.losses.commits()
        {
            return done(Err(error));
        }
        inner.advance();
        let asked_us = inner.clock.now_micros();
        let held = match inner.pins.hold(commit.snapshot, asked_us) {
            Ok(held) => held,
            Err(error) => return done(Err(error)),
        };
        let mut queue = inner.queue.lock();
        if queue.closing {
            drop(queue);
            return done(Err(Error::Closed));
        }
        let is_memory = commit.durability == Durability::Memory;
        let wakes = queue.push(Queued {
            commit,
            held,
            done,
            asked_us,
        });
        // It waits until the shards have applied it.
        let is_free = is_memory && !turns::must_not_wait();
        if is_free && Sequencer::combine(&self.sequencer, &mut queue) {
            return;
        }
        drop(queue);
        if wakes {
            inner.wake.notify_one();
        }
    }

    fn request(&self, id: u128) -> Result<Option<RecordedRequest>, Error> {
        let inner = &*self.inner;
        let recorded = inner.recorded(id, inner.clock.now_micros())?;
        // Between the log's write and the answer it is there and not to be seen yet.
        let recorded = recorded.filter(|recorded| recorded.time <= inner.advance());
        if recorded.is_some() {
            let repeated = &inner.counters.requests_repeated;
            repeated.fetch_add(1, Ordering::Relaxed);
        }
        Ok(recorded)
    }

    fn is_kept(&self, through: Time) -> bool {
        through.as_u64() <= self.inner.synced_through.load(Ordering::Acquire)
    }

    fn keep(&self, through: Time) -> Result<(), Error> {
        if self.is_kept(through) {
            return Ok(());
        }
        let mut sequencer = self.sequencer.lock();
        sequencer.catch_up();
        sequencer.keep()
    }

    fn update(&self, update: Update, done: Done) {
        let shard = self.inner.shard_of(&update.key);
        let asked_us = self.inner.clock.now_micros();
        let mail = Mail::Update(update, done, asked_us);
        self.inner.views[shard].meter().sent(1);
        if let Err(Mail::Update(_, done, _)) = self.inner.ask(shard, mail) {
            done(Err(Error::Closed));
        }
    }

    fn apply(
        &self,
        prefix: &[u8],
        at: &Snapshot,
        each: &mut dyn FnMut(&Key, &Cell) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        scan::each(&self.inner, prefix, None, at.time(), &mut |key, cell| {
            each(&key, &cell)
        })
    }

    fn watch(&self, what: Watched, wake: Wake) -> Watch {
        let watch = self.inner.watchers.watch(what, wake);
        let begin = watch.beginning();
        let inner = Arc::clone(&self.inner);
        // Once every shard has come by here, whatever it applied unnoticed has a time that was
        // drawn before; whatever has a greater one has been noted.
        let barrier = Arc::new(Last::new(move || {
            begin(inner.frontier.last(), inner.advance());
        }));
        for shard in 0..self.inner.mailboxes.len() {
            let passed = Arc::clone(&barrier);
            let pass = Box::new(move |_: &mut Shard| drop(passed));
            // A shard that is gone changes no more.
            drop(
                self.inner
                    .ask(shard, Mail::Run(pass, Latch::default().part())),
            );
        }
        watch
    }

    fn backup(&self, out: &mut dyn Write) -> Result<backup::Summary, backup::WriteError> {
        export::export(&self.inner, self.writer, out)
    }

    fn pending_messages(&self) -> Result<Vec<(MessageId, Bytes)>, Error> {
        let pending = self.inner.pending.lock();
        Ok(pending
            .iter()
            .map(|(id, body)| (*id, body.clone()))
            .collect())
    }

    fn observe(&self) -> Observed {
        let inner = &*self.inner;
        let shards = inner.views.iter().enumerate();
        let shards = shards.map(|(index, view)| ShardStats {
            keys: view.keys(),
            memory_bytes: view.bytes(),
            dirty_keys: view.dirty(),
            ..view.meter().stats(index)
        });
        let log_bytes = inner.counters.log_bytes.load(Ordering::Relaxed);
        let budget = inner.options.memory_bytes;
        Observed::new(shards.collect(), inner.engine.observe(), log_bytes, budget)
    }

    fn stats(&self) -> Stats {
        let inner = &*self.inner;
        let counters = &inner.counters;
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let now_us = inner.clock.now_micros();
        let sum = |of: fn(&View) -> u64| inner.views.iter().map(|view| of(view)).sum();
        let stable = inner.advance();
        Stats {
            keys: sum(View::keys),
            bytes: sum(View::bytes),
            commits: number(&counters.commits),
            flushes: number(&counters.flushes),
            syncs: number(&counters.syncs),
            commits_per_flush: counters.commits_per_flush.each_ref().map(number),
            log_bytes: number(&counters.log_bytes),
            checkpoints: number(&counters.checkpoints),
            checkpoint: Time::from_u64(number(&counters.checkpoint)),
            oldest_pin_us: inner.pins.oldest_age_us(now_us),
            low_water: inner.pins.low_water(now_us),
            stable,
            messages_pending: inner.pending.lock().len() as u64,
            conflicts_dropped: sum(View::conflicts),
            read_only: counters.read_only.load(Ordering::Relaxed),
            requests: inner.engine.requests_len(),
            requests_repeated: number(&counters.requests_repeated),
            requests_swept: number(&counters.requests_swept),
        }
    }
}
