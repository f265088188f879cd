//! `tidemill up`: a node put together, served, and taken down.

use crate::cli::{Global, Up};
use crate::edge::{OsEntropy, SystemClock};
use crate::failure::Failure;
use crate::files::{self, NodeFile};
use crate::memory;
use crate::redis;
use crate::sdk;
use crate::settings::{self, DurabilityName, Loaded, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill_gateway::{Access, GatewayState, NodeInfo};
use tidemill_lattice::{Clock, DrawnAhead, Entropy, RisingClock};
use tidemill_runtime::Runtime;
use tidemill_store::{Driver, Durability, Embedded, Store};
use tidemill_telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// The exit code of a process that a second signal ended at once.
const EXIT_FORCED: i32 = 130;

/// Runs a node until it is told to stop.
pub(crate) fn run(global: &Global, command: &Up) -> Result<(), Failure> {
    let data = files::data_directory(global.data.as_deref())?;
    let loaded = settings::load(&data, global.config.as_deref(), command)?;
    if command.dump_config {
        return crate::output::bytes(loaded.dump().as_bytes());
    }
    start_logging(&loaded.settings)?;
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&data, &loaded, command.ready_file.as_deref()))
}

fn start_logging(settings: &Settings) -> Result<(), Failure> {
    let filter = &settings.telemetry.filter;
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::Usage(format!("the setting `telemetry.filter` is wrong: {error}"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

/// Raises the limit of open files as far as it may be: each connection and each worker
/// takes one, and the usual limit is made for smaller programs.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

async fn serve(data: &Path, loaded: &Loaded, ready_file: Option<&Path>) -> Result<(), Failure> {
    let signals = Signals::new()?;
    tokio::spawn(memory::give_back());
    let settings = &loaded.settings;
    let wanted = listen_address(&settings.http.listen, settings).await?;
    let redis = redis::plan(settings).await?;
    files::create_private(data)?;
    let threads = tidemill_redis::Threads::new(settings.store.shards)?;
    // What has expired stays so where the wall clock is set back.
    let rising: Arc<dyn Clock> = Arc::new(RisingClock::new(SystemClock));
    let driver = Arc::clone(&threads) as Arc<dyn Driver>;
    let store = open_store(data, settings, Arc::clone(&rising), driver)?;
    let listener = TcpListener::bind(wanted)
        .await
        .map_err(|error| in_use(wanted, &error, "--listen"))?;
    let address = listener.local_addr()?;
    let redis = match redis {
        Some(plan) => Some(plan.bind().await?),
        None => None,
    };
    let token = files::ensure_token(data, &OsEntropy)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(DrawnAhead::new(OsEntropy));
    let telemetry = Arc::new(Telemetry::new(settings.telemetry.options()));
    let redis_parts = tidemill_redis::Parts {
        store: Arc::clone(&store),
        clock: rising,
        entropy: Arc::clone(&entropy),
        threads,
    };
    let parts = tidemill_runtime::Parts {
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        entropy,
        telemetry: Arc::clone(&telemetry),
    };
    let started_us = clock.now_micros();
    let options = runtime_options(data, settings)?;
    let runtime = Runtime::start(options, parts).await?;
    let token = (!settings.http.insecure).then_some(token);
    let (stop, stopping) = watch::channel(false);
    let redis_address = redis.as_ref().map(|bound| bound.address);
    let serving_redis = redis
        .map(|bound| bound.serve(redis_parts, token.clone(), stopping.clone()))
        .transpose()?;
    let state = GatewayState::new(tidemill_gateway::Parts {
        runtime: runtime.clone(),
        store,
        telemetry,
        clock,
        access: Access::new(token.as_deref(), address, &settings.http.hosts),
        options: tidemill_gateway::Options {
            body_bytes_max: settings.http.body_bytes_max,
            archive_bytes_max: settings.http.archive_bytes_max,
        },
        node: NodeInfo {
            version: env!("CARGO_PKG_VERSION"),
            data_directory: data.to_owned(),
            started_us,
            settings: serde_json::to_value(settings).unwrap_or_default(),
        },
        stopping: stopping.clone(),
    });
    let router = tidemill_gateway::router(state);
    let serving = tokio::spawn(tidemill_gateway::serve(listener, router, stopping));
    let shown = Shown::write(data, ready_file, address, redis_address)?;
    welcome(data, address, redis_address, settings.http.insecure);
    signals.first_then_force().await;
    eprintln!("stopping; a second signal ends the node at once");
    // Nobody may find this node any more; then answers in flight are finished.
    drop(shown);
    stop.send_replace(true);
    runtime.stop().await;
    if let Some(serving) = serving_redis {
        serving
            .await
            .map_err(|error| Failure::Other(format!("the Redis door failed: {error}")))?;
    }
    serving
        .await
        .map_err(|error| Failure::Other(format!("the HTTP door failed: {error}")))
}

/// The address asked for, refused where it would open the node to everybody.
pub(crate) async fn listen_address(text: &str, settings: &Settings) -> Result<SocketAddr, Failure> {
    let usage = |cause: &str| {
        Failure::Usage(format!(
            "the address {text} {cause}; use HOST:PORT, such as 127.0.0.1:7070"
        ))
    };
    let mut found = tokio::net::lookup_host(text)
        .await
        .map_err(|error| usage(&format!("is no address to listen on: {error}")))?;
    let address = found.next().ok_or_else(|| usage("is not known"))?;
    if !address.ip().is_loopback() && settings.http.insecure {
        return Err(Failure::Usage(format!(
            "{address} can be reached from other machines, so it is not served without a token: \
             leave out --insecure, or listen on a loopback address"
        )));
    }
    Ok(address)
}

fn open_store(
    data: &Path,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    driver: Arc<dyn Driver>,
) -> Result<Arc<dyn Store>, Failure> {
    let options = tidemill_store::Options {
        driver,
        at_rest: memory::rest,
        ..settings.store.options(data.join("state"))
    };
    match Embedded::open(options, clock) {
        Ok(store) => Ok(Arc::new(store)),
        Err(error @ tidemill_store::Error::InUse { .. }) => {
            let place = files::read_node(data).map_or_else(String::new, |node| {
                format!(" (its node serves {})", node.http)
            });
            Err(Failure::InUse(format!("{error}{place}")))
        }
        Err(error) => Err(Failure::Other(error.to_string())),
    }
}

/// Why an address could not be taken; `flag` chooses another.
pub(crate) fn in_use(address: SocketAddr, error: &std::io::Error, flag: &str) -> Failure {
    let text = format!("cannot listen on {address}: {error}; choose another with {flag}");
    match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::InUse(text),
        _ => Failure::Usage(text),
    }
}

/// What the node's commits promise.
pub(crate) fn durability(settings: &Settings) -> Durability {
    match settings.store.durability {
        DurabilityName::Memory => Durability::Memory,
        DurabilityName::Durable => Durability::Durable,
    }
}

fn runtime_options(data: &Path, settings: &Settings) -> Result<tidemill_runtime::Options, Failure> {
    let runtime = &settings.runtime;
    Ok(tidemill_runtime::Options {
        python: runtime.python.clone(),
        sdk_directory: Some(sdk::unpack(data)?),
        durability: durability(settings),
        retention: std::time::Duration::from_secs(settings.requests.retention_s),
        session_secret: Some(files::ensure_session_secret(data, &OsEntropy)?),
        limits: runtime.limits,
        workers_max: runtime.workers_max,
        processes_max: runtime.processes_max,
        waiting_max: runtime.waiting_max,
        admission: runtime.admission,
        ..tidemill_runtime::Options::new(data.to_owned())
    })
}

/// The files that say where the node listens; they go when this value goes.
struct Shown {
    paths: Vec<PathBuf>,
}

impl Shown {
    fn write(
        data: &Path,
        ready: Option<&Path>,
        address: SocketAddr,
        redis: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let node = NodeFile {
            http: address.to_string(),
            redis: redis.map(|address| address.to_string()),
            pid: std::process::id(),
        };
        let text = serde_json::to_vec(&node).map_err(std::io::Error::from)?;
        let mut shown = Self { paths: Vec::new() };
        for path in [Some(data.join(files::NODE)), ready.map(Path::to_owned)]
            .into_iter()
            .flatten()
        {
            files::write_atomically(&path, &text, 0o644)?;
            shown.paths.push(path);
        }
        Ok(shown)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a file could not be removed");
            }
        }
    }
}

fn welcome(data: &Path, address: SocketAddr, redis: Option<SocketAddr>, insecure: bool) {
    let redis = redis.map_or_else(String::new, |redis| format!("\n  redis  {redis}"));
    let token = if insecure {
        "no token is asked for".to_owned()
    } else {
        format!("token in {}", data.join(files::TOKEN).display())
    };
    eprintln!(
        "Tidemill {} serves http://{address}{redis}\n  data   {}\n  access {token}\n\
         Next: tidemill deploy FILE.py, then tidemill call APP.FUNCTION",
        env!("CARGO_PKG_VERSION"),
        data.display(),
    );
}

/// The signals that ask a node to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the first; a second one ends the process at once.
    async fn first_then_force(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(EXIT_FORCED);
        });
    }
}
