//! Bundles made by hand, as a program other than the SDK would make them.

use crate::support::{Node, Reply};
use serde_json::{Value, json};
use std::io::{Cursor, Write};
use std::process::Command;
use std::sync::OnceLock;
use zip::write::SimpleFileOptions;

/// An archive with a manifest and executable files.
pub(crate) fn archive(manifest: &Value, files: &[(&str, &str)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, body)| (*name, body.as_bytes()))
        .collect();
    archive_of(manifest, &files)
}

/// The same, of files of any bytes.
pub(crate) fn archive_of(manifest: &Value, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().unix_permissions(0o755);
    let text = manifest.to_string();
    for (name, body) in files.iter().chain(&[("tidemill.json", text.as_bytes())]) {
        writer.start_file(*name, options).expect("a file");
        writer.write_all(body).expect("written");
    }
    writer.finish().expect("an archive").into_inner()
}

/// The version of the Python that nodes find.
fn python_version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let print = "import sys; print('%d.%d' % sys.version_info[:2])";
        let output = Command::new("python3").args(["-c", print]).output();
        let output = output.expect("there is a Python");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// The bundle of a Python app in one module of the app's name.
pub(crate) fn python(app: &str, source: &str, functions: &Value) -> Vec<u8> {
    let manifest = json!({
        "manifest": 1, "app": app, "functions": functions,
        "runtime": {"kind": "python", "python": python_version()},
        "entry": {"kind": "module", "module": app, "app": "app"},
    });
    archive(&manifest, &[(&format!("{app}.py"), source)])
}

/// The bundle of a program that is a worker.
pub(crate) fn program(app: &str, source: &str, arguments: &[&str], functions: &Value) -> Vec<u8> {
    let command: Vec<&str> = [&["./worker"], arguments].concat();
    let manifest = json!({
        "manifest": 1, "app": app, "functions": functions,
        "runtime": {"kind": "command", "command": command},
        "entry": {"kind": "module", "module": "none"},
    });
    archive(&manifest, &[("worker", source)])
}

impl Node {
    /// Deploys an archive, whatever comes of it.
    pub(crate) fn put_app(&self, app: &str, archive: &[u8]) -> Reply {
        let zip = [("Content-Type", "application/zip")];
        self.ask_with("PUT", &format!("/v1/apps/{app}"), &zip, archive)
    }

    /// Deploys an archive that must be taken.
    pub(crate) fn deploy(&self, app: &str, archive: &[u8]) {
        let reply = self.put_app(app, archive);
        assert_eq!(reply.status, 200, "{}\n{}", reply.text(), self.log());
    }

    /// Calls a function with JSON arguments.
    pub(crate) fn call(&self, app: &str, function: &str, arguments: &Value) -> Reply {
        let path = format!("/v1/call/{app}/{function}");
        self.ask("POST", &path, &arguments.to_string())
    }
}

/// Keeps calling a function from another thread while `during` runs; each call must be
/// answered.
pub(crate) fn meanwhile<T>(
    node: &Node,
    app: &str,
    function: &str,
    arguments: &Value,
    during: impl FnOnce() -> T,
) -> T {
    use std::sync::atomic::{AtomicBool, Ordering};
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) || calls == 0 {
                let reply = node.call(app, function, arguments);
                assert_eq!(reply.status, 200, "call {calls}: {}", reply.text());
                calls += 1;
                crate::support::sleep(std::time::Duration::from_millis(5));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        stop.store(true, Ordering::Relaxed);
        caller.join().expect("others are served meanwhile");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
