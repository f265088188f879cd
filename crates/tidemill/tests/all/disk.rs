//! Disks that are full or fail: writes are refused clearly, reads go on, and what was
//! answered is there when the disk is well again.

use crate::support::{Node, Reply};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes a large value and a small one in one commit.
fn write(node: &Node, number: usize, bytes: usize) -> Reply {
    let large = "x".repeat(bytes);
    let body = format!(
        "[{{\"key\": \"v/{number}\", \"op\": \"register.set\", \"value\": \"{large}\"}}, \
         {{\"key\": \"count\", \"op\": \"counter.add\", \"value\": 1}}]"
    );
    node.ask("POST", "/v1/kv/a", &body)
}

fn count(node: &Node) -> u64 {
    let reply = node.ask("GET", "/v1/kv/a/count", "");
    match reply.status {
        200 => reply.json()["value"].as_u64().expect("a count"),
        _ => 0,
    }
}

/// Writes until the disk does not take it, and gives what was answered and the refusal.
fn fill(node: &Node, bytes: usize) -> (BTreeMap<usize, usize>, Reply) {
    let first = usize::try_from(count(node)).expect("few");
    let mut written: BTreeMap<_, _> = (0..first).map(|number| (number, bytes)).collect();
    for number in first..2000 {
        let reply = write(node, number, bytes);
        if reply.status != 200 {
            return (written, reply);
        }
        written.insert(number, bytes);
    }
    panic!("the disk took everything");
}

/// Checks that exactly what was answered can be read.
fn check(node: &Node, written: &BTreeMap<usize, usize>) {
    assert_eq!(count(node), written.len() as u64);
    for (number, bytes) in written {
        let reply = node.ask("GET", &format!("/v1/kv/a/v%2F{number}"), "");
        assert_eq!(
            (reply.status, reply.body.len()),
            (200, bytes + 2),
            "{number}"
        );
    }
    let next = format!("/v1/kv/a/v%2F{}", written.len());
    node.ask("GET", &next, "").problem("unknown-key");
}

#[test]
fn below_the_reserve_writes_are_refused_and_reads_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut node = Node::start_on(&data, &[], &[]);
    assert_eq!(write(&node, 0, 100).status, 200);
    node.crash();
    // More than any disk has.
    let reserve = [("TIDEMILL_STORE_RESERVE_BYTES", "9000000000000000")];
    let mut node = Node::start_on(&data, &[], &reserve);
    for _ in 0..3 {
        write(&node, 1, 100).problem("storage-full");
        check(&node, &BTreeMap::from([(0, 100)]));
    }
    assert_eq!(node.ask("GET", "/readyz", "").status, 200);
    node.crash();
    let node = Node::start_on(&data, &[], &[]);
    assert_eq!(write(&node, 1, 100).status, 200);
    check(&node, &BTreeMap::from([(0, 100), (1, 100)]));
}

/// Lets no write of a process reach beyond so many bytes of a file.
fn limit_files(process: u32, bytes: u64) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let process = Pid::from_raw(process.cast_signed());
    let limit = Rlimit {
        current: Some(bytes),
        maximum: None,
    };
    prlimit(process, Resource::Fsize, limit).expect("limited");
}

#[test]
fn a_disk_that_fails_a_write_loses_nothing_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    // A write beyond the largest size of a file fails instead of ending the process.
    let mut node = Node::start_under("trap '' XFSZ", &data, &[]);
    assert_eq!(write(&node, 0, 100_000).status, 200);
    limit_files(node.pid(), 4 << 20);
    let (written, refused) = fill(&node, 100_000);
    refused.problem("storage-failed");
    for _ in 0..3 {
        write(&node, written.len(), 10).problem("storage-failed");
        check(&node, &written);
    }
    let metrics = node.ask("GET", "/metrics", "").text();
    assert!(metrics.contains("tidemill_store_read_only 1"), "{metrics}");
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
    let mut node = Node::start_on(&data, &[], &[]);
    check(&node, &written);
    assert_eq!(write(&node, written.len(), 10).status, 200);
    node.crash();
    let node = Node::start_on(&data, &[], &[]);
    assert_eq!(count(&node), written.len() as u64 + 1);
}

/// A small disk of its own, in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this process may not mount one.
    fn mount(directory: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(directory).expect("made");
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory)
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then(|| Self(directory.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let directory = tempfile::tempdir().expect("a directory");
    // The usual reserve is what the engine may need at once. Without it the disk itself
    // refuses, which the node gets over when it is started again.
    for (reserve, code) in [("67108864", "storage-full"), ("0", "storage-f")] {
        let Some(disk) = SmallDisk::mount(&directory.path().join(reserve), 320) else {
            // The two tests above need no right to mount.
            println!("no small disk can be mounted here");
            return;
        };
        let ballast = disk.0.join("ballast");
        std::fs::write(&ballast, vec![1; 150 << 20]).expect("written");
        let data = disk.0.join("data");
        let environment = [("TIDEMILL_STORE_RESERVE_BYTES", reserve)];
        let mut node = Node::start_on(&data, &[], &environment);
        let (written, refused) = fill(&node, 500_000);
        let problem = refused.json();
        let told = problem["code"].as_str().unwrap_or_default();
        assert!(told.starts_with(code), "{problem}");
        refused.problem(told);
        check(&node, &written);
        assert!(written.len() > 20, "{}", written.len());
        if reserve != "0" {
            std::fs::remove_file(&ballast).expect("removed");
            let mut last = String::new();
            let taken = crate::processes::within(std::time::Duration::from_secs(10), || {
                let reply = node.ask("PUT", "/v1/kv/b/k", "1");
                last = reply.text();
                reply.status == 200
            });
            assert!(taken, "there is room again: {last}\n{}", node.log());
        }
        node.crash();
        drop(std::fs::remove_file(&ballast));
        let node = Node::start_on(&data, &[], &environment);
        check(&node, &written);
        assert_eq!(write(&node, written.len(), 500_000).status, 200);
        drop(node);
    }
}
