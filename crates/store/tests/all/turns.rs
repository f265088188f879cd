//! Turns that several threads take part in, at the moments that are hard to meet by chance.

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_lattice::{Cell, Op};
use tidemill_store::{
    Commit, Committed, Driver, Durability, Embedded, Error, Options, Sleeper, Store, Turns, Update,
};

use crate::support::*;

/// Whoever waits longer than this waits for ever.
const FOREVER: Duration = Duration::from_secs(20);

type Work = Box<dyn FnOnce(&Turns) + Send>;

/// Does some work on the thread of the only shard, and then as others do.
struct First(Mutex<Option<Work>>);

impl Driver for First {
    fn drive(&self, turns: Turns) {
        let work = self.0.lock().take();
        if let Some(work) = work {
            work(&turns);
        }
        Sleeper.drive(turns);
    }
}

fn open_with(
    directory: &std::path::Path,
    work: impl FnOnce(&Turns) + Send + 'static,
) -> Arc<Embedded> {
    let options = Options {
        shards: 1,
        driver: Arc::new(First(Mutex::new(Some(Box::new(work))))),
        ..options(directory)
    };
    Arc::new(Embedded::open(options, ManualClock::new()).expect("the store opens"))
}

/// Waits until so many commits and updates lie in the shard's mail.
fn wait_for_mail(store: &Embedded, count: u64) {
    while store.observe().shards[0].queue_depth < count {
        thread::yield_now();
    }
    // They are counted a moment before they lie there.
    (0..10_000).for_each(|_| thread::yield_now());
}

fn updating(name: &str, op: Op) -> Update {
    Update {
        key: key(name),
        durability: Durability::Memory,
        decide: Box::new(move |seen, at, dots| Cell::delta(seen, &op, at, dots).ok()),
    }
}

type Answered = mpsc::Receiver<Result<Committed, Error>>;

fn answer() -> (tidemill_store::Done, Answered) {
    let (sender, receiver) = mpsc::channel();
    let done = move |outcome| drop(sender.send(outcome));
    (Box::new(done), receiver)
}

#[test]
fn what_is_written_after_a_commit_within_a_turn_has_a_later_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (begin, begun) = mpsc::channel();
    let (hold, held) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let store = open_with(directory.path(), move |turns| {
        begun.recv().expect("the store is open");
        turns.with(|shard| {
            let add = |seen: tidemill_store::Seen<'_>, at, dots: &mut dyn FnMut() -> _| {
                let delta = Cell::delta(seen.cell(), &Op::CounterAdd(1), at, dots);
                (Some(delta.expect("it fits")), ())
            };
            let added = shard.update(&key("n"), Durability::Memory, add);
            added.expect("it is written");
            hold.send(()).expect("heard");
            // The mail comes meanwhile, and what was written here stays open.
            ended.recv().expect("told");
        });
    });
    begin.send(()).expect("heard");
    held.recv().expect("the turn is held");
    let at = store.snapshot();
    let ops = [add("n", 10), set("r", "of the commit")];
    let committing = Commit {
        durability: Durability::Durable,
        ..commit(&at, deltas(&*store, &at, &ops))
    };
    let (done, committed) = answer();
    store.commit(committing, done);
    wait_for_mail(&store, 2);
    let (done, added) = answer();
    store.update(updating("n", Op::CounterAdd(100)), done);
    let (done, set) = answer();
    store.update(updating("r", Op::RegisterSet(text("of the update"))), done);
    end.send(()).expect("heard");
    let time = |answered: Answered| answered.recv().expect("answered").expect("written").time;
    let committed = time(committed);
    assert!(time(added) > committed && time(set) > committed);
    let check = |store: &Embedded| {
        assert_eq!(get(store, "n").as_deref(), Some("111"));
        assert_eq!(get(store, "r").as_deref(), Some("of the update"));
    };
    check(&store);
    drop(Arc::into_inner(store).expect("nobody else has it"));
    check(&open(directory.path()));
}

#[test]
fn a_commit_on_a_shards_own_thread_is_answered_though_another_has_the_turn() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let shared: Arc<OnceLock<Arc<Embedded>>> = Arc::default();
    let (begin, begun) = mpsc::channel();
    let (done, committed) = answer();
    let theirs = Arc::clone(&shared);
    let store = open_with(directory.path(), move |turns| {
        begun.recv().expect("the store is open");
        let store = theirs.get().expect("the store is open");
        let (hold, held) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                turns.with(|_| {
                    hold.send(()).expect("heard");
                    // The turn ends as the mail comes, and nobody looks at it but its driver.
                    wait_for_mail(store, 1);
                });
            });
            held.recv().expect("the turn is held");
            let at = store.snapshot();
            let deltas = deltas(&**store, &at, &[add("n", 1)]);
            store.commit(commit(&at, deltas), done);
        });
    });
    assert!(shared.set(Arc::clone(&store)).is_ok());
    begin.send(()).expect("heard");
    let Ok(outcome) = committed.recv_timeout(FOREVER) else {
        // Closing it would wait for that thread as well.
        std::mem::forget((store, shared));
        panic!("a shard's own thread waits for its shard");
    };
    outcome.expect("it is committed");
    assert_eq!(get(&*store, "n").as_deref(), Some("1"));
}

#[test]
fn keys_are_brought_near_while_others_write_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    // Many more keys than parts of the table, so that some of sixteen have one part.
    let names: Vec<String> = (0..640).map(|n| format!("key {n}")).collect();
    for name in &names[..512] {
        write(&store, &[set(name, "a value")]);
    }
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    let before = get(&store, "key 7");
    let mut rounds = 0;
    thread::scope(|scope| {
        let prefetch = || (0..2_000).for_each(|_| store.prefetch(&keys));
        let prefetching = [scope.spawn(prefetch), scope.spawn(prefetch)];
        loop {
            for name in &names[..64] {
                write(
                    &store,
                    &[add(&format!("n {name}"), 1), set(name, "a value")],
                );
            }
            rounds += 1;
            let mut prefetching = prefetching.iter();
            if prefetching.all(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
    });
    store.prefetch(&[]);
    assert_eq!(get(&store, "key 7"), before);
    assert_eq!(get(&store, "key 600"), None);
    assert_eq!(number(&store, "n key 7", &store.snapshot()), rounds);
}
