//! The command line's shape. What commands do is elsewhere.

use crate::settings::DurabilityName;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Tidemill: a stateful serverless platform.
///
/// Exit codes: 0 done; 1 the call or the server failed; 2 wrong usage or settings;
/// 3 the node is running already; 4 no node answers; 5 the token is wrong.
#[derive(Debug, Parser)]
#[command(
    name = "tidemill",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// The node's address [default: the one in node.json of the data directory, or
    /// http://127.0.0.1:7070].
    #[arg(long, global = true, env = "TIDEMILL_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The node's token [default: the file `token` of the data directory].
    #[arg(long, global = true, env = "TIDEMILL_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The node's data directory [default: ~/.tidemill].
    #[arg(long, global = true, env = "TIDEMILL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// A file with settings [default: tidemill.toml of the data directory, if it is there].
    #[arg(long, global = true, env = "TIDEMILL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node.
    Up(Up),
    /// Send an app to the node.
    Deploy(Deploy),
    /// Deploy on every change of the sources, and follow the logs.
    Dev(Deploy),
    /// Call a function or a flow.
    Call(Call),
    /// Read and write state.
    #[command(subcommand)]
    Kv(Kv),
    /// Look at functions, and remove apps.
    #[command(subcommand, visible_alias = "app")]
    Fn(Functions),
    /// Look at requests, and cancel them.
    #[command(subcommand)]
    Request(Requests),
    /// Show log lines.
    Logs(Logs),
    /// Show where the time of a request went.
    Trace(Trace),
    /// Watch the node: requests, shards, tiers and hot keys, live.
    Top(Top),
    /// Back up a node, restore a backup, or look whether either is whole.
    #[command(subcommand)]
    Store(Store),
    /// Show the versions of this program and of the node.
    Version,
}

/// `tidemill up`
#[derive(Debug, Default, Args)]
pub(crate) struct Up {
    /// The address to listen on; port 0 picks a free one [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// How safe a commit is before it is answered [default: durable].
    #[arg(long, value_enum)]
    pub(crate) durability: Option<DurabilityName>,
    /// A file to write once calls are served.
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Print the settings in force, each with its source, and end.
    #[arg(long)]
    pub(crate) dump_config: bool,
    /// Ask for no token; on loopback addresses only.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// The interpreter that runs Python apps [default: python3].
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// The address of the Redis door [default: none].
    #[arg(long, value_name = "ADDR")]
    pub(crate) redis_listen: Option<String>,
}

/// `tidemill deploy` and `tidemill dev`
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The Python file with the app, a WebAssembly component (FILE.wasm), or a tidemill.toml
    /// that names several.
    pub(crate) file: PathBuf,
    /// A component's name: APP, or APP.FUNCTION [default: the file's name, and `handle`].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The component is of the world of wasi:http: serve it under /http/APP/.
    #[arg(long)]
    pub(crate) http: bool,
    /// The app's name in the file, where there are several.
    #[arg(long, value_name = "ATTR")]
    pub(crate) app: Option<String>,
    /// The interpreter to load the file with [default: the setting `runtime.python`].
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
}

/// `tidemill call`
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// What to call: APP.FUNCTION, or APP alone with the function after it.
    #[arg(value_name = "APP.FUNCTION")]
    pub(crate) target: String,
    /// Arguments, like --arg.
    #[arg(value_name = "ARGUMENT", allow_negative_numbers = true)]
    pub(crate) arguments: Vec<String>,
    /// All arguments as JSON: an array, or an object with args and kwargs. @FILE reads a
    /// file, - standard input.
    #[arg(
        long,
        value_name = "JSON",
        conflicts_with = "arg",
        allow_hyphen_values = true
    )]
    pub(crate) json: Option<String>,
    /// One argument, as JSON or else as text; may be repeated.
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) arg: Vec<String>,
    /// Print the request's id instead of waiting.
    #[arg(long = "async")]
    pub(crate) no_wait: bool,
    /// Seconds to wait at the most.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<f64>,
}

