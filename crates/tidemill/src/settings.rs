//! The settings of a node: one struct for each component, layered as defaults, a
//! TOML file, environment variables, flags.
//!
//! The setting `http.listen` is `listen` under `[http]` in the file and
//! `TIDEMILL_HTTP_LISTEN` in the environment. This module knows where settings
//! come from, not what they do.

use crate::cli::Up;
use crate::failure::Failure;
use figment::providers::{Format, Toml};
use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The HTTP door.
    pub(crate) http: HttpSettings,
    /// The Redis door.
    pub(crate) redis: RedisSettings,
    /// The store below `state` in the data directory.
    pub(crate) store: StoreSettings,
    /// Requests with a key.
    pub(crate) requests: RequestSettings,
    /// Running functions.
    pub(crate) runtime: RuntimeSettings,
    /// What is remembered of what happened.
    pub(crate) telemetry: TelemetrySettings,
}

/// The HTTP door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpSettings {
    /// The address to listen on; port 0 picks a free one.
    pub(crate) listen: String,
    /// Names of hosts that are served beside localhost and the address itself.
    pub(crate) hosts: Vec<String>,
    /// Ask for no token; on loopback addresses only.
    pub(crate) insecure: bool,
    /// The largest body of a call, a value or a flow, in bytes.
    pub(crate) body_bytes_max: usize,
    /// The largest archive of a deploy, in bytes.
    pub(crate) archive_bytes_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        let limits = tidemill_gateway::Options::default();
        Self {
            listen: "127.0.0.1:7070".to_owned(),
            hosts: Vec::new(),
            insecure: false,
            body_bytes_max: limits.body_bytes_max,
            archive_bytes_max: limits.archive_bytes_max,
        }
    }
}

/// The Redis door. Its token, and how safe its commits are, are the node's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RedisSettings {
    /// The address to listen on; port 0 picks a free one, nothing leaves the door shut.
    pub(crate) listen: String,
    /// The app whose keys are shown.
    pub(crate) app: String,
    /// The largest argument of a command, in bytes.
    pub(crate) bulk_bytes_max: usize,
    /// Commands of a connection wait while its client has not taken more bytes than this.
    pub(crate) output_bytes_max: usize,
    /// Connections at a time.
    pub(crate) connections_max: usize,
}

impl Default for RedisSettings {
    fn default() -> Self {
        let redis = tidemill_redis::Options::default();
        Self {
            listen: String::new(),
            app: redis.app,
            bulk_bytes_max: redis.limits.bulk_bytes_max,
            output_bytes_max: redis.output_bytes_max,
            connections_max: redis.connections_max,
        }
    }
}

/// How safe a commit is before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DurabilityName {
    /// In the node's memory, and with the operating system at once (a function's commit) or
    /// within milliseconds (a command of the Redis door).
    Memory,
    /// On the disk.
    Durable,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreSettings {
    /// How safe a commit is before it is answered: `durable` or `memory`.
    pub(crate) durability: DurabilityName,
    /// How many shards keys are divided among, each with a thread of its own.
    pub(crate) shards: usize,
    /// Above so many bytes in memory, clean keys leave for the disk.
    pub(crate) memory_bytes: u64,
    /// The engine's cache of blocks, in bytes.
    pub(crate) cache_bytes: u64,
    /// A checkpoint begins after so many bytes of log.
    pub(crate) checkpoint_bytes: u64,
    /// A checkpoint begins after so many milliseconds, if anything was written.
    pub(crate) checkpoint_ms: u64,
    /// How long a request's snapshot stays readable, in milliseconds.
    pub(crate) snapshot_lifetime_ms: u64,
    /// Writes are refused when less would stay free on the disk, in bytes.
    pub(crate) reserve_bytes: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        let store = tidemill_store::Options::new("");
        Self {
            durability: DurabilityName::Durable,
            shards: store.shards,
            memory_bytes: store.memory_bytes,
            cache_bytes: store.cache_bytes,
            checkpoint_bytes: store.checkpoint_bytes,
            checkpoint_ms: store.checkpoint_us / 1000,
            snapshot_lifetime_ms: store.snapshot_lifetime_us / 1000,
            reserve_bytes: store.reserve_bytes,
        }
    }
}

