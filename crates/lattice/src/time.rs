//! Hybrid logical time, and the injected sources of time and randomness.
//!
//! Must not read the machine's clock: whoever owns the edge hands it in.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

const COUNTER_BITS: u32 = 12;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;
const MICROS_MAX: u64 = u64::MAX >> COUNTER_BITS;

/// A point in hybrid logical time (Kulkarni et al., "Logical Physical Clocks", 2014): 52 bits of
/// Unix microseconds, then 12 bits of a counter. Totally ordered.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// Before everything that is ever written.
    pub const ZERO: Time = Time(0);
    /// After everything that is ever written.
    pub const MAX: Time = Time(u64::MAX);

    /// The first point of the microsecond `micros` (Unix time). Beyond 52 bits: [`Time::MAX`].
    pub const fn from_micros(micros: u64) -> Time {
        if micros > MICROS_MAX {
            Time::MAX
        } else {
            Time(micros << COUNTER_BITS)
        }
    }

    /// The first point of the millisecond `millis` (Unix time). Beyond 52 bits of microseconds:
    /// [`Time::MAX`].
    pub const fn from_millis(millis: u64) -> Time {
        Time::from_micros(millis.saturating_mul(1_000))
    }

    /// Unix microseconds.
    pub const fn micros(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// Unix milliseconds, rounded down.
    pub const fn millis(self) -> u64 {
        self.micros() / 1_000
    }

    /// The counter within the microsecond.
    pub const fn counter(self) -> u16 {
        (self.0 & COUNTER_MASK) as u16
    }

    /// The next point; [`Time::MAX`] is its own.
    pub const fn next(self) -> Time {
        Time(self.0.saturating_add(1))
    }

    /// The point before; [`Time::ZERO`] is its own.
    pub const fn prev(self) -> Time {
        Time(self.0.saturating_sub(1))
    }

    /// The point as one number that keeps the order.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The reverse of [`Time::as_u64`].
    pub const fn from_u64(raw: u64) -> Time {
        Time(raw)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.micros(), self.counter())
    }
}

/// The hybrid clock's state. It takes the physical clock as an argument, so it is a pure state
/// machine.
#[derive(Clone, Debug, Default)]
pub struct HybridClock {
    last: Time,
}

impl HybridClock {
    /// A clock that gives only times above `floor`.
    pub const fn new(floor: Time) -> HybridClock {
        HybridClock { last: floor }
    }

    /// A time strictly above every one given or seen, and not below the physical clock. When
    /// hybrid time is exhausted (it ends in the year 2112) it stays at [`Time::MAX`].
    pub fn now(&mut self, physical_micros: u64) -> Time {
        self.last = Time::from_micros(physical_micros).max(self.last.next());
        self.last
    }

    /// Learns of a time from elsewhere; later times are above it.
    pub fn observe(&mut self, seen: Time) {
        self.last = self.last.max(seen);
    }

    /// The greatest time given or seen.
    pub const fn last(&self) -> Time {
        self.last
    }
}

/// The wall clock, injected.
pub trait Clock: Send + Sync + 'static {
    /// Unix microseconds. May step back; [`HybridClock`] copes.
    fn now_micros(&self) -> u64;

    /// A cheaper look at the same clock: never ahead of it, and some milliseconds behind at most.
    fn coarse_micros(&self) -> u64 {
        self.now_micros()
    }
}

/// A clock that stands where the one below it steps back, until that has caught up. Whoever
/// judges by it what has expired never sees it again.
#[derive(Debug, Default)]
pub struct RisingClock<C> {
    clock: C,
    last_us: AtomicU64,
}

impl<C: Clock> RisingClock<C> {
    /// A clock that has given no time yet.
    pub const fn new(clock: C) -> RisingClock<C> {
        RisingClock {
            clock,
            last_us: AtomicU64::new(0),
        }
    }
}

impl<C: Clock> Clock for RisingClock<C> {
    fn now_micros(&self) -> u64 {
        let now_us = self.clock.now_micros();
        self.last_us
            .fetch_max(now_us, Ordering::Relaxed)
            .max(now_us)
    }

    fn coarse_micros(&self) -> u64 {
        let coarse_us = self.clock.coarse_micros();
        self.last_us.load(Ordering::Relaxed).max(coarse_us)
    }
}

/// Randomness, injected.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with random bytes, fit for secrets.
    fn fill(&self, bytes: &mut [u8]);
}

/// How much [`DrawnAhead`] draws at a time.
const AHEAD_BYTES: usize = 2048;

/// A source that is asked for more than is wanted, and gives the rest out later: identities take
/// a few bytes for each call, and asking an operating system takes longer than the call's other
/// bookkeeping. What was given out is wiped.
#[derive(Debug)]
pub struct DrawnAhead<E> {
    source: E,
    drawn: Mutex<Drawn>,
}

#[derive(Debug)]
struct Drawn {
    bytes: [u8; AHEAD_BYTES],
    /// So many of them, at the end, have not been given out.
    left: usize,
}

