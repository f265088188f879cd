//! Watching keys: who is told of which committed change.
//!
//! Whoever applies deltas notes each of them here; whoever watches takes events from a queue of
//! its own, as fast as it likes. A queue is bounded: if its owner is slow the oldest entries go,
//! and the owner is told how many, of which keys and of which time, before anything newer. So
//! nobody waits for a watcher, and no watcher believes to have seen what it has not.
//!
//! It knows keys and times. It does not know values: they are read when an event is taken. It
//! knows no thread and no runtime: who waits hands in what wakes it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tidemill_lattice::{Cell, Key, Time};

use crate::{Error, Store};

/// Entries of one watcher, and bytes of their keys, before the oldest go.
const QUEUE_ENTRIES: usize = 16 * 1024;
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// One key.
    Key(Key),
    /// All keys whose encoded form begins so, see [`Key::prefix`].
    Prefix(Vec<u8>),
}

impl Watched {
    fn covers(&self, key: &Key) -> bool {
        match self {
            Watched::Key(watched) => watched == key,
            Watched::Prefix(prefix) => key.as_bytes().starts_with(prefix),
        }
    }
}

/// Called when there may be something to take; once until it is taken. It must be short and
/// must not block.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event: every change above `after` follows. Whoever wants the state too reads it
    /// at a snapshot at or above `after`, which every new one is by now.
    Begins {
        /// The time that the watch begins above.
        after: Time,
    },
    /// A commit has changed a key.
    Change(Change),
    /// Changes that were not taken in time. Reading what is watched at a new snapshot, which is
    /// above `through`, makes up for them.
    Dropped(Dropped),
}

/// A commit has changed a key. There is one for each commit that wrote the key, in the order in
/// which the key's shard applied them, whether or not what is visible has changed. That is the
/// order of their times, but for a commit of several keys beside an update of one of them at
/// the same moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The key.
    pub key: Key,
    /// The commit's time.
    pub time: Time,
    /// The snapshot that the cell was read at, at or above `time`.
    pub read_at: Time,
    /// What the key holds at `read_at`: the newest, which later changes may have a part in.
    /// `None` if that is nothing, because it was deleted or has expired.
    pub cell: Option<Arc<Cell>>,
}

/// Changes that were not taken in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub count: u64,
    /// The lowest of their keys.
    pub first: Key,
    /// The highest of their keys.
    pub last: Key,
    /// The time of the earliest.
    pub from: Time,
    /// The time of the latest.
    pub through: Time,
}

/// Everybody who watches a store.
#[derive(Default)]
pub(crate) struct Watchers {
    /// How many there are, so that a store that nobody watches looks no further.
    count: AtomicUsize,
    list: RwLock<Vec<Arc<Watcher>>>,
}

struct Watcher {
    what: Watched,
    wake: Wake,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Above it everything is told; `None` until it is known, and what is noted meanwhile is kept.
    after: Option<Time>,
    told: bool,
    queue: VecDeque<(Key, Time)>,
    bytes: usize,
    dropped: Option<Dropped>,
    woken: bool,
    closed: bool,
}

impl State {
    fn push(&mut self, key: &Key, time: Time) {
        if self.after.is_some_and(|after| time <= after) {
            return;
        }
        self.bytes += key.as_bytes().len();
        self.queue.push_back((key.clone(), time));
        if self.after.is_some() {
            self.shrink();
        }
    }

    /// Drops the oldest until the rest fits.
    fn shrink(&mut self) {
        while self.queue.len() > QUEUE_ENTRIES || self.bytes > QUEUE_BYTES {
            let Some((key, time)) = self.pop() else {
                return;
            };
            let Some(dropped) = &mut self.dropped else {
                self.dropped = Some(Dropped {
                    count: 1,
                    first: key.clone(),
                    last: key,
                    from: time,
                    through: time,
                });
                continue;
            };
            dropped.count += 1;
            dropped.from = dropped.from.min(time);
            dropped.through = dropped.through.max(time);
            if key < dropped.first {
                dropped.first = key;
            } else if key > dropped.last {
                dropped.last = key;
            }
        }
    }

    fn pop(&mut self) -> Option<(Key, Time)> {
        let (key, time) = self.queue.pop_front()?;
        self.bytes -= key.as_bytes().len();
        Some((key, time))
    }

    fn begin(&mut self, after: Time) {
        self.after = Some(after);
        self.queue.retain(|(_, time)| *time > after);
        self.bytes = self.queue.iter().map(|(key, _)| key.as_bytes().len()).sum();
        self.shrink();
    }

    /// Whether there is something to take at this `stable`.
    fn ready(&self, stable: Time) -> bool {
        let queued = self.queue.front().is_some_and(|(_, time)| *time <= stable);
        let dropped = self
            .dropped
            .as_ref()
            .is_some_and(|dropped| dropped.through <= stable);
        let begun = self.after.is_some_and(|after| after <= stable);
        self.closed || begun && (!self.told || dropped || self.dropped.is_none() && queued)
    }
}

