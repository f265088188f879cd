//! A look at the engine's lists of files before the engine opens them.
//!
//! For each keyspace the engine keeps a file `current` with the number and the checksum of the
//! file that lists its tables, and reads the number only. A list with a wrong bit can leave out
//! a table or its newest entries, and older values would be served. So the checksum is compared
//! here.
//!
//! It knows where lsm-tree 3 keeps these files, and not what is in the list.

use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

/// A list that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) file: PathBuf,
    pub(crate) cause: String,
}

/// Compares every keyspace's list with its checksum.
pub(crate) fn check(engine: &Path) -> io::Result<Option<Damage>> {
    let entries = match std::fs::read_dir(engine.join("keyspaces")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return missing(engine),
        entries => entries?,
    };
    for entry in entries {
        let keyspace = entry?.path();
        if let Some(damage) = check_one(&keyspace)? {
            return Ok(Some(damage));
        }
    }
    Ok(None)
}

/// An engine that was there has its keyspaces; without its marker it would begin anew.
fn missing(engine: &Path) -> io::Result<Option<Damage>> {
    let begun = engine.join("version").try_exists()?;
    Ok(begun.then(|| Damage {
        file: engine.join("keyspaces"),
        cause: "it is missing".to_owned(),
    }))
}

fn check_one(keyspace: &Path) -> io::Result<Option<Damage>> {
    let damage = |file: PathBuf, cause: &str| {
        Ok(Some(Damage {
            file,
            cause: cause.to_owned(),
        }))
    };
    let current = keyspace.join("current");
    let bytes = match std::fs::read(&current) {
        // Its creation was cut short and the engine makes it again, unless there are tables.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return match holds_tables(keyspace)? {
                true => damage(current, "it is missing"),
                false => Ok(None),
            };
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        bytes => bytes?,
    };
    let Ok(bytes) = <[u8; 25]>::try_from(bytes) else {
        return damage(current, "it has the wrong length");
    };
    let (number, rest) = bytes.split_at(8);
    let number = number
        .iter()
        .rev()
        .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (checksum, kind) = rest.split_at(16);
    if kind != [0] {
        return damage(current, "its kind of checksum is not known");
    }
    let list = keyspace.join(format!("v{number}"));
    match std::fs::read(&list) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => damage(list, "it is missing"),
        Err(e) => Err(e),
        Ok(content) if xxh3_128(&content).to_le_bytes() == checksum => Ok(None),
        Ok(_) => damage(list, "it does not have the checksum that `current` names"),
    }
}

fn holds_tables(keyspace: &Path) -> io::Result<bool> {
    match std::fs::read_dir(keyspace.join("tables")) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