impl<E: Entropy> DrawnAhead<E> {
    /// Draws from this source, nothing yet.
    pub const fn new(source: E) -> DrawnAhead<E> {
        DrawnAhead {
            source,
            drawn: Mutex::new(Drawn {
                bytes: [0; AHEAD_BYTES],
                left: 0,
            }),
        }
    }
}

impl<E: Entropy> Entropy for DrawnAhead<E> {
    fn fill(&self, bytes: &mut [u8]) {
        if bytes.len() > AHEAD_BYTES / 8 {
            return self.source.fill(bytes);
        }
        // A panic of the source leaves nothing half given out.
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.left < bytes.len() {
            drawn.left = 0;
            self.source.fill(&mut drawn.bytes);
            drawn.left = AHEAD_BYTES;
        }
        let from = AHEAD_BYTES - drawn.left;
        let given = &mut drawn.bytes[from..from + bytes.len()];
        bytes.copy_from_slice(given);
        given.fill(0);
        drawn.left -= bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up, byte by byte.
    struct Counting(AtomicU64);

    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0.fetch_add(1, Ordering::Relaxed) as u8;
            }
        }
    }

    #[test]
    fn what_is_drawn_ahead_is_given_out_once() {
        let entropy = DrawnAhead::new(Counting(AtomicU64::new(1)));
        let mut given = Vec::new();
        for size in (0..40).cycle().take(1000) {
            let mut bytes = vec![0; size];
            entropy.fill(&mut bytes);
            given.push(bytes);
        }
        // What is left when it does not suffice is thrown away, so runs of bytes rise one by one.
        let mut last: Option<u8> = None;
        let mut jumps = 0;
        for byte in given.concat() {
            jumps += usize::from(last.is_some_and(|last| last.wrapping_add(1) != byte));
            last = Some(byte);
        }
        assert!(
            (1..=10).contains(&jumps),
            "{jumps} jumps in {} bytes",
            given.concat().len()
        );
        let mut large = vec![0; 10_000];
        entropy.fill(&mut large);
        assert!(large.windows(2).all(|two| two[0].wrapping_add(1) == two[1]));
        let drawn = entropy.drawn.lock().expect("not poisoned");
        assert!(
            drawn.bytes[..AHEAD_BYTES - drawn.left]
                .iter()
                .all(|byte| *byte == 0)
        );
    }

    #[test]
    fn a_time_keeps_its_parts() {
        let time = Time::from_micros(1_700_000_000_123_456).next().next();
        assert_eq!(time.micros(), 1_700_000_000_123_456);
        assert_eq!(time.millis(), 1_700_000_000_123);
        assert_eq!(time.to_string(), "1700000000123456.2");
        assert_eq!(time.prev().next(), time);
        assert_eq!(Time::from_u64(time.as_u64()), time);
        assert_eq!(Time::from_micros(u64::MAX), Time::MAX);
        assert_eq!(Time::from_millis(u64::MAX), Time::MAX);
        assert_eq!(
            (Time::MAX.next(), Time::ZERO.prev()),
            (Time::MAX, Time::ZERO)
        );
    }

    #[test]
    fn a_rising_clock_stands_where_the_other_steps_back() {
        struct Steps(AtomicU64);
        impl Clock for Steps {
            fn now_micros(&self) -> u64 {
                const TIMES_US: [u64; 6] = [5, 7, 3, 6, 7, 9];
                let step = self.0.fetch_add(1, Ordering::Relaxed);
                TIMES_US[usize::try_from(step).expect("small")]
            }
        }
        let clock = RisingClock::new(Steps(AtomicU64::new(0)));
        let times: Vec<u64> = (0..6).map(|_| clock.now_micros()).collect();
        assert_eq!(times, [5, 7, 7, 7, 7, 9]);
    }

    #[test]
    fn a_coarse_look_never_shows_less_than_a_fine_one_has() {
        struct Lagging;
        impl Clock for Lagging {
            fn now_micros(&self) -> u64 {
                9
            }

            fn coarse_micros(&self) -> u64 {
                6
            }
        }
        let clock = RisingClock::new(Lagging);
        assert_eq!(clock.coarse_micros(), 6);
        assert_eq!(clock.now_micros(), 9);
        assert_eq!(clock.coarse_micros(), 9);
    }

    #[test]
    fn the_clock_rises_whatever_the_physical_clock_does() {
        let mut clock = HybridClock::new(Time::from_micros(100));
        let mut last = clock.last();
        for physical in [50, 100, 100, 300, 200, 301, 0] {
            let now = clock.now(physical);
            assert!(
                now > last && now >= Time::from_micros(physical),
                "{now} after {last}"
            );
            last = now;
        }
        clock.observe(Time::from_micros(9_000));
        clock.observe(Time::from_micros(10));
        assert_eq!(clock.now(400), Time::from_micros(9_000).next());
    }
}
