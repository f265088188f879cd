//! Starts worker processes: a template that forks (Python), or a program started
//! anew for each worker.

use super::connection::{Connection, ConnectionError};
use super::listener::{Arrival, Listener};
use crate::manifest::Entry;
use crate::protocol::{
    Empty, ErrorHeader, Exited, Fork, Load, Loaded, Payloads, ProtocolError, kind,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tidemill_lattice::Entropy;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// How long an interpreter may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an app may take to load.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a fork may take to connect.
const FORK_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of one output line that is kept.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Why no worker could be started.
#[derive(Clone, Debug, Error)]
pub(crate) enum LaunchError {
    /// The program could not be started at all.
    #[error("{program} could not be started: {message}")]
    Spawn { program: String, message: String },
    /// It ended or hung before it connected.
    #[error("{0}")]
    Connect(String),
    /// It connected and could not load the app.
    #[error("{}", .0.message)]
    Load(Box<ErrorHeader>),
}

/// What a process runs.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// The SDK's worker.
    Python,
    /// A program of the bundle, and its arguments.
    Command(Vec<String>),
}

/// What a group of functions needs of its processes.
#[derive(Clone, Debug)]
pub(crate) struct ProcessSpec {
    pub(crate) app: String,
    pub(crate) version: String,
    pub(crate) program: Program,
    pub(crate) entry: Option<Entry>,
    pub(crate) functions: Vec<String>,
    /// The directory of the unpacked bundle.
    pub(crate) root: PathBuf,
    /// Where requirements are installed.
    pub(crate) packages: Option<PathBuf>,
    /// The functions' own variables, secrets among them.
    pub(crate) env: BTreeMap<String, String>,
}

/// Called with each line that a process prints outside of any request.
pub(crate) type Printed = Arc<dyn Fn(tidemill_telemetry::Stream, String) + Send + Sync>;
/// Called when a forked worker has ended.
pub(crate) type Ended = Box<dyn Fn(Exited) + Send>;

/// A process that was started, at the head of a process group: what is left of the group
/// ends when this value goes.
struct Process {
    child: Child,
    group: i32,
}

impl Process {
    fn new(child: Child) -> Self {
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            child,
            group: group.unwrap_or(0),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end_group(self.group);
    }
}

/// Ends a process group at once, whatever is left of it.
pub(super) fn end_group(group: i32) {
    // 1 and below mean more than one group.
    if let Some(group) = rustix::process::Pid::from_raw(group).filter(|_| group > 1) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// What all launches of a node share.
pub(crate) struct Launcher {
    pub(crate) listener: Listener,
    pub(crate) shared_directory: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) sdk: Option<PathBuf>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// A template that forks workers when asked. Ends when dropped, and its
/// forks with it as their sockets close.
pub(crate) struct Template {
    forks: mpsc::UnboundedSender<(u64, String)>,
}

impl Template {
    pub(crate) fn is_alive(&self) -> bool {
        !self.forks.is_closed()
    }
}

impl Launcher {
    fn token(&self) -> String {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        format!("{:032x}", u128::from_le_bytes(bytes))
    }

    fn command(&self, spec: &ProcessSpec, role: &str, worker: u64, token: &str) -> Command {
        let mut command = match &spec.program {
            Program::Python => {
                let mut command = Command::new(&self.python);
                command.args(["-m", "tidemill.worker"]);
                command
            }
            Program::Command(words) => {
                let mut command = Command::new(spec.root.join(&words[0]));
                command.args(&words[1..]);
                command
            }
        };
        command.env_clear();
        // What a process needs to find programs and speak the user's language; the
        // node's own secrets stay with the node.
        for name in [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "SSL_CERT_FILE",
        ] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let path: Vec<&std::path::Path> = self
            .sdk
            .iter()
            .chain(&spec.packages)
            .map(PathBuf::as_path)
            .collect();
        if let Ok(path) = std::env::join_paths(path) {
            command.env("PYTHONPATH", path);
        }
        command
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(&spec.env)
            .env("TIDEMILL_SOCKET", self.listener.path())
            .env("TIDEMILL_TOKEN", token)
            .env("TIDEMILL_ROLE", role)
            .env("TIDEMILL_WORKER", worker.to_string())
            .env("TIDEMILL_SHM", &self.shared_directory)
            .current_dir(&spec.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Starts a process and loads the app in it.
    async fn start(
        &self,
        spec: &ProcessSpec,
        role: &str,
        worker: u64,
        printed: &Printed,
    ) -> Result<(Process, Arrival), LaunchError> {
        let token = self.token();
        let arrival = self.listener.expect(token.clone());
        let mut command = self.command(spec, role, worker, &token);
        let child = command.spawn().map_err(|error| LaunchError::Spawn {
            program: command
                .as_std()
                .get_program()
                .to_string_lossy()
                .into_owned(),
            message: error.to_string(),
        })?;
        let mut process = Process::new(child);
        let child = &mut process.child;
        let heard = Heard::default();
        listen(
            child.stdout.take(),
            tidemill_telemetry::Stream::Stdout,
            printed,
            &heard,
        );
        listen(
            child.stderr.take(),
            tidemill_telemetry::Stream::Stderr,
            printed,
            &heard,
        );
        let mut arrival = tokio::select! {
            arrived = tokio::time::timeout(CONNECT_TIMEOUT, arrival) => match arrived {
                Ok(Ok(arrival)) => arrival,
                Ok(Err(_)) | Err(_) => return Err(LaunchError::Connect(
                    "the worker process did not connect in time".to_owned()
                )),
            },
            status = child.wait() => {
                // Its last words may still be in the pipe.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(LaunchError::Connect(format!(
                    "the worker process ended before it connected ({status}): {}", heard.last_words()
                )));
            }
        };
        let loading = load(&mut arrival.connection, spec);
        tokio::time::timeout(LOAD_TIMEOUT, loading)
            .await
            .map_err(|_| {
                LaunchError::Connect(format!(
                    "the app did not load within {} seconds; move slow work out of the module \
                     and into an @enter method",
                    LOAD_TIMEOUT.as_secs()
                ))
            })??;
        Ok((process, arrival))
    }

    /// Starts a template.
    pub(crate) async fn template(
        &self,
        spec: &ProcessSpec,
        printed: &Printed,
        ended: Ended,
    ) -> Result<Template, LaunchError> {
        let (process, arrival) = self.start(spec, "template", 0, printed).await?;
        let (forks, orders) = mpsc::unbounded_channel();
        tokio::spawn(attend(process, arrival.connection, orders, ended));
        Ok(Template { forks })
    }

    /// Asks a template for one more worker.
    pub(crate) async fn fork(
        &self,
        template: &Template,
        worker: u64,
    ) -> Result<Arrival, LaunchError> {
        let token = self.token();
        let arrival = self.listener.expect(token.clone());
        let gone = || LaunchError::Connect("the template ended while it forked".to_owned());
        template.forks.send((worker, token)).map_err(|_| gone())?;
        tokio::select! {
            arrived = tokio::time::timeout(FORK_TIMEOUT, arrival) => match arrived {
                Ok(Ok(arrival)) => Ok(arrival),
                Ok(Err(_)) | Err(_) => {
                    Err(LaunchError::Connect("a forked worker did not connect in time".to_owned()))
                }
            },
            () = template.forks.closed() => Err(gone()),
        }
    }

    /// Starts a program as a worker.
    pub(crate) async fn program(
        &self,
        spec: &ProcessSpec,
        worker: u64,
        printed: &Printed,
        ended: Ended,
    ) -> Result<Arrival, LaunchError> {
        let (mut process, mut arrival) = self.start(spec, "worker", worker, printed).await?;
        arrival.group = process.group;
        tokio::spawn(async move {
            use std::os::unix::process::ExitStatusExt;
            let status = process.child.wait().await.ok();
            ended(Exited {
                worker,
                status: status.and_then(|status| status.code()),
                signal: status.and_then(|status| status.signal()),
            });
        });
        Ok(arrival)
    }
}

