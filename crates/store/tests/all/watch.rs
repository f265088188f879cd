//! Watching: every change once, in order, and a slow watcher learns what it missed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tidemill_lattice::{Op, Time};
use tidemill_store::watch::{Change, Dropped, Event, Watch, Watched};
use tidemill_store::{Embedded, Error, Store};

use crate::support::*;

/// Events as they come, waiting for the watch's own call.
struct Watching<'a> {
    store: &'a Embedded,
    watch: Watch,
    called: mpsc::Receiver<()>,
}

impl Watching<'_> {
    fn begin(store: &Embedded, what: Watched) -> Watching<'_> {
        let (call, called) = mpsc::channel();
        let wake = Box::new(move || {
            // Nobody listens any more when a test is over.
            let _ = call.send(());
        });
        let watch = store.watch(what, wake);
        Watching {
            store,
            watch,
            called,
        }
    }

    fn take(&self, limit: usize) -> Vec<Event> {
        loop {
            let events = self.watch.take(self.store, limit).expect("open");
            if !events.is_empty() {
                return events;
            }
            self.called.recv().expect("the store calls");
        }
    }

    fn begins(&self) -> Time {
        match &self.take(1)[..] {
            [Event::Begins { after }] => *after,
            other => panic!("{other:?}"),
        }
    }

    fn change(&self) -> Change {
        match self.take(1).pop() {
            Some(Event::Change(change)) => change,
            other => panic!("{other:?}"),
        }
    }

    fn shown(&self) -> Option<String> {
        let change = self.change();
        assert!(change.time <= change.read_at);
        let at = self.store.snapshot();
        change.cell.as_ref().and_then(|cell| show(cell, &at))
    }
}