impl StoreSettings {
    /// The store's options for this directory.
    pub(crate) fn options(&self, directory: PathBuf) -> tidemill_store::Options {
        tidemill_store::Options {
            shards: self.shards,
            memory_bytes: self.memory_bytes,
            cache_bytes: self.cache_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            checkpoint_us: self.checkpoint_ms.saturating_mul(1000),
            snapshot_lifetime_us: self.snapshot_lifetime_ms.saturating_mul(1000),
            reserve_bytes: self.reserve_bytes,
            ..tidemill_store::Options::new(directory)
        }
    }
}

/// Requests with a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RequestSettings {
    /// How long their results are kept for retries, in seconds.
    pub(crate) retention_s: u64,
}

impl Default for RequestSettings {
    fn default() -> Self {
        let runtime = tidemill_runtime::Options::new(PathBuf::new());
        Self {
            retention_s: runtime.retention.as_secs(),
        }
    }
}

/// Running functions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuntimeSettings {
    /// The interpreter that runs Python apps.
    pub(crate) python: PathBuf,
    /// Workers of one group of functions that run at the same time.
    pub(crate) workers_max: usize,
    /// Processes of one group, those waiting for calls of their own included.
    pub(crate) processes_max: usize,
    /// Calls that may wait for a worker of one group.
    pub(crate) waiting_max: usize,
    /// Requests in the node and those that wait for their turn.
    pub(crate) admission: tidemill_runtime::AdmissionPolicy,
    /// Limits on what calls may take.
    pub(crate) limits: tidemill_runtime::Limits,
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        let runtime = tidemill_runtime::Options::new(PathBuf::new());
        Self {
            python: runtime.python,
            workers_max: runtime.workers_max,
            processes_max: runtime.processes_max,
            waiting_max: runtime.waiting_max,
            admission: runtime.admission,
            limits: runtime.limits,
        }
    }
}

/// What is remembered of what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TelemetrySettings {
    /// What the node itself reports on standard error, as `tracing` filters are written.
    pub(crate) filter: String,
    /// Bytes of log lines kept.
    pub(crate) log_bytes: usize,
    /// Spans kept.
    pub(crate) span_count: usize,
    /// Meters of single requests kept.
    pub(crate) meter_count: usize,
    /// Functions with metrics of their own.
    pub(crate) series_count: usize,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        let telemetry = tidemill_telemetry::Options::default();
        Self {
            filter: "warn".to_owned(),
            log_bytes: telemetry.log_bytes,
            span_count: telemetry.span_count,
            meter_count: telemetry.meter_count,
            series_count: telemetry.series_count,
        }
    }
}

impl TelemetrySettings {
    /// The rings' sizes.
    pub(crate) fn options(&self) -> tidemill_telemetry::Options {
        tidemill_telemetry::Options {
            log_bytes: self.log_bytes,
            span_count: self.span_count,
            meter_count: self.meter_count,
            series_count: self.series_count,
        }
    }
}

/// Settings in force, with where each came from.
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    figment: Figment,
}

/// One setting from one place.
struct Layer {
    place: String,
    path: &'static str,
    value: Value,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.place.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let dict = nest(self.path, self.value.clone())
            .into_dict()
            .unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}

/// The name of the settings file in a data directory.
const FILE: &str = "tidemill.toml";
const PREFIX: &str = "TIDEMILL_";

/// The settings of a node with this data directory.
///
/// # Errors
/// [`Failure::Usage`] names the key at fault, its source and keys near to it.
pub(crate) fn load(data: &Path, config: Option<&Path>, flags: &Up) -> Result<Loaded, Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    layer(data, config, environment, flags)
}

fn layer(
    data: &Path,
    config: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Up,
) -> Result<Loaded, Failure> {
    let paths = paths();
    let mut figment = Figment::new();
    for (path, value) in &paths {
        figment = figment.merge(Layer {
            place: "default".to_owned(),
            path,
            value: value.clone(),
        });
    }
    let file = match config {
        Some(file) if !file.is_file() => {
            let text = format!("there is no settings file {}", file.display());
            return Err(Failure::Usage(text));
        }
        Some(file) => file.to_owned(),
        None => data.join(FILE),
    };
    if file.is_file() {
        figment = figment.merge(Toml::file_exact(&file));
    }
    for (name, value) in environment {
        if let Some(layer) = of_variable(&paths, &name, &value)? {
            figment = figment.merge(layer);
        }
    }
    for layer in of_flags(flags) {
        figment = figment.merge(layer);
    }
    let settings = figment.extract().map_err(|error| explain(&error))?;
    Ok(Loaded { settings, figment })
}

