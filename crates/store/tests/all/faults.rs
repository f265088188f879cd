//! Disks that are full or fail: nothing of a failed commit is seen, now or after a restart.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tidemill_store::{Commit, Durability, Embedded, Error, Options, Step, Store};

use crate::support::*;

fn faulty(directory: &Path, disk: &Arc<FaultyDisk>) -> Embedded {
    let disk = Arc::clone(disk);
    let options = Options {
        reserve_bytes: 1_000,
        disk,
        ..options(directory)
    };
    Embedded::open(options, ManualClock::new()).expect("the store opens")
}

fn durable(store: &dyn Store, name: &str, body: &str) -> Commit {
    let at = store.snapshot();
    let deltas = deltas(store, &at, &[set(name, body)]);
    Commit {
        durability: Durability::Durable,
        ..commit(&at, deltas)
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = FaultyDisk::new();
    let store = faulty(directory.path(), &disk);
    write(&store, &[set("a", "1")]);
    disk.set_free_bytes(1_000);
    // The estimate of free space is good for a while; a new store has none.
    drop(store);
    let store = faulty(directory.path(), &disk);
    let refused = try_write(&store, &[set("a", "2")]);
    assert!(
        matches!(
            refused,
            Err(Error::Full {
                free_bytes: 1_000,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    store.checkpoint().expect("the reserve is there for it");
    disk.set_free_bytes(499);
    assert!(matches!(
        store.checkpoint(),
        Err(Error::Full {
            free_bytes: 499,
            ..
        })
    ));
    disk.set_free_bytes(1 << 30);
    write(&store, &[set("a", "3")]);
    drop(store);
    assert_eq!(
        get(&faulty(directory.path(), &disk), "a").as_deref(),
        Some("3")
    );
}

#[test]
fn a_failed_write_has_no_effect_and_stops_writing_but_not_reading() {
    for step in [Step::BeforeAppend, Step::AfterAppend] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = FaultyDisk::new();
        let store = faulty(directory.path(), &disk);
        write_durable(&store, &[set("a", "1"), set("b", "1")]);
        disk.fail_at(step);
        let failed = send(&store, durable(&store, "a", "2"));
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        let refused = send(&store, durable(&store, "b", "2"));
        assert!(
            matches!(refused, Err(Error::ReadOnly { .. })),
            "{refused:?}"
        );
        assert!(matches!(store.checkpoint(), Err(Error::ReadOnly { .. })));
        assert_eq!(get(&store, "a").as_deref(), Some("1"));
        assert!(store.stats().read_only);
        drop(store);
        for round in 2..4 {
            let store = open(directory.path());
            let seen = (get(&store, "a"), get(&store, "b"));
            assert_eq!(
                seen,
                (
                    Some("1".into()),
                    Some(round.to_string())
                        .filter(|_| round > 2)
                        .or(Some("1".into()))
                ),
                "after {step:?}"
            );
            write(&store, &[set("b", &(round + 1).to_string())]);
        }
    }
}

#[test]
fn a_failed_write_that_can_not_be_voided_is_reported_as_unknown() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = FaultyDisk::new();
    let store = faulty(directory.path(), &disk);
    disk.fail_at(Step::AfterAppend);
    disk.fail_at(Step::BeforeFence);
    let failed = send(&store, durable(&store, "a", "1"));
    assert!(matches!(failed, Err(Error::Unknown { .. })), "{failed:?}");
    assert_eq!(get(&store, "a"), None);
}

#[test]
fn a_failed_checkpoint_loses_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = FaultyDisk::new();
    let store = faulty(directory.path(), &disk);
    write(&store, &[set("a", "1")]);
    disk.fail_at(Step::BeforeCheckpoint);
    assert!(matches!(store.checkpoint(), Err(Error::Io { .. })));
    assert!(matches!(
        try_write(&store, &[set("a", "2")]),
        Err(Error::ReadOnly { .. })
    ));
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    drop(store);
    assert_eq!(get(&open(directory.path()), "a").as_deref(), Some("1"));
}

/// The child of the test below: writes until the system refuses, and says how far it came.
fn write_until_refused(directory: &Path) {
    let store = open(directory);
    let body = "x".repeat(3_000);
    for round in 0..100_000_u32 {
        let name = format!("r/{round:05}");
        let outcome = send(&store, durable(&store, &name, &body));
        if let Err(error) = outcome {
            assert_eq!(get(&store, &name), None, "a failed commit is visible");
            assert_eq!(
                get(&store, "r/00000").as_deref(),
                Some(&*body),
                "reads go on"
            );
            println!("\nrefused {round} {error}");
            return;
        }
    }
    println!("\nnever refused");
}

/// A real refusal by the system, not an injected one: a limit on file sizes, set by the shell,
/// which also ignores the signal so that writes fail instead.
#[test]
fn a_write_refused_by_the_system_has_no_effect() {
    const VARIABLE: &str = "TIDEMILL_STORE_LIMITED";
    if let Some(directory) = std::env::var_os(VARIABLE) {
        return write_until_refused(Path::new(&directory));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The journal is laid out on opening, above the limit; reopening cuts it to its content.
    write(&open(directory.path()), &[set("before", "1")]);
    drop(open(directory.path()));
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\""])
        .arg(program)
        .args([
            "faults::a_write_refused_by_the_system_has_no_effect",
            "--exact",
            "--nocapture",
        ])
        .env(VARIABLE, directory.path())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    let refused = said.lines().find_map(|line| line.strip_prefix("refused "));
    let refused = refused.unwrap_or_else(|| panic!("no refusal: {said}{errors}"));
    let round = refused
        .split(' ')
        .next()
        .and_then(|round| round.parse::<usize>().ok());
    let round = round.unwrap_or_else(|| panic!("no number: {refused}"));
    assert!(round > 10, "{refused}");
    let store = open(directory.path());
    let page = store
        .scan(&prefix("r/"), None, 100_000, &store.snapshot())
        .expect("scans");
    assert_eq!(page.entries.len(), round, "acknowledged ones, and no other");
    assert_eq!(get(&store, "before").as_deref(), Some("1"));
}
