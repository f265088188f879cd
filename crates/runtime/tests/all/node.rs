//! A node without doors, for tests.

use bytes::Bytes;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill_lattice::{Clock, ContentType, Entropy, Payload};
use tidemill_problem::Problem;
use tidemill_runtime::{Answer, Asked, Call, Caller, Limits, Options, Output, Parts, Runtime};
use tidemill_store::{Durability, Embedded};
use tidemill_telemetry::{LogFilter, Telemetry};

/// The wall clock, some time ahead.
#[derive(Default)]
pub(crate) struct AheadClock(AtomicU64);

impl AheadClock {
    pub(crate) fn move_on(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap();
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for AheadClock {
    #[expect(clippy::disallowed_methods, reason = "the edge of the tests")]
    fn now_micros(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::try_from(now.unwrap().as_micros()).unwrap() + self.0.load(Ordering::Relaxed)
    }
}

/// Distinct, not random: enough for identities in tests.
pub(crate) struct Sequence(AtomicU64);

impl Entropy for Sequence {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let next = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let next = (next ^ (next >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            chunk.copy_from_slice(&next.to_le_bytes()[..chunk.len()]);
        }
    }
}

pub(crate) struct Node {
    pub runtime: Runtime,
    pub telemetry: Arc<Telemetry>,
    pub directory: Arc<tempfile::TempDir>,
    pub clock: Arc<AheadClock>,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A node with other limits.
    pub(crate) async fn start_with(change: impl Fn(&mut Limits)) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        Self::start_in(directory, Arc::default(), change).await
    }

    async fn start_in(
        directory: Arc<tempfile::TempDir>,
        ahead: Arc<AheadClock>,
        change: impl Fn(&mut Limits),
    ) -> Self {
        let clock: Arc<dyn Clock> = ahead.clone();
        let open = || {
            let options = tidemill_store::Options::new(directory.path().join("store"));
            Embedded::open(options, Arc::clone(&clock))
        };
        let store = loop {
            match open() {
                // What is left of the last life's tasks lets go of it in a moment.
                Err(tidemill_store::Error::InUse { .. }) => {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                opened => break opened.unwrap(),
            }
        };
        let telemetry = Arc::new(Telemetry::default());
        let mut options = Options::new(directory.path().join("runtime"));
        options.durability = Durability::Memory;
        options.sdk_directory = Some(root().join("sdk/python"));
        options.limits.payload_bytes = 8 << 20;
        change(&mut options.limits);
        let seed = u64::from(std::process::id()) << 32;
        let parts = Parts {
            store: Arc::new(store),
            clock,
            entropy: Arc::new(Sequence(AtomicU64::new(seed))),
            telemetry: Arc::clone(&telemetry),
        };
        let runtime = Runtime::start(options, parts).await.unwrap();
        Self {
            runtime,
            telemetry,
            directory,
            clock: ahead,
        }
    }

    /// A node with the sample app.
    pub(crate) async fn sample() -> Self {
        let node = Self::start().await;
        node.runtime.deploy("sample", sample()).await.unwrap();
        node
    }

    /// Stops it and starts another on the same directory.
    pub(crate) async fn restart(self) -> Self {
        self.runtime.stop().await;
        let (directory, clock) = (Arc::clone(&self.directory), Arc::clone(&self.clock));
        drop(self);
        Self::start_in(directory, clock, |_| {}).await
    }

    pub(crate) async fn answer(&self, function: &str, input: Payload) -> Answer {
        self.runtime.call(call(function, input)).await
    }

    pub(crate) async fn try_call(&self, function: &str, args: Value) -> Result<Value, Problem> {
        match self.answer(function, Payload::json(&args)).await.result? {
            Output::Value(payload) => {
                assert_eq!(payload.content_type, ContentType::Json, "{function}");
                Ok(serde_json::from_slice(&payload.body).unwrap())
            }
            Output::Stream(_) => panic!("{function} streams"),
        }
    }

    pub(crate) async fn call(&self, function: &str, args: Value) -> Value {
        self.try_call(function, args).await.unwrap()
    }

    pub(crate) async fn fails(&self, function: &str, args: Value) -> Problem {
        self.try_call(function, args).await.unwrap_err()
    }

    pub(crate) fn counter(&self, key: &str) -> Value {
        match self.runtime.state_get("sample", key).unwrap() {
            Some((at, cell)) => match cell.view(at) {
                Some(value) => value.to_json(at)["value"].clone(),
                None => Value::Null,
            },
            None => Value::Null,
        }
    }

    pub(crate) fn logged(&self) -> Vec<String> {
        let lines = self.telemetry.logs.query(&LogFilter::default());
        lines.into_iter().map(|line| line.text).collect()
    }

    /// Waits until something holds, or says that it did not.
    pub(crate) async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{what} never came");
    }
}

pub(crate) fn call(function: &str, input: Payload) -> Call {
    Call {
        app: "sample".into(),
        function: function.into(),
        input,
        key: None,
        trace: None,
        caller: Caller {
            tenant: "default".into(),
            subject: "test".into(),
        },
        timeout: None,
        asked: Asked::default(),
    }
}

/// The sample app as a bundle, made as the command line makes it.
pub(crate) fn sample() -> Bytes {
    bundle(&root().join("crates/runtime/tests/apps/sample.py"))
}

pub(crate) fn bundle(file: &Path) -> Bytes {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("bundle.zip");
    let output = std::process::Command::new("python3")
        .args(["-m", "tidemill.deploy"])
        .arg(file)
        .arg("-o")
        .arg(&out)
        .env("PYTHONPATH", root().join("sdk/python"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read(out).unwrap().into()
}

/// A bundle of one module, with a manifest made here.
pub(crate) fn small_bundle(source: &str, functions: &[&str], change: impl Fn(&mut Value)) -> Bytes {
    let version = std::process::Command::new("python3")
        .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        .output()
        .unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let functions: Vec<Value> = functions.iter().map(|name| json!({"name": name})).collect();
    let mut manifest = json!({
        "manifest": 1, "app": "sample",
        "runtime": {"kind": "python", "python": version.trim()},
        "entry": {"kind": "module", "module": "main", "app": "app"},
        "functions": functions,
    });
    change(&mut manifest);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in [
        ("tidemill.json", manifest.to_string()),
        ("main.py", source.to_owned()),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner().into()
}
