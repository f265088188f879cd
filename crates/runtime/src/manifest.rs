//! The app manifest (docs/manifest.md): parsed and checked before anything else
//! looks at it. Pure.

use crate::{DurabilityName, Level};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidemill_flow::Flow;
use tidemill_problem::{Code, Problem};

/// The manifest version that this node reads.
pub(crate) const VERSION: u32 = 1;
/// The longest name of an app, function or flow.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// What an app is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its format: 1.
    pub manifest: u32,
    /// The app's name.
    pub app: String,
    /// What runs it.
    pub runtime: RuntimeKind,
    /// Where its functions are; a Python app needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
    /// The level of functions that name none.
    #[serde(default)]
    pub level: Level,
    /// How safe the writes of functions are that do not say; else the node's setting.
    #[serde(default)]
    pub durability: Option<DurabilityName>,
    /// Its functions.
    pub functions: Vec<FunctionSpec>,
    /// Its flows.
    #[serde(default)]
    pub flows: Vec<FlowSpec>,
}

/// What runs an app's functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum RuntimeKind {
    /// Worker processes forked from a template.
    Python {
        /// The minor version that made the bundle, such as `3.11`.
        python: String,
        /// The SDK that made it.
        #[serde(default)]
        sdk: Option<String>,
    },
    /// A program of the bundle that speaks the worker protocol.
    Command {
        /// The program, relative to the bundle's root, and its arguments.
        command: Vec<String>,
    },
    /// Nothing but what its functions name themselves: components.
    Wasm,
}

/// Where functions are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Entry {
    /// A module of the bundle.
    Module {
        /// Its dotted name.
        module: String,
        /// The attribute that is the app.
        #[serde(default)]
        app: Option<String>,
    },
    /// The bundle's `functions.pkl`.
    Pickle,
}

/// A function and its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Its name; a method is `Class.method`.
    pub name: String,
    /// Whether it gives one value or many.
    #[serde(default)]
    pub kind: FunctionKind,
    /// Whether it is a coroutine.
    #[serde(default)]
    pub asynchronous: bool,
    /// How long one run may take.
    #[serde(default = "defaults::timeout_ms")]
    pub timeout_ms: u64,
    /// How much memory a worker may hold of its own.
    #[serde(default = "defaults::memory_bytes")]
    pub memory_bytes: u64,
    /// How often a failed run is tried again.
    #[serde(default)]
    pub retries: u32,
    /// How many runs at the same time.
    #[serde(default)]
    pub max_concurrency: Option<u32>,
    /// Workers kept ready.
    #[serde(default)]
    pub min_workers: u32,
    /// How long an idle worker is kept.
    #[serde(default = "defaults::idle_timeout_ms")]
    pub idle_timeout_ms: u64,
    /// Packages that it needs, as pip takes them.
    #[serde(default)]
    pub requirements: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Secrets of the node that it may read as environment variables.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// The resource class: what it needs of a machine. Kept for placement.
    #[serde(default)]
    pub resources: BTreeMap<String, serde_json::Value>,
    /// Its consistency level.
    #[serde(default)]
    pub level: Option<Level>,
    /// How safe its writes are before it is answered.
    #[serde(default)]
    pub durability: Option<DurabilityName>,
    /// What it does, for people.
    #[serde(default)]
    pub doc: Option<String>,
    /// The file of the bundle that is the WebAssembly component that runs it, whatever runs the
    /// app's other functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Hosts that its component may send HTTP requests to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Whether each run has an instance of its component for itself, in its first state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// Whether anybody may send it HTTP requests, without the node's token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

/// Whether a function gives one value or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionKind {
    /// One.
    #[default]
    Function,
    /// Many, streamed.
    Generator,
    /// One HTTP response to one HTTP request: a component of the world of `wasi:http`.
    Http,
}

/// A named flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowSpec {
    /// Its name.
    pub name: String,
    /// Its steps.
    pub flow: Flow,
}

mod defaults {
    pub(super) fn timeout_ms() -> u64 {
        60_000
    }
    pub(super) fn memory_bytes() -> u64 {
        512 * 1024 * 1024
    }
    pub(super) fn idle_timeout_ms() -> u64 {
        300_000
    }
}