type Defaults = Vec<(&'static str, Value)>;

/// Every setting's path with its default, in the order of the structs.
fn paths() -> Defaults {
    fn walk(path: &str, value: Value, found: &mut Defaults) {
        match value {
            Value::Dict(_, members) => {
                for (name, member) in members {
                    let path = if path.is_empty() {
                        name
                    } else {
                        format!("{path}.{name}")
                    };
                    walk(&path, member, found);
                }
            }
            // A few dozen names, once a process.
            leaf => found.push((String::leak(path.to_owned()), leaf)),
        }
    }
    let mut found = Vec::new();
    if let Ok(defaults) = Value::serialize(Settings::default()) {
        walk("", defaults, &mut found);
    }
    found
}

fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
}

/// The setting that a variable holds. A variable that begins like a setting but is
/// none is an error; other `TIDEMILL_` variables belong to others.
fn of_variable(paths: &Defaults, name: &str, value: &str) -> Result<Option<Layer>, Failure> {
    let held = paths.iter().find(|(path, _)| variable(path) == name);
    if let Some((path, default)) = held {
        // A text stays a text, though it may look like a number.
        let value = match default {
            Value::String(..) => Value::from(value),
            _ => value.parse().unwrap_or_else(|_| Value::from(value)),
        };
        return Ok(Some(Layer {
            place: format!("environment variable {name}"),
            path,
            value,
        }));
    }
    let sections = ["HTTP", "REDIS", "STORE", "REQUESTS", "RUNTIME", "TELEMETRY"];
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    let section = rest.split_once('_').map_or("", |(section, _)| section);
    if !sections.contains(&section) {
        return Ok(None);
    }
    let names: Vec<String> = paths.iter().map(|(path, _)| variable(path)).collect();
    let near = near(name, names.iter().map(String::as_str));
    Err(Failure::Usage(format!(
        "the environment variable {name} is no setting{}",
        did_you_mean(&near)
    )))
}

fn of_flags(flags: &Up) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut add = |flag: &str, path, value| {
        layers.push(Layer {
            place: format!("flag {flag}"),
            path,
            value,
        });
    };
    if let Some(listen) = &flags.listen {
        add("--listen", "http.listen", Value::from(listen.as_str()));
    }
    if let Some(listen) = &flags.redis_listen {
        add(
            "--redis-listen",
            "redis.listen",
            Value::from(listen.as_str()),
        );
    }
    if flags.insecure {
        add("--insecure", "http.insecure", Value::from(true));
    }
    if let Some(python) = &flags.python {
        add(
            "--python",
            "runtime.python",
            Value::from(&*python.to_string_lossy()),
        );
    }
    if let Some(durability) = flags.durability {
        let name = match durability {
            DurabilityName::Memory => "memory",
            DurabilityName::Durable => "durable",
        };
        add("--durability", "store.durability", Value::from(name));
    }
    layers
}

fn explain(error: &Error) -> Failure {
    use figment::error::Kind;
    let place = error.metadata.as_ref().map(place_of).unwrap_or_default();
    let text = match &error.kind {
        Kind::UnknownField(name, known) => {
            let mut path = error.path.clone();
            if path.last().is_none_or(|last| last != name) {
                path.push(name.clone());
            }
            let near = near(name, known.iter().copied());
            format!(
                "{place}: there is no setting `{}`{}",
                path.join("."),
                did_you_mean(&near)
            )
        }
        kind if error.path.is_empty() => format!("{place}: {kind}"),
        kind => format!(
            "{place}: the setting `{}` is wrong: {kind}",
            error.path.join(".")
        ),
    };
    Failure::Usage(text)
}

fn place_of(metadata: &Metadata) -> String {
    match metadata
        .source
        .as_ref()
        .and_then(|source| source.file_path())
    {
        Some(path) => path.display().to_string(),
        None => metadata.name.to_string(),
    }
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() {
        return String::new();
    }
    format!("; did you mean {}?", near.join(" or "))
}

/// Names near to one that is unknown, the nearest first, at most three.
pub(crate) fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
        .into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}

impl Loaded {
    /// The settings in force as TOML, each with its source.
    pub(crate) fn dump(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for (path, _) in paths() {
            let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
            if section != table {
                let gap = if out.is_empty() { "" } else { "\n" };
                // Writing to a string cannot fail.
                let _ = writeln!(out, "{gap}[{section}]");
                table = section;
            }
            let value = self.figment.find_value(path);
            let value = value.map_or_else(|_| String::new(), |value| toml_of(&value));
            let place = self
                .figment
                .find_metadata(path)
                .map(place_of)
                .unwrap_or_default();
            let _ = writeln!(out, "{name} = {value}  # {place}");
        }
        out
    }
}

