//! A node for one test, a plain HTTP client that says exactly what it is told to,
//! and the command line.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidemill");

/// Looks until `what` is there; fails after half a minute.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = look() {
            return found;
        }
        pause();
    }
    panic!("{what} did not come");
}

fn pause() {
    sleep(Duration::from_millis(10));
}

/// Does nothing for a while.
#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for another process"
)]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// The time now, to measure from.
#[expect(clippy::disallowed_methods, reason = "a test measures another process")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// The program with nothing of this process's own settings.
pub(crate) fn program() -> Command {
    clean(Command::new(PROGRAM))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEMILL_") {
            command.env_remove(name);
        }
    }
    command.env_remove("PYTHONPATH").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    program()
        .args(arguments)
        .output()
        .expect("the program runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running node.
pub(crate) struct Node {
    child: Child,
    pub(crate) data: PathBuf,
    pub(crate) address: String,
    pub(crate) token: String,
    _directory: Option<TempDir>,
}

impl Node {
    /// A node on a directory of its own.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// The same, with more arguments and variables.
    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let mut node = Self::start_on(&data, arguments, environment);
        node._directory = Some(directory);
        node
    }

    /// A node on this directory, which stays.
    pub(crate) fn start_on(data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_by(program(), data, arguments, environment)
    }

    /// A node on this directory whose process gets limits from these shell commands.
    pub(crate) fn start_under(limits: &str, data: &Path, environment: &[(&str, &str)]) -> Self {
        let mut shell = clean(Command::new("sh"));
        shell
            .arg("-c")
            .arg(format!("{limits} && exec \"$0\" \"$@\""))
            .arg(PROGRAM);
        Self::start_by(shell, data, &[], environment)
    }

    fn start_by(
        mut program: Command,
        data: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let ready = data.with_extension("ready");
        drop(fs::remove_file(&ready));
        let log = data.with_extension("log");
        let mut child = program
            .arg("up")
            .arg("--data")
            .arg(data)
            .args(["--listen", "127.0.0.1:0", "--ready-file"])
            .arg(&ready)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("the program starts");
        let address = wait_for("the ready file", || {
            if let Some(status) = child.try_wait().expect("a child") {
                let log = fs::read_to_string(&log).unwrap_or_default();
                panic!("the node ended with {status}: {log}");
            }
            let text = fs::read_to_string(&ready).ok()?;
            let node: Value = serde_json::from_str(&text).expect("written whole");
            node["http"].as_str().map(str::to_owned)
        });
        let token = fs::read_to_string(data.join("token")).expect("a token");
        Self {
            child,
            data: data.to_owned(),
            address,
            token: token.trim().to_owned(),
            _directory: None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the node has said on standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits until the process has ended and gives its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let status = wait_for("the node's end", || child.try_wait().expect("a child"));
        status.code()
    }

    /// Asks with the token, and with JSON as content type when there is a body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        let headers = [("Content-Type", "application/json")];
        self.ask_with(
            method,
            path,
            &headers[usize::from(body.is_empty())..],
            body.as_bytes(),
        )
    }

    /// Asks with the token and these headers.
    pub(crate) fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![("Host", "localhost"), ("Authorization", &bearer)];
        all.extend_from_slice(headers);
        self.ask_raw(method, path, &all, body)
    }

    /// Asks with exactly these headers, beside the length.
    pub(crate) fn ask_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut stream = TcpStream::connect(&self.address).expect("the node listens");
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(body).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        Reply::parse(&answer)
    }

    /// Runs a command against this node.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_command(arguments)
            .output()
            .expect("the program runs")
    }

    /// A command against this node, to be run.
    pub(crate) fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).arg("--data").arg(&self.data);
        command
    }

    /// The standard output of a command that must succeed.
    pub(crate) fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        let errors = stderr(&output);
        assert!(
            output.status.success(),
            "{arguments:?}: {errors}\n{}",
            self.log()
        );
        stdout(&output)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.expect("an answer has headers");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if headers
            .get("transfer-encoding")
            .is_some_and(|value| value == "chunked")
        {
            body = unchunk(&body);
        }
        Self {
            status: status
                .and_then(|status| status.parse().ok())
                .expect("a status"),
            headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// Checks that this is the problem of that code in every respect, and gives it.
    pub(crate) fn problem(&self, code: &str) -> Value {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            self.text()
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(
            !problem["detail"].as_str().unwrap_or_default().is_empty(),
            "{problem}"
        );
        let page = problem["type"].as_str().unwrap_or_default();
        let name = page.rsplit('/').next().unwrap_or_default();
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        assert!(
            pages.join(format!("{name}.md")).is_file(),
            "{page} has no page"
        );
        problem
    }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        if size == 0 {
            break;
        }
        out.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    out
}
