//! `tidemill-bench-store [--quick] [--rounds N] [GROUP ...]`: the store within one process. Prints
//! one line of JSON: for each side the numbers of its rounds, which `bench/store.py` sets beside one
//! another.
//!
//! The sides of a group take turns within every round, and every other round goes through them
//! backwards, so that what slows the machine slows all of them. Stores of a million keys are groups of
//! their own, for a process each: several in one would share the allocator's pages. The store is driven by the public `Store`
//! trait only. This program must not know a target, a door or a peer in another process.

mod drive;
mod edge;
mod failures;
mod merges;
mod read;
mod side;
mod window;
mod zipf;

use std::io;
use std::process::ExitCode;

use crate::side::{Side, Sides, in_turns};

/// As in the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    rounds: usize,
    /// Keys of the driver.
    keys: u32,
    /// How long a side runs in a round, in milliseconds.
    round_ms: u64,
    /// Whether each waits until what the last one left is done.
    rests: bool,
}

const FULL: Size = Size {
    rounds: 5,
    keys: 1_000_000,
    round_ms: 1_000,
    rests: true,
};
const QUICK: Size = Size {
    rounds: 2,
    keys: 2_000,
    round_ms: 20,
    rests: false,
};

type Make = fn(Size) -> io::Result<Vec<Side>>;
const GROUPS: [(&str, Make); 5] = [
    ("zipf-1-1", drive::one_on_one),
    ("zipf-1-2", drive::one_on_two),
    ("zipf-2-2", drive::two_on_two),
    ("read", read::sides),
    ("merges", merges::sides),
];

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(found) => {
            println!("{}", found.to_json());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tidemill-bench-store: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: impl Iterator<Item = String>) -> io::Result<Sides> {
    let (size, names) = parse(words)?;
    let mut found = Sides::default();
    for (name, make) in GROUPS {
        if names.is_empty() || names.iter().any(|asked| asked == name) {
            let rest = || {
                if size.rests {
                    edge::rest();
                }
            };
            in_turns(make(size)?, size.rounds, rest, &mut found)?;
        }
    }
    Ok(found)
}

fn parse(mut words: impl Iterator<Item = String>) -> io::Result<(Size, Vec<String>)> {
    let (mut size, mut rounds, mut names) = (FULL, None, Vec::new());
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => size = QUICK,
            "--rounds" => {
                let count = words.next().and_then(|word| word.parse().ok());
                rounds = Some(count.filter(|count| *count > 0).ok_or_else(usage)?);
            }
            name if GROUPS.iter().any(|(group, _)| *group == name) => names.push(word),
            _ => return Err(usage()),
        }
    }
    size.rounds = rounds.unwrap_or(size.rounds);
    Ok((size, names))
}

fn usage() -> io::Error {
    let groups = GROUPS.map(|(group, _)| group).join("|");
    io::Error::other(format!(
        "usage: tidemill-bench-store [--quick] [--rounds N] [{groups} ...]"
    ))
}

#[cfg(test)]
mod tests {
    use super::{parse, run};

    fn words(line: &str) -> impl Iterator<Item = String> {
        line.split_whitespace().map(str::to_owned)
    }

    #[test]
    fn the_command_line_is_read_and_what_is_wrong_in_it_refused() {
        let (size, names) = parse(words("merges --quick --rounds 3")).expect("good words");
        assert_eq!((size.rounds, names), (3, vec!["merges".to_owned()]));
        for bad in ["--rounds", "--rounds 0", "--rounds x", "sorts"] {
            assert!(parse(words(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_small_run_gives_every_side_a_number_a_round() {
        let found = run(words("--quick --rounds 2")).expect("a run");
        let sides = found.values();
        for side in [
            "zipf, 1 shard, 1 core",
            "read at a new snapshot, p99",
            "DashMap get, p50",
            "adds, 4 threads",
            "DashMap adds, 4 threads",
        ] {
            let numbers = sides.get(side).expect(side);
            assert_eq!(numbers.len(), 2, "{side}");
            assert!(numbers.iter().all(|number| *number > 0.0), "{side}");
        }
    }
}