async fn load(connection: &mut Connection, spec: &ProcessSpec) -> Result<(), LaunchError> {
    let root = spec.root.to_string_lossy();
    let header = Load {
        seq: 0,
        app: &spec.app,
        version: &spec.version,
        root: &root,
        entry: spec.entry.as_ref(),
        functions: spec.functions.iter().map(String::as_str).collect(),
        env: &spec.env,
    };
    let broken = |error: ConnectionError| LaunchError::Connect(format!("while loading: {error}"));
    connection
        .send(kind::LOAD, &header, &Payloads::default())
        .await
        .map_err(broken)?;
    let frame = loop {
        let frame = connection.receive().await.map_err(broken)?;
        if frame.kind != kind::LOG {
            break frame;
        }
    };
    if frame.kind != kind::LOADED {
        return Err(broken(ProtocolError::Unexpected(frame.kind).into()));
    }
    let loaded: Loaded = frame.header().map_err(|error| broken(error.into()))?;
    match loaded.error {
        Some(error) => Err(LaunchError::Load(Box::new(error))),
        None => Ok(()),
    }
}

/// Passes orders to a template until nobody can give one, or it ends.
async fn attend(
    mut process: Process,
    mut connection: Connection,
    mut orders: mpsc::UnboundedReceiver<(u64, String)>,
    ended: Ended,
) {
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some((worker, token)) = order else { break };
                let header = Fork { worker, token: &token };
                if connection.send(kind::FORK, &header, &Payloads::default()).await.is_err() {
                    break;
                }
            }
            frame = connection.receive() => match frame {
                Ok(frame) if frame.kind == kind::EXITED => match frame.header() {
                    Ok(exited) => ended(exited),
                    Err(error) => tracing::warn!(%error, "a template's frame"),
                },
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    orders.close();
    let nothing = Payloads::default();
    let stop = connection.send(kind::STOP, &Empty {}, &nothing);
    let _ = tokio::time::timeout(Duration::from_millis(100), stop).await;
    if tokio::time::timeout(Duration::from_millis(500), process.child.wait())
        .await
        .is_err()
    {
        let _ = process.child.kill().await;
    }
}

/// The last lines that a process printed, for the error when it does not start.
#[derive(Clone, Default)]
struct Heard(Arc<parking_lot::Mutex<std::collections::VecDeque<String>>>);

impl Heard {
    fn last_words(&self) -> String {
        let lines = self.0.lock();
        if lines.is_empty() {
            return "it printed nothing".to_owned();
        }
        lines.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

fn listen(
    pipe: Option<impl AsyncRead + Unpin + Send + 'static>,
    stream: tidemill_telemetry::Stream,
    printed: &Printed,
    heard: &Heard,
) {
    let Some(pipe) = pipe else { return };
    let (printed, heard) = (Arc::clone(printed), heard.clone());
    tokio::spawn(async move {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = tokio::io::AsyncReadExt::take(&mut reader, LINE_BYTES_MAX);
            match limited.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\n', '\r'])
                .to_owned();
            {
                let mut lines = heard.0.lock();
                if lines.len() == 20 {
                    lines.pop_front();
                }
                lines.push_back(text.clone());
            }
            printed(stream, text);
        }
    });
}
