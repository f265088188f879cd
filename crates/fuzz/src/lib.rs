//! Hostile bytes for tests: a corpus kept as files, mutations of it, and a seed, so that every
//! run can be repeated.
//!
//! It must not know what the bytes mean: a target does, and panics where something does not hold.
//! Two variables make a run longer or another: `TIDEMILL_FUZZ_CASES` is how many inputs a target
//! gets, `TIDEMILL_FUZZ_SEED` where they begin.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

/// Inputs that a target gets beside the corpus, unless the environment says otherwise.
const CASES: u32 = 2_000;
/// The most changes to one input.
const EDITS_MAX: usize = 8;
/// The most bytes of one insertion.
const INSERTED_BYTES_MAX: usize = 12;

/// One change to an input.
#[derive(Clone, Debug)]
enum Edit {
    Put(Index, u8),
    /// A byte a little more or less: lengths and counts that are off by some.
    Shift(Index, i8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// A part of itself, again.
    Repeat(Index, usize, usize),
    Cut(Index),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let place = |at: &Index| at.index(length + 1);
        match self {
            Edit::Put(at, byte) => {
                if let Some(old) = bytes.get_mut(place(at)) {
                    *old = *byte;
                }
            }
            Edit::Shift(at, by) => {
                if let Some(old) = bytes.get_mut(place(at)) {
                    *old = old.wrapping_add_signed(*by);
                }
            }
            Edit::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Edit::Remove(at, count) => {
                let at = place(at);
                bytes.drain(at..(at + count).min(length));
            }
            Edit::Repeat(at, count, times) => {
                let at = place(at);
                let part = bytes[at..(at + count).min(length)].repeat(*times);
                bytes.splice(at..at, part);
            }
            Edit::Cut(at) => bytes.truncate(place(at)),
        }
    }
}

fn edit(tokens: Vec<Vec<u8>>) -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let few = prop::collection::vec(any::<u8>(), 1..INSERTED_BYTES_MAX);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        (at(), -2..=2_i8).prop_map(|(at, by)| Edit::Shift(at, by)),
        (at(), few).prop_map(|(at, more)| Edit::Insert(at, more)),
        (at(), select(tokens)).prop_map(|(at, token)| Edit::Insert(at, token)),
        (at(), 1..8_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        (at(), 1..16_usize, 1..4_usize)
            .prop_map(|(at, count, times)| Edit::Repeat(at, count, times)),
        at().prop_map(Edit::Cut),
    ]
}

/// An input of the corpus, or none, with changes.
fn input(corpus: Vec<Vec<u8>>, tokens: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![9 => select(corpus), 1 => Just(Vec::new())];
    let edits = prop::collection::vec(edit(tokens), 0..EDITS_MAX);
    (start, edits).prop_map(|(mut bytes, edits)| {
        for edit in &edits {
            edit.apply(&mut bytes);
        }
        bytes
    })
}

/// What a piece of code took of the heap, on its own thread.
#[derive(Clone, Copy, Debug)]
pub struct Heap {
    /// The most that it held at once, in bytes.
    pub held_bytes: u64,
    /// All that it asked for, in bytes, given back or not.
    pub total_bytes: u64,
}

/// Runs something and tells what it took of the heap.
///
/// # Panics
/// Where `run` does.
pub fn measured<T>(run: impl FnOnce() -> T) -> (T, Heap) {
    let mut outcome = None;
    // The counter must not be unwound through: it would count the rest of the thread as well.
    let info = allocation_counter::measure(|| {
        outcome = Some(catch_unwind(AssertUnwindSafe(run)));
    });
    let heap = Heap {
        held_bytes: info.bytes_max,
        total_bytes: info.bytes_total,
    };
    match outcome.expect("it was run") {
        Ok(outcome) => (outcome, heap),
        Err(panic) => resume_unwind(panic),
    }
}

/// The files of a directory, in the order of their names: a corpus. What ends in `.hex` is
/// written in hexadecimal.
///
/// # Panics
/// Where it can not be read, or is empty.
#[must_use]
pub fn files(directory: impl AsRef<Path>) -> Vec<Vec<u8>> {
    let directory = directory.as_ref();
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| {
        panic!(
            "the corpus {} can not be read: {error}",
            directory.display()
        )
    });
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a corpus can be listed").path())
        .collect();
    paths.sort();
    let all: Vec<_> = paths
        .iter()
        .map(|path| {
            let bytes = std::fs::read(path).expect("a corpus can be read");
            match path.extension() {
                Some(extension) if extension == "hex" => from_hex(&bytes),
                _ => bytes,
            }
        })
        .collect();
    assert!(!all.is_empty(), "{} is empty", directory.display());
    all
}

fn from_hex(text: &[u8]) -> Vec<u8> {
    let digits: Vec<char> = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte))
        .collect();
    let digit = |digit: char| digit.to_digit(16).expect("hexadecimal") as u8;
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Gives `target` every input of `corpus` and then mutations of them, some by inserting one of
/// `tokens`.
///
/// # Panics
/// Where the target does: with the smallest input found that makes it panic, which belongs into
/// the corpus once it is mended. Also where there is no input or no token to begin with.
pub fn fuzz(corpus: Vec<Vec<u8>>, tokens: &[&[u8]], target: impl Fn(&[u8])) {
    corpus.iter().for_each(|bytes| target(bytes));
    let tokens = tokens.iter().map(|token| token.to_vec()).collect();
    let cases = number("TIDEMILL_FUZZ_CASES").map_or(CASES, |cases| {
        u32::try_from(cases).expect("TIDEMILL_FUZZ_CASES is at most 2^32 - 1")
    });
    let seed = number("TIDEMILL_FUZZ_SEED").unwrap_or(1);
    let mut runner = TestRunner::new(Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&input(corpus, tokens), |bytes| {
        target(&bytes);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, bytes)) => panic!(
            "{why}, with TIDEMILL_FUZZ_SEED={seed}, by the input b\"{}\"",
            bytes.escape_ascii()
        ),
        Err(error) => panic!("{error}"),
    }
}
