//! The frontier under every interleaving: whatever a snapshot contains stays what it was.
//!
//! The checker runs the frontier's own code over its own words, with two writers and a reader.
//! It was seen to find both wrong orders: drawing a time before holding it, and reading the
//! slots before the clock.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use tidemill_lattice::Time;
use tidemill_store::frontier::{Frontier, Word};

struct Checked(AtomicU64);

impl Word for Checked {
    fn new(value: u64) -> Checked {
        Checked(AtomicU64::new(value))
    }

    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn store(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }

    fn raise(&self, value: u64) -> u64 {
        self.0.fetch_max(value, Ordering::SeqCst)
    }

    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.0
            .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }
}

/// One key: the times of the writes applied to it.
struct Cell([AtomicU64; 2]);

impl Cell {
    fn new() -> Cell {
        Cell([AtomicU64::new(0), AtomicU64::new(0)])
    }

    fn apply(&self, writer: usize, time: Time) {
        self.0[writer].store(time.as_u64(), Ordering::Release);
    }

    fn at(&self, snapshot: Time) -> Vec<u64> {
        let times = self.0.iter().map(|time| time.load(Ordering::Acquire));
        times
            .filter(|time| (1..=snapshot.as_u64()).contains(time))
            .collect()
    }
}

/// Tries schedules with up to four preemptions, chosen as in probabilistic concurrency testing
/// (Burckhardt et al. 2010): one more than the wrong orders need.
fn check(model: impl Fn() + Send + Sync + 'static) {
    shuttle::check_pct(model, 20_000, 4);
}

/// Two writers write a key each, then one of them both: a snapshot reads the same twice, and
/// has all or nothing of what was written together.
#[test]
fn a_snapshot_reads_the_same_twice_and_never_a_part() {
    check(|| {
        let frontier: Arc<Frontier<Checked>> = Arc::new(Frontier::new(Time::from_u64(4), 2));
        let cells = Arc::new([Cell::new(), Cell::new()]);
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (frontier, cells) = (frontier.clone(), cells.clone());
                thread::spawn(move || {
                    let time = frontier.draw(writer, 1, 0);
                    cells[0].apply(writer, time);
                    cells[1].apply(writer, time);
                    frontier.release(writer, None);
                })
            })
            .collect();
        let snapshot = frontier.stable();
        let first = cells[1].at(snapshot);
        assert_eq!(cells[0].at(snapshot), first, "all or nothing at {snapshot}");
        assert!(frontier.stable() >= snapshot, "it never goes back");
        assert_eq!(cells[1].at(snapshot), first, "the same twice at {snapshot}");
        for writer in writers {
            writer.join().expect("it ends");
        }
        let last = frontier.stable();
        assert_eq!(last, frontier.last());
        assert_eq!(cells[0].at(last).len(), 2, "both are seen in the end");
    });
}

/// What waits for the log is not seen although later times are released.
#[test]
fn what_is_kept_back_stays_unseen() {
    check(|| {
        let frontier: Arc<Frontier<Checked>> = Arc::new(Frontier::new(Time::ZERO, 1));
        let safe = Arc::new(AtomicU64::new(0));
        let writer = {
            let (frontier, safe) = (frontier.clone(), safe.clone());
            thread::spawn(move || {
                let first = frontier.draw(0, 1, 0);
                frontier.release(0, Some(first));
                let second = frontier.draw(0, 1, 0);
                frontier.release(0, Some(first));
                safe.store(first.as_u64(), Ordering::Release);
                frontier.release(0, Some(second));
                safe.store(second.as_u64(), Ordering::Release);
                frontier.release(0, None);
            })
        };
        let seen = frontier.stable().as_u64();
        assert!(seen <= safe.load(Ordering::Acquire), "{seen} is not safe");
        writer.join().expect("it ends");
    });
}
