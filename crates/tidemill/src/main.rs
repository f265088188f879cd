//! The program: a node put together from its parts, and the command line that
//! speaks to one.
//!
//! This is the edge: the wall clock, randomness, threads, files, signals and the
//! settings' sources are here and are handed to the rooms below. Data goes to
//! standard output, everything else to standard error.

mod cli;
mod client;
mod commands;
mod edge;
mod failure;
mod files;
mod memory;
mod output;
mod redis;
mod sdk;
mod settings;
mod source;
mod up;

use clap::Parser;
use cli::{Cli, Command};
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(cli.global.output);
            failure.exit_code()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Up(command) => up::run(global, command),
        Command::Deploy(command) => commands::deploy::run(global, command),
        Command::Dev(command) => commands::dev::run(global, command),
        Command::Call(command) => commands::call::run(global, command),
        Command::Kv(command) => commands::kv::run(global, command),
        Command::Fn(command) => commands::functions::run(global, command),
        Command::Request(command) => commands::requests::run(global, command),
        Command::Logs(command) => commands::logs::run(global, command),
        Command::Trace(command) => commands::trace::run(global, command),
        Command::Top(command) => commands::top::run(global, command),
        Command::Store(command) => commands::store::run(global, command),
        Command::Version => commands::version::run(global),
    }
}
