//! Components inside a node, without HTTP. Prints one line of JSON; `bench/wasm.py` sets the numbers
//! beside one another.
//!
//! - `calls COMPONENT COUNT`: a call of 1 KB by wasmtime alone and by the runtime, warm and in fresh
//!   instances, of one function, of one that calls another, and of a flow of ten; state, too;
//! - `only COMPONENT FUNCTION COUNT`: so many warm calls of one function, for a profiler;
//! - `restart COMPONENT`: a first call after a restart, with compiled code in the cache;
//! - `idle COMPONENT COUNT`: what deployed apps that nobody calls take.

mod edge;
mod raw;

use std::io::{self, Cursor, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use raw::Raw;
use serde_json::{Value as Json, json};
use tidemill_lattice::Payload;
use tidemill_runtime::{Asked, Call, Caller, Output, Runtime};

/// As in the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY_BYTES: usize = 1024;
/// Longer than any measurement: what serves rests warm.
const LONG_MS: u64 = 600_000;
/// Operations on state in one call.
const OPERATIONS: u64 = 1000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().unwrap_or(0);
    let found = match words[..] {
        ["calls", component, count] => calls(Path::new(component), number(count)).await,
        ["only", component, function, count] => {
            only(Path::new(component), function, number(count)).await
        }
        ["restart", component] => restart(Path::new(component)).await,
        ["idle", component, count] => idle(Path::new(component), number(count)).await,
        _ => Err(io::Error::other(
            "usage: tidemill-bench-wasm calls COMPONENT COUNT | only COMPONENT FUNCTION COUNT | restart COMPONENT | idle COMPONENT COUNT",
        )),
    };
    match found {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tidemill-bench-wasm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bundle(app: &str, component: &[u8], idle_ms: u64) -> io::Result<bytes::Bytes> {
    let functions: Vec<Json> = ["echo", "call", "state-loop", "add-loop", "echo-fresh"]
        .into_iter()
        .map(|name| {
            json!({"name": name, "component": "c.wasm", "fresh": name == "echo-fresh",
                "idle_timeout_ms": idle_ms})
        })
        .collect();
    let steps: Vec<Json> = (0..10)
        .map(|id: u64| {
            let input = id.checked_sub(1).map_or(json!("input"), Json::from);
            json!({"id": id, "call": "echo", "in": [input]})
        })
        .collect();
    let manifest = json!({
        "manifest": 1, "app": app, "runtime": {"kind": "wasm"}, "functions": functions,
        "flows": [{"name": "ten", "flow": {"version": 1, "steps": steps, "output": 9}}],
    });
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (name, body) in [
        ("tidemill.json", manifest.to_string().as_bytes()),
        ("c.wasm", component),
    ] {
        zip.start_file(name, options).map_err(io::Error::other)?;
        zip.write_all(body)?;
    }
    Ok(zip.finish().map_err(io::Error::other)?.into_inner().into())
}

async fn deploy(runtime: &Runtime, app: &str, component: &[u8], idle_ms: u64) -> io::Result<()> {
    let deployed = runtime.deploy(app, bundle(app, component, idle_ms)?).await;
    deployed
        .map(|_| ())
        .map_err(|problem| io::Error::other(problem.detail))
}

async fn call(runtime: &Runtime, function: &str, input: Payload) -> io::Result<Payload> {
    let call = Call {
        app: "bench".to_owned(),
        function: function.to_owned(),
        input,
        key: None,
        trace: None,
        caller: Caller {
            tenant: "default".to_owned(),
            subject: "bench".to_owned(),
        },
        timeout: None,
        asked: Asked::default(),
    };
    match runtime.call(call).await.result {
        Ok(Output::Value(value)) => Ok(value),
        Ok(Output::Stream(_)) => Err(io::Error::other("a stream")),
        Err(problem) => Err(io::Error::other(problem.detail)),
    }
}

/// Times of one side, and its median.
#[derive(Default)]
struct Side(Vec<u128>);

impl Side {
    async fn take<T>(&mut self, run: impl Future<Output = io::Result<T>>) -> io::Result<()> {
        let begun = edge::now();
        run.await?;
        self.0.push(begun.elapsed().as_nanos());
        Ok(())
    }

    fn p50_ns(&mut self) -> u64 {
        self.0.sort_unstable();
        self.0.get(self.0.len() / 2).map_or(0, |time| *time as u64)
    }
}

async fn calls(component: &Path, count: u64) -> io::Result<Json> {
    let component = std::fs::read(component)?;
    let directory = tempfile::tempdir()?;
    let runtime = edge::runtime(directory.path()).await?;
    deploy(&runtime, "bench", &component, LONG_MS).await?;
    let raw = Raw::new(&component)?;
    let mut warm = raw.instance().await?;
    let body = vec![b'x'; BODY_BYTES];
    let given = || Payload::bytes(body.clone());
    let nested = || Payload::json(&json!([["echo", "x".repeat(BODY_BYTES)]]));
    let looped = |times: u64| Payload::json(&json!([["key", times]]));
    let fresh = async || raw.instance().await?.call(&body).await;
    let mut sides: [Side; 9] = Default::default();
    for round in 0..count + count / 10 {
        if round == count / 10 {
            // What came before warmed up.
            sides = Default::default();
        }
        let [one, two, three, four, five, six, reads, adds, none] = &mut sides;
        one.take(warm.call(&body)).await?;
        two.take(call(&runtime, "echo", given())).await?;
        three.take(fresh()).await?;
        four.take(call(&runtime, "echo-fresh", given())).await?;
        five.take(call(&runtime, "call", nested())).await?;
        six.take(call(&runtime, "ten", given())).await?;
        if round % 10 == 0 {
            none.take(call(&runtime, "state-loop", looped(0))).await?;
            reads
                .take(call(&runtime, "state-loop", looped(OPERATIONS)))
                .await?;
            adds.take(call(&runtime, "add-loop", looped(OPERATIONS)))
                .await?;
        }
    }
    let [one, two, three, four, five, six, reads, adds, none] = &mut sides;
    let base = none.p50_ns();
    Ok(json!({
        "wasmtime_warm_ns": one.p50_ns(),
        "call_warm_ns": two.p50_ns(),
        "wasmtime_fresh_ns": three.p50_ns(),
        "call_fresh_ns": four.p50_ns(),
        "two_ns": five.p50_ns(),
        "flow_of_ten_ns": six.p50_ns(),
        "read_ns": reads.p50_ns().saturating_sub(base) / OPERATIONS,
        "add_ns": adds.p50_ns().saturating_sub(base) / OPERATIONS,
    }))
}

async fn only(component: &Path, function: &str, count: u64) -> io::Result<Json> {
    let component = std::fs::read(component)?;
    let directory = tempfile::tempdir()?;
    let runtime = edge::runtime(directory.path()).await?;
    deploy(&runtime, "bench", &component, LONG_MS).await?;
    let input = match function {
        "call" => Payload::json(&json!([["echo", "x".repeat(BODY_BYTES)]])),
        _ => Payload::bytes(vec![b'x'; BODY_BYTES]),
    };
    let mut side = Side::default();
    for _ in 0..count {
        side.take(call(&runtime, function, input.clone())).await?;
    }
    Ok(json!({ "call_ns": side.p50_ns() }))
}

async fn restart(component: &Path) -> io::Result<Json> {
    let component = std::fs::read(component)?;
    let directory = tempfile::tempdir()?;
    let (mut first, mut second) = (Side::default(), Side::default());
    for round in 0..6 {
        let runtime = edge::runtime(directory.path()).await?;
        if round == 0 {
            deploy(&runtime, "bench", &component, LONG_MS).await?;
        } else {
            first.take(call(&runtime, "echo", Payload::null())).await?;
        }
        second.take(call(&runtime, "echo", Payload::null())).await?;
        runtime.stop().await;
        drop(runtime);
        // The store lets go of its directory in a moment.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(json!({ "first_ns": first.p50_ns(), "warm_ns": second.p50_ns() }))
}

/// Apps differ in a custom section, so that each has code of its own.
async fn idle(component: &Path, count: u64) -> io::Result<Json> {
    let component = std::fs::read(component)?;
    let directory = tempfile::tempdir()?;
    let runtime = edge::runtime(directory.path()).await?;
    deploy(&runtime, "bench", &component, LONG_MS).await?;
    call(&runtime, "echo", Payload::null()).await?;
    let before = edge::resident_bytes()?;
    for number in 0..count {
        let mut own = component.clone();
        let text = format!("app {number:09}");
        // A custom section: its id, its size, the length of its name, its name.
        own.extend([0, text.len() as u8 + 1, text.len() as u8]);
        own.extend(text.as_bytes());
        deploy(&runtime, &format!("app-{number}"), &own, 1).await?;
    }
    // They let go of their instances and code.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let resting = edge::resident_bytes()?;
    Ok(json!({ "apps": count, "bytes_an_app": resting.saturating_sub(before) / count.max(1) }))
}