impl Manifest {
    /// Reads and checks a manifest. Flows are checked where functions are known.
    ///
    /// # Errors
    /// `bad-manifest`, saying what to change.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| bad(format!("tidemill.json cannot be read: {error}")))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), Problem> {
        if self.manifest != VERSION {
            return Err(bad(format!(
                "the manifest has version {}, this node reads {VERSION}; use an SDK of the node's version",
                self.manifest
            )));
        }
        check_name("the app", &self.app)?;
        if self.functions.is_empty() {
            return Err(bad(
                "the app has no functions; decorate one with @app.function",
            ));
        }
        if let RuntimeKind::Command { command } = &self.runtime
            && command.first().is_none_or(String::is_empty)
        {
            return Err(bad(
                "runtime.command is empty; name a program of the bundle",
            ));
        }
        if matches!(self.runtime, RuntimeKind::Python { .. }) && self.entry.is_none() {
            return Err(bad("entry is missing; name the module of the app"));
        }
        let https = self
            .functions
            .iter()
            .filter(|function| function.kind == FunctionKind::Http);
        if https.count() > 1 {
            return Err(bad(
                "two functions are of the kind http, and an app has one place under /http/; deploy two apps",
            ));
        }
        let mut names = BTreeSet::new();
        for function in &self.functions {
            function.check()?;
            function.check_component(self.runtime == RuntimeKind::Wasm)?;
            if !names.insert(function.name.as_str()) {
                return Err(bad(format!("{} is there twice; rename one", function.name)));
            }
        }
        for flow in &self.flows {
            check_name("a flow", &flow.name)?;
            if !names.insert(flow.name.as_str()) {
                return Err(bad(format!("{} is there twice; rename one", flow.name)));
            }
        }
        Ok(())
    }
}

impl FunctionSpec {
    fn check(&self) -> Result<(), Problem> {
        check_name("a function", &self.name)?;
        let name = &self.name;
        if !(1..=86_400_000).contains(&self.timeout_ms) {
            return Err(bad(format!(
                "{name}: timeout must be above 0 and at most a day"
            )));
        }
        if self.memory_bytes < 16 * 1024 * 1024 {
            return Err(bad(format!("{name}: memory must be at least 16 MB")));
        }
        if self.max_concurrency == Some(0) {
            return Err(bad(format!("{name}: max_concurrency must be at least 1")));
        }
        if self.retries > 100 {
            return Err(bad(format!("{name}: retries must be at most 100")));
        }
        for variable in self.env.keys().chain(&self.secrets) {
            let valid = !variable.is_empty()
                && !variable.as_bytes()[0].is_ascii_digit()
                && variable
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !valid {
                return Err(bad(format!(
                    "{name}: {variable:?} is not a variable's name"
                )));
            }
            if variable.starts_with("TIDEMILL_") {
                return Err(bad(format!("{name}: {variable} belongs to the platform")));
            }
        }
        for requirement in &self.requirements {
            if requirement.starts_with('-') || requirement.contains(['\n', '\r', '\0']) {
                return Err(bad(format!("{name}: {requirement:?} is not a requirement")));
            }
        }
        Ok(())
    }

    /// What runs a component and what runs a process have settings of their own.
    fn check_component(&self, is_needed: bool) -> Result<(), Problem> {
        let name = &self.name;
        if self.public && self.kind != FunctionKind::Http {
            return Err(bad(format!(
                "{name}: public is for functions of the kind http"
            )));
        }
        let Some(component) = &self.component else {
            if is_needed || self.kind == FunctionKind::Http {
                return Err(bad(format!(
                    "{name}: names no component; add component = \"file.wasm\""
                )));
            }
            if self.fresh || !self.hosts.is_empty() {
                return Err(bad(format!("{name}: fresh and hosts are for components")));
            }
            return Ok(());
        };
        let path = std::path::Path::new(component);
        let is_inside = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if component.is_empty() || !is_inside {
            return Err(bad(format!(
                "{name}: {component:?} is not a file of the bundle"
            )));
        }
        if self.kind == FunctionKind::Generator {
            return Err(bad(format!(
                "{name}: a component gives one value; it is no generator"
            )));
        }
        if !self.requirements.is_empty() || self.min_workers > 0 {
            return Err(bad(format!(
                "{name}: requirements and min_workers are for Python functions"
            )));
        }
        for host in &self.hosts {
            if !is_host(host) {
                return Err(bad(format!(
                    "{name}: {host:?} is not a host; write host, host:port or *.domain"
                )));
            }
        }
        Ok(())
    }
}

/// `host`, `host:port` or `*.domain`, without a scheme or path.
fn is_host(text: &str) -> bool {
    let host = text.strip_prefix("*.").unwrap_or(text);
    !host.is_empty()
        && host.len() <= 255
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte))
}

fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let rest = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if first && rest && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    Err(bad(format!(
        "{what} has the name {shown:?}; use 1 to {NAME_BYTES_MAX} letters, digits, '_', '.' and '-', beginning with a letter or '_'"
    )))
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadManifest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample() -> Value {
        json!({
            "manifest": 1, "app": "shop",
            "runtime": {"kind": "python", "python": "3.11", "sdk": "0.1.0"},
            "entry": {"kind": "module", "module": "shop", "app": "app"},
            "functions": [{"name": "buy"}, {"name": "Model.predict", "kind": "generator"}],
        })
    }

    fn parse(value: &Value) -> Result<Manifest, Problem> {
        Manifest::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_small_manifest_has_the_documented_defaults() {
        let manifest = parse(&sample()).unwrap();
        let buy = &manifest.functions[0];
        assert_eq!(buy.timeout_ms, 60_000);
        assert_eq!(buy.memory_bytes, 512 << 20);
        assert_eq!(buy.idle_timeout_ms, 300_000);
        assert_eq!(
            (buy.retries, buy.max_concurrency, buy.min_workers),
            (0, None, 0)
        );
        assert_eq!(manifest.functions[1].kind, FunctionKind::Generator);
    }

    #[test]
    fn each_mistake_is_named() {
        let cases: Vec<(&str, Value, &str)> = vec![
            ("/manifest", json!(2), "version 2"),
            ("/app", json!("a/b"), "\"a/b\""),
            ("/app", json!("x".repeat(129)), "1 to 128"),
            ("/functions", json!([]), "no functions"),
            ("/functions/1/name", json!("buy"), "twice"),
            ("/functions/0/name", json!(""), "a function"),
            (
                "/functions/0",
                json!({"name": "f", "timeout_ms": 0}),
                "timeout",
            ),
            (
                "/functions/0",
                json!({"name": "f", "memory_bytes": 1}),
                "16 MB",
            ),
            (
                "/functions/0",
                json!({"name": "f", "max_concurrency": 0}),
                "max_concurrency",
            ),
            (
                "/functions/0",
                json!({"name": "f", "env": {"A B": "1"}}),
                "A B",
            ),
            (
                "/functions/0",
                json!({"name": "f", "env": {"TIDEMILL_X": "1"}}),
                "platform",
            ),
            (
                "/functions/0",
                json!({"name": "f", "requirements": ["-e ."]}),
                "requirement",
            ),
            (
                "/functions/0",
                json!({"name": "f", "timeuot_ms": 5}),
                "timeuot_ms",
            ),
            (
                "/runtime",
                json!({"kind": "command", "command": []}),
                "runtime.command",
            ),
            ("/runtime", json!({"kind": "cobol"}), "cobol"),
        ];
        each_is_refused(cases);
    }

    #[test]
    fn each_mistake_about_components_is_named() {
        let cases: Vec<(&str, Value, &str)> = vec![
            ("/runtime", json!({"kind": "wasm"}), "names no component"),
            (
                "/functions/0",
                json!({"name": "f", "component": "../f.wasm"}),
                "not a file of the bundle",
            ),
            (
                "/functions/0",
                json!({"name": "f", "component": "f.wasm", "hosts": ["http://a/b"]}),
                "is not a host",
            ),
            (
                "/functions/0",
                json!({"name": "f", "component": "f.wasm", "kind": "generator"}),
                "no generator",
            ),
            (
                "/functions/0",
                json!({"name": "f", "component": "f.wasm", "requirements": ["numpy"]}),
                "for Python functions",
            ),
            (
                "/functions/0",
                json!({"name": "f", "fresh": true}),
                "for components",
            ),
            (
                "/functions/0",
                json!({"name": "f", "kind": "http"}),
                "names no component",
            ),
            (
                "/functions/0",
                json!({"name": "f", "level": "strict"}),
                "eventual",
            ),
            (
                "/functions/0",
                json!({"name": "f", "durability": "twice"}),
                "durable",
            ),
        ];
        each_is_refused(cases);
    }

    /// A place of the sample, what is put there, and a word of the refusal.
    fn each_is_refused(cases: Vec<(&str, Value, &str)>) {
        for (place, value, expected) in cases {
            let mut manifest = sample();
            *manifest.pointer_mut(place).unwrap() = value;
            let problem = parse(&manifest).unwrap_err();
            assert_eq!(problem.code, Code::BadManifest);
            assert!(
                problem.detail.contains(expected),
                "{place}: {}",
                problem.detail
            );
        }
    }
}