impl Watcher {
    fn call(&self, stable: Time) {
        let wake = {
            let mut state = self.state.lock();
            let wake = !state.woken && state.ready(stable);
            state.woken |= wake;
            wake
        };
        if wake {
            (self.wake)();
        }
    }
}

impl Watchers {
    /// Adds a watcher. It begins once [`Watch::beginning`] says from when on every change has been
    /// noted after this call.
    pub(crate) fn watch(self: &Arc<Self>, what: Watched, wake: Wake) -> Watch {
        let watcher = Arc::new(Watcher {
            what,
            wake,
            state: Mutex::default(),
        });
        let mut list = self.list.write();
        list.push(Arc::clone(&watcher));
        self.count.store(list.len(), Ordering::SeqCst);
        drop(list);
        Watch {
            watcher,
            watchers: Arc::clone(self),
        }
    }

    /// Whether anybody watches.
    pub(crate) fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Notes that the commit at `time` changes `key`, before the newest complete state passes
    /// `time`.
    pub(crate) fn note(&self, key: &Key, time: Time) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for watcher in &*self.list.read() {
            if watcher.what.covers(key) {
                watcher.state.lock().push(key, time);
            }
        }
    }

    /// Wakes those that have something to take, after `stable` has risen.
    pub(crate) fn advanced(&self, stable: Time) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Not under the lock: who is woken may drop a watch at once.
        let list = self.list.read().clone();
        for watcher in list {
            watcher.call(stable);
        }
    }

    /// Ends all watches: the store closes.
    pub(crate) fn close(&self) {
        let list = self.list.read().clone();
        for watcher in list {
            watcher.state.lock().closed = true;
            watcher.call(Time::MAX);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.list.read().len()
    }
}

/// A watch; dropping it ends it.
pub struct Watch {
    watcher: Arc<Watcher>,
    watchers: Arc<Watchers>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.watcher.what)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut list = self.watchers.list.write();
        list.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.watchers.count.store(list.len(), Ordering::SeqCst);
    }
}

impl Watch {
    /// A handle for whoever learns when the watch begins.
    pub(crate) fn beginning(&self) -> impl FnOnce(Time, Time) + Send + Sync + use<> {
        let watcher = Arc::clone(&self.watcher);
        move |after, stable| {
            watcher.state.lock().begin(after);
            watcher.call(stable);
        }
    }

    /// Takes up to `limit` events that the newest snapshot of `store`, the one watched, has in
    /// it; without any, the watch wakes its owner when there are. A change is only told once
    /// every new snapshot sees it.
    ///
    /// # Errors
    /// [`Error::Closed`] when the store has closed and everything is taken. As
    /// [`Store::read_at`] if a key can not be read: its change counts as told.
    pub fn take(&self, store: &dyn Store, limit: usize) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        self.watcher.state.lock().woken = false;
        let at = store.snapshot();
        let read_at = at.time();
        while events.len() < limit {
            let mut state = self.watcher.state.lock();
            if !state.ready(read_at) {
                break;
            }
            if !state.told
                && let Some(after) = state.after
            {
                state.told = true;
                events.push(Event::Begins { after });
            } else if let Some(dropped) = state.dropped.take() {
                events.push(Event::Dropped(dropped));
            } else if state.told
                && let Some((key, time)) = state.pop()
            {
                drop(state);
                let cell = store.read_at(&key, &at)?;
                let cell = cell.filter(|cell| cell.view(read_at).is_some());
                events.push(Event::Change(Change {
                    key,
                    time,
                    read_at,
                    cell,
                }));
            } else if events.is_empty() {
                return Err(Error::Closed);
            } else {
                break;
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("acme", "shop", name).expect("a valid key")
    }

    #[test]
    fn a_watch_that_is_dropped_leaves_nothing() {
        let watchers = Arc::new(Watchers::default());
        let one = watchers.watch(Watched::Key(key("a")), Box::new(|| ()));
        let two = watchers.watch(Watched::Prefix(Vec::new()), Box::new(|| ()));
        let seen = Arc::downgrade(&one.watcher);
        watchers.note(&key("a"), Time::from_micros(1));
        drop(one);
        assert!(seen.upgrade().is_none(), "its queue is still there");
        assert_eq!(watchers.len(), 1);
        drop(two);
        assert_eq!(
            (watchers.len(), watchers.count.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn what_was_before_the_beginning_is_not_told() {
        let watchers = Arc::new(Watchers::default());
        let watch = watchers.watch(
            Watched::Prefix(key("a").as_bytes().to_vec()),
            Box::new(|| ()),
        );
        for (name, micros) in [("ab", 1), ("b", 2), ("ac", 3), ("ad", 4)] {
            watchers.note(&key(name), Time::from_micros(micros));
        }
        watch.beginning()(Time::from_micros(3), Time::from_micros(3));
        watchers.note(&key("ae"), Time::from_micros(2));
        let mut state = watch.watcher.state.lock();
        state.told = true;
        assert!(!state.ready(Time::from_micros(3)), "it is not visible yet");
        assert!(state.ready(Time::from_micros(4)));
        assert_eq!(state.queue, [(key("ad"), Time::from_micros(4))]);
        assert_eq!(state.bytes, key("ad").as_bytes().len());
    }
}
