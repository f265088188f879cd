//! The Python SDK that the program carries, so that workers need no installation.

use crate::failure::Failure;
use crate::files;
use include_dir::{Dir, DirEntry, File, include_dir};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

static SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/python/tidemill");

/// The sources, sorted; what an interpreter left beside them stays out.
fn sources() -> Vec<&'static File<'static>> {
    fn walk(directory: &'static Dir<'static>, found: &mut Vec<&'static File<'static>>) {
        for entry in directory.entries() {
            match entry {
                DirEntry::Dir(directory) => walk(directory, found),
                DirEntry::File(file) => {
                    let extension = file.path().extension().unwrap_or_default();
                    let marker = file
                        .path()
                        .file_name()
                        .is_some_and(|name| name == "py.typed");
                    if extension == "py" || marker {
                        found.push(file);
                    }
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(&SDK, &mut found);
    found.sort_by_key(|file| file.path());
    found
}

fn hash(sources: &[&File<'_>]) -> String {
    let mut hasher = Sha256::new();
    for file in sources {
        let path = file.path().to_string_lossy();
        hasher.update((path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update((file.contents().len() as u64).to_le_bytes());
        hasher.update(file.contents());
    }
    let digest = hasher.finalize();
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The directory that holds the package `tidemill`: `<data>/sdk/<hash>`. It is
/// unpacked when it is not there; others see it whole or not at all.
pub(crate) fn unpack(data: &Path) -> Result<PathBuf, Failure> {
    let sources = sources();
    let parent = data.join("sdk");
    let directory = parent.join(hash(&sources));
    if directory.is_dir() {
        return Ok(directory);
    }
    files::create_private(&parent)?;
    let temporary = parent.join(format!(".unpacking-{}", std::process::id()));
    let failed = |error: io::Error| {
        let place = directory.display();
        Failure::Other(format!(
            "the Python SDK cannot be unpacked to {place}: {error}"
        ))
    };
    write_all(&sources, &temporary.join("tidemill")).map_err(failed)?;
    let renamed = fs::rename(&temporary, &directory);
    if renamed.is_err() && directory.is_dir() {
        // Another process was faster, with the same content.
        drop(fs::remove_dir_all(&temporary));
        return Ok(directory);
    }
    renamed.map_err(failed)?;
    Ok(directory)
}

fn write_all(sources: &[&File<'_>], package: &Path) -> io::Result<()> {
    for file in sources {
        let path = package.join(file.path());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, file.contents())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_unpacked_once_and_whole() {
        let data = tempfile::tempdir().expect("a directory");
        let first = unpack(data.path()).expect("unpacked");
        for name in ["worker.py", "deploy.py", "py.typed"] {
            assert!(first.join("tidemill").join(name).is_file(), "{name}");
        }
        assert!(!first.join("tidemill/__pycache__").exists());
        fs::write(first.join("mark"), "").expect("written");
        assert_eq!(unpack(data.path()).expect("there"), first);
        assert!(first.join("mark").exists());
        let entries = fs::read_dir(data.path().join("sdk")).expect("readable");
        assert_eq!(entries.count(), 1);
    }
}
