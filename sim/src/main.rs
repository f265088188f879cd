//! `tidemill-sim`: many seeds, or one with its trace.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tidemill_causal::{Canaries, Canary};
use tidemill_sim::{Options, Outcome, run};

/// Runs whole clusters, one a seed, and checks what their clients saw.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Prints this seed's trace and nothing else.
    #[arg(long)]
    trace: Option<u64>,
    /// Switches a seeded bug on, by name, or `all` in turn.
    #[arg(long)]
    canary: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Prints what clusters without faults cost instead.
    #[arg(long)]
    figures: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.figures {
        print!("{}", tidemill_sim::figures::table());
        return ExitCode::SUCCESS;
    }
    let by_name = |name: &str| {
        let found = Canary::ALL.into_iter().find(|c| format!("{c:?}") == name);
        found.ok_or_else(|| format!("there is no canary `{name}`: one of {:?}", Canary::ALL))
    };
    let canaries = match arguments.canary.as_deref() {
        None => vec![None],
        Some("all") => Canary::ALL.into_iter().map(Some).collect(),
        Some(name) => match by_name(name) {
            Ok(canary) => vec![Some(canary)],
            Err(message) => {
                eprintln!("{message}");
                return ExitCode::from(2);
            }
        },
    };
    let mut clean = true;
    for canary in canaries {
        let options = Options {
            canaries: canary.map_or_else(Canaries::default, Canaries::only),
            ..Options::default()
        };
        if let Some(seed) = arguments.trace {
            let options = Options {
                traced: true,
                ..options
            };
            let outcome = run(seed, &options);
            print!("{}", outcome.trace);
            clean &= outcome.wrong.is_empty();
        } else {
            clean &= many(&arguments, &options, canary) == 0;
        }
    }
    if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What many seeds came to.
#[derive(Default)]
struct Sums {
    seeds: u64,
    bad: u64,
    kinds: BTreeMap<String, u64>,
    commits: usize,
    answers: usize,
    events: u64,
    faults: u64,
    evictions: u64,
    lossy: u64,
}

/// Bad seeds of one kind that are shown.
const SHOWN: u64 = 3;

impl Sums {
    fn take(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.commits += outcome.commits;
        self.answers += outcome.answers;
        self.events += outcome.counts.events;
        self.faults += outcome.counts.faults;
        self.evictions += outcome.counts.evictions;
        self.lossy += u64::from(outcome.has_loss);
        let Some(first) = outcome.wrong.first() else {
            return;
        };
        self.bad += 1;
        let kind = first.split(':').next().unwrap_or("?").to_owned();
        let count = self.kinds.entry(kind).or_default();
        *count += 1;
        if *count <= SHOWN {
            let shown: String = first.chars().take(300).collect();
            println!("bad seed {seed}: {shown}");
        }
    }

    fn show(&self, name: &str, begun: Instant) {
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{name}{} seeds in {seconds:.0} s ({:.0} a second), {} bad {:?}; {} commits, {} answers, \
             {} faults, {} evictions, {} events, {} checked in part for a loss",
            self.seeds,
            self.seeds as f64 / seconds,
            self.bad,
            self.kinds,
            self.commits,
            self.answers,
            self.faults,
            self.evictions,
            self.events,
            self.lossy,
        );
    }
}

/// Runs the seeds and answers how many were bad.
#[allow(
    clippy::disallowed_methods,
    reason = "says how long it took; no run sees it"
)]
fn many(arguments: &Arguments, options: &Options, canary: Option<Canary>) -> u64 {
    let begun = Instant::now();
    let name = canary.map_or_else(String::new, |canary| format!("{canary:?}: "));
    let mut sums = Sums::default();
    let threads = arguments.threads.max(1);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let sender = sender.clone();
            let (from, to) = (arguments.from, arguments.from + arguments.seeds);
            scope.spawn(move || {
                for seed in (from..to).filter(|seed| seed % threads == thread) {
                    if sender.send((seed, run(seed, options))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (seed, outcome) in receiver {
            sums.take(seed, &outcome);
            if sums.seeds.is_multiple_of(5000) && sums.seeds < arguments.seeds {
                sums.show(&name, begun);
            }
        }
    });
    sums.show(&name, begun);
    sums.bad
}
