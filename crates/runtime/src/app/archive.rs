//! The zip archive of a deploy: read with suspicion, unpacked beside the others.

use crate::manifest::Manifest;
use bytes::Bytes;
use std::fs;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use tidemill_problem::{Code, Problem};
use zip::ZipArchive;

/// The manifest's name in the archive.
const MANIFEST: &str = "tidemill.json";
/// The most that an archive may unpack to.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// The most entries that it may have.
const ENTRIES_MAX: usize = 50_000;
/// The largest manifest.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

fn bad(detail: impl std::fmt::Display) -> Problem {
    Problem::new(
        Code::BadManifest,
        format!("the bundle cannot be used: {detail}"),
    )
}

fn open(bytes: &Bytes) -> Result<ZipArchive<Cursor<&[u8]>>, Problem> {
    let archive = ZipArchive::new(Cursor::new(&bytes[..]))
        .map_err(|error| bad(format!("it is not a zip archive ({error})")))?;
    if archive.len() > ENTRIES_MAX {
        return Err(bad(format!(
            "{} files, more than {ENTRIES_MAX}",
            archive.len()
        )));
    }
    Ok(archive)
}

/// The manifest of an archive.
pub(crate) fn read_manifest(bytes: &Bytes) -> Result<Manifest, Problem> {
    let mut archive = open(bytes)?;
    let entry = archive
        .by_name(MANIFEST)
        .map_err(|_| bad(format!("there is no {MANIFEST} at its root")))?;
    let mut text = Vec::new();
    entry
        .take(MANIFEST_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(bad)?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(bad(format!(
            "{MANIFEST} is larger than {MANIFEST_BYTES_MAX} bytes"
        )));
    }
    Manifest::parse(&text)
}

/// Unpacks an archive to `directory`, whole or not at all. What is there already
/// is the same archive, since directories are named by content.
pub(crate) fn unpack(bytes: &Bytes, directory: &Path) -> Result<(), Problem> {
    if directory.is_dir() {
        return Ok(());
    }
    let half = directory.with_extension("half");
    let storage = |error: io::Error| {
        Problem::new(
            storage_code(&error),
            format!("cannot unpack the bundle: {error}"),
        )
    };
    match fs::remove_dir_all(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(storage(error)),
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(&half).map_err(storage)?;
    let mut archive = open(bytes)?;
    let mut left = UNPACKED_BYTES_MAX;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(bad)?;
        let name = place(&entry)?;
        let path = half.join(&name);
        if entry.is_dir() {
            fs::create_dir_all(&path).map_err(storage)?;
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(storage)?;
        }
        let mut file = fs::File::create(&path).map_err(storage)?;
        let copied = io::copy(&mut (&mut entry).take(left + 1), &mut file).map_err(storage)?;
        left = left.checked_sub(copied).ok_or_else(|| {
            bad(format!(
                "it unpacks to more than {UNPACKED_BYTES_MAX} bytes"
            ))
        })?;
        if let Some(mode) = entry.unix_mode().filter(|mode| mode & 0o100 != 0) {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(mode & 0o755);
            fs::set_permissions(&path, mode).map_err(storage)?;
        }
    }
    fs::rename(&half, directory).map_err(storage)
}

fn place<R: Read>(entry: &zip::read::ZipFile<'_, R>) -> Result<PathBuf, Problem> {
    let outside = || {
        bad(format!(
            "{:?} would leave the bundle's directory",
            entry.name()
        ))
    };
    if entry.is_symlink() {
        return Err(bad(format!("{:?} is a symbolic link", entry.name())));
    }
    entry.enclosed_name().ok_or_else(outside)
}

fn storage_code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::StorageFull,
        _ => Code::StorageFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    fn archive(files: &[(&str, &[u8])]) -> Bytes {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, body) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(body).unwrap();
        }
        writer.finish().unwrap().into_inner().into()
    }

    #[test]
    fn an_archive_without_a_manifest_is_refused() {
        let problem = read_manifest(&archive(&[("a.py", b"x")])).unwrap_err();
        assert!(problem.detail.contains(MANIFEST), "{}", problem.detail);
        let problem = read_manifest(&Bytes::from_static(b"PK nonsense")).unwrap_err();
        assert!(problem.detail.contains("not a zip"), "{}", problem.detail);
    }

    #[test]
    fn files_are_unpacked_and_none_outside() {
        let keep = tempfile::tempdir().unwrap();
        let target = keep.path().join("app");
        unpack(&archive(&[("a.py", b"x = 1"), ("sub/b.py", b"y")]), &target).unwrap();
        assert_eq!(fs::read(target.join("a.py")).unwrap(), b"x = 1");
        assert_eq!(fs::read(target.join("sub/b.py")).unwrap(), b"y");
        let other = keep.path().join("other");
        let problem = unpack(&archive(&[("../evil.py", b"x")]), &other).unwrap_err();
        assert_eq!(problem.code, Code::BadManifest);
        assert!(!other.exists());
        assert!(!keep.path().join("evil.py").exists());
    }
}