/// `tidemill kv`
#[derive(Debug, Subcommand)]
pub(crate) enum Kv {
    /// Print a key's value.
    Get {
        /// The app.
        app: String,
        /// The key.
        key: String,
    },
    /// Set a register.
    Set {
        /// The app.
        app: String,
        /// The key.
        key: String,
        /// The value, as JSON.
        #[arg(required_unless_present_any = ["text", "file"], allow_negative_numbers = true)]
        value: Option<String>,
        /// The value, as text.
        #[arg(long, conflicts_with_all = ["value", "file"], allow_hyphen_values = true)]
        text: Option<String>,
        /// A file with the value; - for standard input.
        #[arg(long, conflicts_with = "value", value_name = "PATH")]
        file: Option<PathBuf>,
        /// The content type of --file.
        #[arg(long, default_value = "application/octet-stream", value_name = "TYPE")]
        content_type: String,
    },
    /// Add to a counter.
    Add {
        /// The app.
        app: String,
        /// The key.
        key: String,
        /// What to add.
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        number: i64,
    },
    /// Print changes as they are committed.
    Watch {
        /// The app.
        app: String,
        /// The key, or how keys begin with a * behind it.
        #[arg(value_name = "KEY|PREFIX*")]
        what: String,
    },
    /// List keys.
    #[command(visible_alias = "list")]
    Ls {
        /// The app.
        app: String,
        /// Only keys that begin so.
        #[arg(default_value = "")]
        prefix: String,
        /// At most this many.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Delete keys.
    #[command(visible_alias = "delete")]
    Rm {
        /// The app.
        app: String,
        /// The keys.
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

/// `tidemill fn`
#[derive(Debug, Subcommand)]
pub(crate) enum Functions {
    /// List functions and flows.
    #[command(visible_alias = "list")]
    Ls {
        /// Only this app's.
        app: Option<String>,
    },
    /// Show a function, a flow or a whole app.
    Describe {
        /// APP, or APP.FUNCTION.
        target: String,
    },
    /// Remove an app.
    Rm {
        /// The app.
        app: String,
        /// Delete its state too.
        #[arg(long)]
        delete_state: bool,
    },
}

/// `tidemill request`
#[derive(Debug, Subcommand)]
pub(crate) enum Requests {
    /// List recent requests, newest first.
    #[command(visible_alias = "list")]
    Ls {
        /// Only this app's.
        #[arg(long)]
        app: Option<String>,
        /// Only in this state: running, succeeded, failed or cancelled.
        #[arg(long)]
        state: Option<String>,
        /// At most this many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Show a request.
    Show {
        /// Its id.
        id: String,
    },
    /// Print a request's result.
    Result {
        /// Its id.
        id: String,
    },
    /// Cancel a request.
    Cancel {
        /// Its id.
        id: String,
    },
}

/// `tidemill logs`
#[derive(Debug, Default, Args)]
pub(crate) struct Logs {
    /// Keep printing lines as they come.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only this app's.
    #[arg(long)]
    pub(crate) app: Option<String>,
    /// Only this function's.
    #[arg(long)]
    pub(crate) function: Option<String>,
    /// Only this request's.
    #[arg(long)]
    pub(crate) request: Option<String>,
    /// The newest lines: at most this many.
    #[arg(short = 'n', long)]
    pub(crate) limit: Option<usize>,
}

/// `tidemill trace`
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The id of a trace or a request.
    pub(crate) id: String,
}

/// `tidemill top`
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Seconds between frames.
    #[arg(long, default_value_t = 1.0, value_parser = interval, value_name = "SECONDS")]
    pub(crate) interval: f64,
    /// Show one frame, of one interval, and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Hot keys shown.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub(crate) hot: usize,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if (0.05..=3_600.0).contains(&seconds) {
        return Ok(seconds);
    }
    Err("use 0.05 to 3600 seconds".to_owned())
}

/// `tidemill store`
#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Write all state of the running node to a file, as it is at one moment.
    Backup {
        /// The file; one that is there is replaced once the new one is whole.
        file: PathBuf,
    },
    /// Make a node's data directory from a backup.
    Restore {
        /// The backup.
        file: PathBuf,
        /// The new data directory; it must be empty, or not there yet.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Read everything in a backup, or in the data directory of a node that is stopped.
    Verify {
        /// A backup, or a data directory.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
