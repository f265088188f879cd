//! Bits that flip and writes that break off: a store gives right values or says that it is
//! damaged, never anything else.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fjall::{Database, KeyspaceCreateOptions};
use tidemill_store::{Embedded, Error, Report, Store, verify};

use crate::support::*;

/// What the store of [`template`] holds.
type Model = BTreeMap<String, String>;

/// A store with values in tables and in the journal, some of them in both.
fn template(directory: &Path) -> Model {
    let mut model = Model::new();
    let mut put = |store: &Embedded, name: String, body: String| {
        write(store, &[set(&name, &body)]);
        model.insert(name, body);
    };
    let store = open(directory);
    for i in 0..400 {
        put(&store, format!("a/{i:04}"), format!("{i}").repeat(40));
    }
    store.checkpoint().expect("checkpoints");
    drop(store);
    flush(directory);
    let store = open(directory);
    for i in (0..400).step_by(7) {
        put(&store, format!("a/{i:04}"), format!("new {i}"));
    }
    store.checkpoint().expect("checkpoints");
    for i in 0..20 {
        put(&store, format!("b/{i:04}"), format!("{i} ").repeat(300));
    }
    drop(store);
    // Opened once more, so that the journal is cut to its content.
    drop(open(directory));
    model
}

/// Makes tables of what is in memory.
fn flush(directory: &Path) {
    let database = Database::builder(directory.join("engine"))
        .open()
        .expect("the engine opens");
    for name in ["data", "log", "outbox", "meta"] {
        let keyspace = database
            .keyspace(name, KeyspaceCreateOptions::default)
            .expect("is there");
        keyspace.rotate_memtable_and_wait().expect("flushes");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// The files below a directory with something in them, relative to it.
fn files(directory: &Path, below: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory.join(below))
        .expect("lists")
        .map(|entry| entry.expect("an entry"))
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            files(directory, &path, out);
        } else if entry.metadata().expect("its size").len() > 0 && entry.file_name() != "LOCK" {
            out.push(path);
        }
    }
}

/// Opens and reads everything. `true` if all of it is right, `false` if damage was reported.
fn read_all(directory: &Path, model: &Model) -> bool {
    let corrupt = |error: &Error| {
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        false
    };
    let store = match Embedded::open(options(directory), ManualClock::new()) {
        Ok(store) => store,
        Err(error) => return corrupt(&error),
    };
    let at = store.snapshot();
    let mut right = true;
    for (name, body) in model {
        match store.read_at(&key(name), &at) {
            Ok(cell) => {
                let shown = cell.and_then(|cell| show(&cell, &at));
                assert_eq!(shown.as_ref(), Some(body), "the value of {name}");
            }
            Err(error) => right = corrupt(&error),
        }
    }
    match store.scan(b"", None, 10_000, &at) {
        Ok(page) => {
            let names: Vec<_> = page
                .entries
                .iter()
                .map(|(key, _)| key.name_lossy())
                .collect();
            assert!(names.iter().eq(model.keys()), "the scan lists {names:?}");
        }
        Err(error) => right = corrupt(&error),
    }
    right
}

fn look(directory: &Path) -> Report {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    verify(directory, scratch.path()).expect("nobody has it open")
}

fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn a_flipped_bit_gives_right_values_or_an_error() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let (whole, broken) = (keep.path().join("whole"), keep.path().join("broken"));
    let model = template(&whole);
    assert!(look(&whole).is_whole(), "{:?}", look(&whole));
    let mut names = Vec::new();
    files(&whole, Path::new(""), &mut names);
    let mut state = count("TIDEMILL_SEED", 7) as u64;
    let mut random = || {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut found = 0;
    let flips = count("TIDEMILL_FLIPS", 60);
    for turn in 0..flips {
        // The journal is large and has the least checksums of the engine.
        let journal = names.iter().find(|name| name.extension().is_some());
        let any = &names[turn % names.len()];
        let name = journal.filter(|_| turn % 3 == 0).unwrap_or(any);
        copy(&whole, &broken);
        let path = broken.join(name);
        let mut bytes = fs::read(&path).expect("reads");
        let bit = random() % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).expect("writes");
        let place = format!("bit {bit} of {} ({} bytes)", name.display(), bytes.len());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let report = look(&broken);
            let right = read_all(&broken, &model);
            assert!(
                right || !report.is_whole(),
                "verify finds nothing where reading does: {report:?}"
            );
            !right
        }));
        match outcome {
            Ok(damaged) => found += usize::from(damaged),
            Err(_) => panic!("{place}: see above"),
        }
        fs::remove_dir_all(&broken).expect("removes");
    }
    assert!(
        found > flips / 4,
        "only {found} of {flips} flips were found"
    );
}

/// The largest table of a store.
fn table(directory: &Path) -> PathBuf {
    let mut names = Vec::new();
    files(directory, Path::new(""), &mut names);
    let tables = names
        .into_iter()
        .filter(|name| name.parent().is_some_and(|p| p.ends_with("tables")));
    let path = |name: PathBuf| directory.join(name);
    let size = |path: &PathBuf| fs::metadata(path).expect("its size").len();
    tables.map(path).max_by_key(size).expect("a table")
}

#[test]
fn damaged_values_are_told_by_the_keys_around_them() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let directory = keep.path().join("store");
    let mut model = template(&directory);
    model.retain(|name, _| name.starts_with("a/"));
    let path = table(&directory);
    let mut bytes = fs::read(&path).expect("reads");
    let length = bytes.len();
    bytes[length / 5] ^= 4;
    bytes[length * 3 / 5] ^= 4;
    fs::write(&path, bytes).expect("writes");
    let report = look(&directory);
    let ranges: Vec<_> = report
        .damages
        .iter()
        .filter_map(|d| d.range.clone())
        .collect();
    assert_eq!((ranges.len(), report.damages.len()), (2, 2), "{report:?}");
    let inside = |name: &str| {
        let name = key(name);
        ranges.iter().position(|range| {
            range.after.as_ref().is_none_or(|after| *after < name)
                && range.before.as_ref().is_none_or(|before| name < *before)
        })
    };
    let store = open(&directory);
    let at = store.snapshot();
    let mut unreadable = [0, 0];
    for name in model.keys() {
        match (store.read_at(&key(name), &at), inside(name)) {
            (Err(Error::Corrupt { place, .. }), Some(range)) => {
                assert!(place.contains(name), "{place} is not {name}");
                unreadable[range] += 1;
            }
            (Ok(_), _) => {}
            (read, range) => panic!("{name} in range {range:?}: {read:?}"),
        }
    }
    for (range, unreadable) in ranges.iter().zip(unreadable) {
        assert!(
            (1..150).contains(&unreadable),
            "{unreadable} keys in {range}"
        );
        for around in [&range.after, &range.before].into_iter().flatten() {
            assert!(store.read_at(around, &at).is_ok(), "{around:?}");
        }
    }
    let scan = store.scan(b"", None, 10_000, &at);
    assert!(matches!(scan, Err(Error::Corrupt { .. })), "{scan:?}");
    let mut out = Vec::new();
    assert!(
        store.backup(&mut out).is_err(),
        "it is no backup of what can not be read"
    );
}

/// The only journal of a store.
fn journal(directory: &Path) -> PathBuf {
    let mut names = Vec::new();
    files(directory, Path::new(""), &mut names);
    let journals: Vec<_> = names
        .into_iter()
        .filter(|name| name.extension().is_some_and(|extension| extension == "jnl"))
        .collect();
    let [name] = &journals[..] else {
        panic!("{journals:?}")
    };
    directory.join(name)
}