#[test]
fn every_change_is_told_once_and_in_order() {
    const ROUNDS: usize = 400;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let (mut committed, told) = thread::scope(|scope| {
        let store = &store;
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    (0..ROUNDS)
                        .map(|round| {
                            let (shared, own) =
                                (format!("w/{}", round % 5), format!("w/own {writer}"));
                            let ops = [add(&shared, 1), add(&own, 1), add("other", 1)];
                            (write(store, &ops).time, [shared, own])
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let watcher = scope.spawn(move || {
            let watching = Watching::begin(store, Watched::Prefix(prefix("w/")));
            let after = watching.begins();
            let mut told = Vec::new();
            while told.last().is_none_or(|(_, name)| name != "w/end") {
                for event in watching.take(7) {
                    let Event::Change(change) = event else {
                        panic!("{event:?}")
                    };
                    assert!(change.time <= change.read_at, "told before it is visible");
                    told.push((change.time, change.key.name_lossy().into_owned()));
                }
            }
            (after, told)
        });
        // One that begins in the middle of it all.
        let late = scope.spawn(move || {
            let watching = Watching::begin(store, Watched::Key(key("w/0")));
            let after = watching.begins();
            let mut sum = number(store, "w/0", &store.snapshot());
            // What was read and what is told since are all there is.
            while sum < 3 * (ROUNDS as i64) / 5 {
                let change = watching.change();
                assert!(change.time > after);
                let at = store.snapshot();
                sum = sum.max(number(store, "w/0", &at));
            }
            after
        });
        let committed: Vec<_> = writers
            .into_iter()
            .flat_map(|writer| writer.join().expect("writes"))
            .collect();
        let end = write(store, &[set("w/end", "1")]);
        let mut committed = committed;
        committed.push((end.time, ["w/end".to_owned(), String::new()]));
        late.join().expect("watches");
        (committed, watcher.join().expect("watches"))
    });
    committed.sort_unstable();
    let (after, told) = told;
    let expected: Vec<(Time, String)> = committed
        .into_iter()
        .filter(|(time, _)| *time > after)
        .flat_map(|(time, names)| names.map(|name| (time, name)))
        .filter(|(_, name)| !name.is_empty())
        .collect();
    assert_eq!(told.len(), expected.len());
    let per_key = |list: &[(Time, String)]| {
        let mut keys: BTreeMap<String, Vec<Time>> = BTreeMap::new();
        for (time, name) in list {
            keys.entry(name.clone()).or_default().push(*time);
        }
        keys
    };
    assert_eq!(per_key(&told), per_key(&expected));
}

#[test]
fn a_change_is_told_with_what_every_new_snapshot_sees() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = ManualClock::new();
    let store = Embedded::open(options(directory.path()), clock.clone()).expect("opens");
    write(&store, &[set("a", "0")]);
    let watching = Watching::begin(&store, Watched::Key(key("a")));
    assert_eq!(watching.begins(), store.snapshot().time());
    write(&store, &[set("a", "1"), set("ab", "1")]);
    assert_eq!(watching.shown().as_deref(), Some("1"));
    write(&store, &[delete("a")]);
    assert_eq!(watching.shown(), None);
    write(&store, &[set("a", "2")]);
    write(&store, &[set("a", "3")]);
    // Two changes, told with the newest value.
    assert_eq!(watching.shown().as_deref(), Some("3"));
    assert_eq!(watching.shown().as_deref(), Some("3"));
    let soon = Time::from_micros(1_700_000_000_000_000 + 1_000);
    write(&store, &[(key("a"), Op::Expire(Some(soon)))]);
    clock.move_us(2_000);
    write(&store, &[set("b", "1")]);
    assert_eq!(watching.shown(), None, "it has expired");
    assert!(watching.watch.take(&store, 9).expect("open").is_empty());
}

#[test]
fn a_slow_watcher_learns_exactly_what_it_missed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let watching = Watching::begin(&store, Watched::Prefix(prefix("k/")));
    watching.begins();
    let at = store.snapshot();
    let ops: Vec<_> = (0..1_000).map(|i| set(&format!("k/{i:04}"), "1")).collect();
    let deltas = deltas(&store, &at, &ops);
    let times: Vec<Time> = (0..20)
        .map(|_| {
            send(&store, commit(&at, deltas.clone()))
                .expect("commits")
                .time
        })
        .collect();
    let events = watching.take(50_000);
    let Some(Event::Dropped(dropped)) = events.first() else {
        panic!("{:?}", events.first())
    };
    let kept: Vec<_> = events[1..]
        .iter()
        .map(|event| match event {
            Event::Change(change) => (change.time, change.key.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(dropped.count as usize + kept.len(), 20 * 1_000);
    assert!(kept.len() > 1_000);
    // Shards apply their keys of a commit side by side, so what is kept is a key's newest
    // changes, in order, and no other.
    let mut through = Time::ZERO;
    for (key, _) in &ops {
        let of_key = kept.iter().filter(|(_, kept)| kept == key);
        let of_key: Vec<Time> = of_key.map(|(time, _)| *time).collect();
        let gone = times.len() - of_key.len();
        assert_eq!(of_key, times[gone..], "{key:?}");
        through = through.max(times[..gone].last().copied().unwrap_or_default());
    }
    let expected = Dropped {
        count: dropped.count,
        first: key("k/0000"),
        last: key("k/0999"),
        from: times[0],
        through,
    };
    assert_eq!(*dropped, expected);
    write(&store, &[set("k/next", "1")]);
    assert_eq!(watching.change().key, key("k/next"));
}

#[test]
fn a_watch_ends_with_its_store() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let other_directory = tempfile::tempdir().expect("a temporary directory");
    let other = open(other_directory.path());
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let wake = Box::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let watch = store.watch(Watched::Prefix(Vec::new()), wake);
    while watch.take(&store, 100).expect("open").is_empty() {
        thread::yield_now();
    }
    write(&store, &[set("a", "1")]);
    while watch.take(&store, 100).expect("open").is_empty() {
        thread::yield_now();
    }
    let before = calls.load(Ordering::SeqCst);
    drop(store);
    assert_eq!(calls.load(Ordering::SeqCst), before + 1);
    assert_eq!(watch.take(&other, 100), Err(Error::Closed));
    drop(open(directory.path()));
}
