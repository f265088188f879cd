//! The processes and files that belong to a node, as the system shows them.

use crate::support::{Node, now, sleep};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where nodes keep sockets and large values.
fn run_bases() -> [PathBuf; 2] {
    [PathBuf::from("/dev/shm"), std::env::temp_dir()]
}

/// What the node with this process id has (or has left) outside its data directory.
pub(crate) fn run_directories(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("tidemill-{pid}-");
    let entries = run_bases()
        .into_iter()
        .filter_map(|base| fs::read_dir(base).ok());
    entries
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

/// Processes that the node with this process id, alive or not, has started: all of them
/// were told its socket.
pub(crate) fn started_by(pid: u32) -> Vec<u32> {
    let mark = format!("/tidemill-{pid}-");
    let entries = fs::read_dir("/proc").expect("there is /proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|process: &u32| *process != pid && !is_zombie(*process))
        .filter(|process| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| {
                let variable = String::from_utf8_lossy(variable);
                variable.starts_with("TIDEMILL_SOCKET=") && variable.contains(&mark)
            })
        })
        .collect()
}

/// The state of a process and its parent.
fn stat(process: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_zombie(process: u32) -> bool {
    stat(process).is_none_or(|(state, _)| state == 'Z')
}

/// Ended children of a process that it has not waited for.
pub(crate) fn zombies_of(parent: u32) -> usize {
    let entries = fs::read_dir("/proc").expect("there is /proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|process| stat(*process) == Some(('Z', parent)))
        .count()
}

/// Files, sockets and pipes that a process has open.
pub(crate) fn open_files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

/// Memory that a process has in use, in KiB.
pub(crate) fn resident_kib(process: u32) -> u64 {
    status_kib(process, "VmRSS")
}

/// What the system says of a process's memory under this name, in KiB.
pub(crate) fn status_kib(process: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Looks for at most so long whether `check` comes true.
pub(crate) fn within(time: Duration, mut check: impl FnMut() -> bool) -> bool {
    let begun = now();
    loop {
        if check() {
            return true;
        }
        if begun.elapsed() > time {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Checks that a node which was killed leaves no process behind.
pub(crate) fn no_orphans(pid: u32) {
    let mut left = Vec::new();
    let gone = within(Duration::from_secs(10), || {
        left = started_by(pid);
        left.is_empty()
    });
    let shown: Vec<String> = left.iter().map(|process| command_line(*process)).collect();
    assert!(gone, "still there: {shown:?}");
}

fn command_line(process: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
    format!("{process} {}", text.replace('\0', " "))
}

impl Node {
    /// Ends the node at once, as a crash would, and gives its process id.
    pub(crate) fn crash(&mut self) -> u32 {
        self.signal("KILL");
        assert_eq!(self.wait(), None);
        self.pid()
    }
}