#[test]
fn a_torn_journal_loses_its_end_and_nothing_else() {
    const COMMITS: usize = 12;
    let keep = tempfile::tempdir().expect("a temporary directory");
    let (whole, broken) = (keep.path().join("whole"), keep.path().join("broken"));
    drop(open(&whole));
    let store = open(&whole);
    for i in 0..COMMITS {
        write_durable(
            &store,
            &[set(&format!("{i:02}"), &"x".repeat(700)), add("n", 1)],
        );
    }
    drop(store);
    let bytes = fs::read(journal(&whole)).expect("reads");
    let step = (bytes.len() / count("TIDEMILL_TEARS", 24)).max(1);
    let mut last = 0;
    for length in (0..=bytes.len()).step_by(step) {
        // Cut off, and never written into what was laid out ahead.
        for filled in [false, true] {
            copy(&whole, &broken);
            let mut torn = bytes[..length].to_vec();
            torn.resize(if filled { bytes.len() } else { length }, 0);
            fs::write(
                journal(&whole).to_string_lossy().replace("whole", "broken"),
                torn,
            )
            .expect("writes");
            let report = look(&broken);
            assert!(report.is_whole(), "at {length}: {report:?}");
            let store = open(&broken);
            let at = store.snapshot();
            let there = (0..COMMITS).filter(|i| get_at(&store, &format!("{i:02}"), &at).is_some());
            let there: Vec<_> = there.collect();
            assert!(
                there.iter().copied().eq(0..there.len()),
                "at {length}: {there:?}"
            );
            assert_eq!(number(&store, "n", &at), there.len() as i64);
            assert!(
                there.len() >= last,
                "at {length}: {} after {last}",
                there.len()
            );
            last = there.len();
            write(&store, &[set("next", "1")]);
            drop(store);
            assert_eq!(get(&open(&broken), "next").as_deref(), Some("1"));
            fs::remove_dir_all(&broken).expect("removes");
        }
    }
    assert!(last >= COMMITS - 1, "only {last}");
}

#[test]
fn a_page_that_never_reached_the_disk_is_a_torn_end() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    drop(open(keep.path()));
    let store = open(keep.path());
    write(&store, &[set("a", "1")]);
    drop(store);
    let begin = fs::read(journal(keep.path())).expect("reads").len();
    let store = open(keep.path());
    // Not to be compressed.
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b' ' + (state >> 24) as u8 % 90)
    };
    let large: String = (0..40_000).map(|_| random()).collect();
    write(&store, &[set("b", &large)]);
    drop(store);
    let path = journal(keep.path());
    let mut bytes = fs::read(&path).expect("reads");
    let page = (begin + 2 * 4096) / 4096 * 4096;
    bytes[page..page + 4096].fill(0);
    fs::write(&path, bytes).expect("writes");
    let report = look(keep.path());
    assert!(report.is_whole() && report.torn.len() == 1, "{report:?}");
    let store = open(keep.path());
    assert_eq!(get(&store, "a").as_deref(), Some("1"));
    assert_eq!(get(&store, "b"), None);
}

#[test]
fn a_damaged_fence_stops_the_opening() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    write(&open(keep.path()), &[set("a", "1")]);
    let path = keep.path().join("FENCE");
    for (bytes, refused) in [
        (&[0, 0, 4][..], true),
        (b"void1234", false),
        (b"voi", false),
        (b"wood", true),
        (b"", false),
    ] {
        let mut fence = bytes.to_vec();
        fence.resize(24, 0);
        fs::write(&path, fence).expect("writes");
        let opened = Embedded::open(options(keep.path()), ManualClock::new());
        let corrupt =
            matches!(&opened, Err(Error::Corrupt { place, .. }) if place.contains("FENCE"));
        assert_eq!(corrupt, refused, "{bytes:?}: {:?}", opened.as_ref().err());
        drop(opened);
        assert_eq!(look(keep.path()).is_whole(), !refused);
    }
}