/// A leaf as TOML. Settings hold texts, numbers, switches and lists of texts, whose
/// JSON is TOML as well.
fn toml_of(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(toml: &str, environment: &[(&str, &str)], flags: &Up) -> Result<Loaded, Failure> {
        let data = tempfile::tempdir().expect("a directory");
        std::fs::write(data.path().join(FILE), toml).expect("written");
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        layer(data.path(), None, environment, flags)
    }

    fn refused(toml: &str, environment: &[(&str, &str)]) -> String {
        match loaded(toml, environment, &Up::default()) {
            Ok(_) => panic!("{toml} {environment:?} was accepted"),
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_are_above_the_environment_above_the_file_above_the_defaults() {
        let toml = "[http]\nlisten = \"127.0.0.1:1\"\nbody_bytes_max = 10\nhosts = [\"a\"]\n\
                    [runtime.limits]\ncall_depth = 5\n[store]\ndurability = \"memory\"\n";
        let environment = [
            ("TIDEMILL_HTTP_LISTEN", "127.0.0.1:2"),
            ("TIDEMILL_HTTP_BODY_BYTES_MAX", "20"),
            ("TIDEMILL_RUNTIME_PYTHON", "3"),
            ("TIDEMILL_TOKEN", "of another"),
            ("TIDEMILL_SECRET_HTTP_X", "of another"),
        ];
        let flags = Up {
            listen: Some("127.0.0.1:3".to_owned()),
            ..Up::default()
        };
        let loaded = loaded(toml, &environment, &flags).expect("valid");
        let settings = &loaded.settings;
        assert_eq!(settings.http.listen, "127.0.0.1:3");
        assert_eq!(settings.http.body_bytes_max, 20);
        assert_eq!(settings.http.hosts, ["a"]);
        assert_eq!(settings.runtime.python, Path::new("3"));
        assert_eq!(settings.runtime.limits.call_depth, 5);
        assert_eq!(settings.store.durability, DurabilityName::Memory);
        assert_eq!(settings.telemetry, TelemetrySettings::default());
        let dump = loaded.dump();
        for line in [
            "listen = \"127.0.0.1:3\"  # flag --listen",
            "body_bytes_max = 20  # environment variable TIDEMILL_HTTP_BODY_BYTES_MAX",
            "insecure = false  # default",
            "[runtime.limits]",
        ] {
            assert!(dump.contains(line), "{line}\nis not in\n{dump}");
        }
        let hosts = dump
            .lines()
            .find(|line| line.starts_with("hosts"))
            .unwrap_or_default();
        assert!(hosts.ends_with("tidemill.toml"), "{hosts}");
    }

    #[test]
    fn a_dump_is_a_file_of_settings() {
        let dump = loaded("", &[], &Up::default()).expect("defaults").dump();
        let again = loaded(&dump, &[], &Up::default()).expect("a dump can be read");
        assert_eq!(again.settings, Settings::default());
    }

    #[test]
    fn unknown_settings_are_named_with_near_ones() {
        let text = refused("[http]\nlissten = \"x\"\n", &[]);
        assert!(
            text.contains("`http.lissten`; did you mean listen?"),
            "{text}"
        );
        assert!(text.contains("tidemill.toml"), "{text}");
        let text = refused("[htpp]\nlisten = \"x\"\n", &[]);
        assert!(text.contains("`htpp`; did you mean http?"), "{text}");
        let text = refused("", &[("TIDEMILL_HTTP_LISTN", "x")]);
        assert!(text.contains("did you mean TIDEMILL_HTTP_LISTEN"), "{text}");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_source() {
        let text = refused("[http]\nbody_bytes_max = \"much\"\n", &[]);
        assert!(text.contains("`http.body_bytes_max` is wrong"), "{text}");
        let text = refused("", &[("TIDEMILL_STORE_DURABILITY", "some")]);
        assert!(
            text.contains("environment variable TIDEMILL_STORE_DURABILITY"),
            "{text}"
        );
        let text = refused("[http\n", &[]);
        assert!(text.contains("tidemill.toml"), "{text}");
    }
}
