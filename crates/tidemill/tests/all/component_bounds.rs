//! What components may take of a node together: memory, and room on its disk.

use crate::bundle::archive_of;
use crate::components::component;
use crate::processes::{resident_kib, status_kib, within};
use crate::support::{Node, Reply, now};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// From the environment, for the deep tier.
fn count(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The bytes of all files of a directory.
fn directory_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    entries
        .map(|entry| entry.metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

fn manifest(app: &str, function: &Value) -> Value {
    json!({"manifest": 1, "app": app, "runtime": {"kind": "wasm"}, "functions": [function]})
}

/// The component with something in it that makes it another: a custom section.
fn another(component: &[u8], number: usize) -> Vec<u8> {
    let text = format!("{number:08}");
    let mut bytes = component.to_vec();
    // The section's id and length, its name, and what it holds.
    bytes.extend([0, 12, 3]);
    bytes.extend(b"one");
    bytes.extend(text.as_bytes());
    bytes
}

fn call(node: &Node, app: &str) -> Reply {
    node.ask("POST", &format!("/v1/call/{app}/echo"), "[7]")
}

#[test]
fn the_code_of_many_different_components_is_bounded_on_disk_and_in_memory() {
    let deploys = count("TIDEMILL_DEPLOYS", 60);
    // About a third of them fit.
    let compiled_bytes = (deploys as u64 * 8) << 10;
    let limit = compiled_bytes.to_string();
    let settings = [
        ("TIDEMILL_RUNTIME_LIMITS_COMPILED_BYTES", limit.as_str()),
        ("TIDEMILL_RUNTIME_LIMITS_INSTANCES", "50"),
    ];
    let node = Node::start_with(&[], &settings);
    let echo = fs::read(component("echo.wasm")).expect("a component");
    let function = json!({"name": "echo", "component": "f.wasm", "idle_timeout_ms": 2000});
    let deploy = |number: usize| {
        let app = format!("app-{number}");
        let file = another(&echo, number);
        let archive = archive_of(&manifest(&app, &function), &[("f.wasm", &file)]);
        let reply = node.put_app(&app, &archive);
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    deploy(0);
    let before = resident_kib(node.pid());
    let begun = now();
    for number in 1..deploys {
        deploy(number);
    }
    let took = begun.elapsed();
    let compiled = node.data.join("compiled");
    let held = directory_bytes(&compiled);
    assert!(held <= compiled_bytes, "{held} bytes of {compiled_bytes}");
    let deployed = resident_kib(node.pid());
    // The first ones' code is nowhere any more, the last ones' in memory.
    for number in (0..deploys).step_by(deploys / 20) {
        let reply = call(&node, &format!("app-{number}"));
        assert_eq!((reply.status, reply.text().as_str()), (200, "7"));
    }
    let metrics = || node.ask("GET", "/metrics", "").text();
    let rests = || metrics().contains("tidemill_instances{");
    assert!(rests());
    assert!(
        within(Duration::from_secs(20), || !rests()),
        "{}",
        metrics()
    );
    let idle = resident_kib(node.pid());
    println!(
        "{deploys} deploys in {took:?}: {before} KiB before, {deployed} KiB after, {idle} KiB at rest, \
         {} bytes a function; {held} bytes of compiled code on disk",
        (idle.saturating_sub(before) << 10) / deploys as u64
    );
    let allowed = (compiled_bytes >> 10) + (64 << 10) + 24 * deploys as u64;
    assert!(
        deployed <= before + allowed,
        "{before} KiB, then {deployed}"
    );
    assert_eq!(call(&node, "app-0").text(), "7");
}

#[test]
fn a_huge_result_is_refused_and_its_memory_given_back() {
    // The memory that the function may have, and a result just below it.
    let mebibytes = count("TIDEMILL_HUGE_MIB", 256);
    let node = Node::start();
    let function = json!({"name": "big", "component": "f.wasm", "memory_bytes": mebibytes << 20});
    let file = fs::read(component("fixture.wasm")).expect("a component");
    let archive = archive_of(&manifest("shop", &function), &[("f.wasm", &file)]);
    assert_eq!(node.put_app("shop", &archive).status, 200);
    let big = |bytes: usize| node.ask("POST", "/v1/call/shop/big", &format!("[{bytes}]"));
    let whole = big(1 << 20);
    assert_eq!(
        whole.body.len(),
        1 << 20,
        "{}",
        &whole.text()[..100.min(whole.body.len())]
    );
    let before = resident_kib(node.pid());
    big((mebibytes - 8) << 20).problem("payload-too-large");
    let most = status_kib(node.pid(), "VmHWM");
    // The guest has its memory; of what it gave nothing was copied.
    let allowed = (mebibytes as u64 + 32) << 10;
    assert!(most <= before + allowed, "{before} KiB, then {most}");
    big((mebibytes + 8) << 20).problem("out-of-memory");
    big(3 << 29).problem("out-of-memory");
    let after = || resident_kib(node.pid());
    let given_back = || after() <= before + (32 << 10);
    assert!(
        within(Duration::from_secs(10), given_back),
        "{before} KiB, then {}",
        after()
    );
    assert!(status_kib(node.pid(), "VmHWM") <= before + allowed);
    assert_eq!(big(10).text(), "xxxxxxxxxx");
}
