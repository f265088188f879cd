//! The files that a node shows to others: its token, and where it listens.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tidemill_lattice::Entropy;

/// The name of the token's file in the data directory.
pub(crate) const TOKEN: &str = "token";
/// The name of the file with what session tokens are signed with.
pub(crate) const SESSION_SECRET: &str = "session-secret";
/// The name of the file that says where the node listens.
pub(crate) const NODE: &str = "node.json";

/// Where a node listens: `node.json`, and the ready file.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct NodeFile {
    /// The address of the HTTP door.
    pub(crate) http: String,
    /// The address of the Redis door.
    pub(crate) redis: Option<String>,
    /// The node's process.
    pub(crate) pid: u32,
}

/// The data directory: as asked for, else `~/.tidemill`.
pub(crate) fn data_directory(asked: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = asked {
        return Ok(std::path::absolute(path)?);
    }
    match std::env::home_dir() {
        Some(home) if !home.as_os_str().is_empty() => Ok(home.join(".tidemill")),
        _ => Err(Failure::Usage(
            "there is no home directory: name a data directory with --data".into(),
        )),
    }
}

/// Creates a directory that only its owner may open, with those above it.
pub(crate) fn create_private(directory: &Path) -> Result<(), Failure> {
    let created = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    created.map_err(|error| at(directory, "cannot be created", &error))
}

fn at(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::Other(format!("{} {what}: {error}", path.display()))
}

/// Writes a file that readers see whole or not at all.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // The reason counts; a leftover that cannot be removed either does no harm.
        drop(fs::remove_file(&temporary));
        at(path, "cannot be written", &error)
    })
}

/// The token of a data directory, if there is one.
pub(crate) fn read_token(data: &Path) -> Result<Option<String>, Failure> {
    let path = data.join(TOKEN);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path, "cannot be read", &error)),
    }
}

/// The token of a data directory; a new one at the first start. The caller holds
/// the directory's lock, so that two nodes cannot each make one.
pub(crate) fn ensure_token(data: &Path, entropy: &dyn Entropy) -> Result<String, Failure> {
    if let Some(token) = read_token(data)? {
        return Ok(token);
    }
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_atomically(&data.join(TOKEN), format!("{token}\n").as_bytes(), 0o600)?;
    Ok(token)
}

/// What a data directory's session tokens are signed with; made at the first start, under the
/// directory's lock.
pub(crate) fn ensure_session_secret(
    data: &Path,
    entropy: &dyn Entropy,
) -> Result<[u8; 32], Failure> {
    let path = data.join(SESSION_SECRET);
    match fs::read(&path) {
        Ok(bytes) => <[u8; 32]>::try_from(bytes).map_err(|_| {
            Failure::Other(format!(
                "{} is not 32 bytes long: remove it, and sessions begin anew",
                path.display()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut secret = [0; 32];
            entropy.fill(&mut secret);
            write_atomically(&path, &secret, 0o600)?;
            Ok(secret)
        }
        Err(error) => Err(at(&path, "cannot be read", &error)),
    }
}

/// Where the node of a data directory listens, as far as it has said.
pub(crate) fn read_node(data: &Path) -> Option<NodeFile> {
    let text = fs::read_to_string(data.join(NODE)).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Counting;

    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::try_from(index).unwrap_or(0);
            }
        }
    }

    #[test]
    fn a_token_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        create_private(&data).expect("created");
        assert_eq!(read_token(&data).expect("readable"), None);
        let token = ensure_token(&data, &Counting).expect("made");
        assert!(token.starts_with("000102"), "{token}");
        assert_eq!(token.len(), 64);
        let mode = fs::metadata(data.join(TOKEN))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let mode = fs::metadata(&data).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(data.join(TOKEN), " mine \n").expect("written");
        assert_eq!(ensure_token(&data, &Counting).expect("kept"), "mine");
        assert_eq!(fs::read_dir(&data).expect("readable").count(), 1);
    }

    #[test]
    fn a_session_secret_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path();
        let secret = ensure_session_secret(data, &Counting).expect("made");
        assert_eq!(secret[..3], [0, 1, 2]);
        let path = data.join(SESSION_SECRET);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, [9; 32]).expect("written");
        assert_eq!(
            ensure_session_secret(data, &Counting).expect("kept"),
            [9; 32]
        );
        fs::write(&path, [9; 31]).expect("written");
        assert!(ensure_session_secret(data, &Counting).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("missing").join("file");
        let failure = write_atomically(&path, b"", 0o600).expect_err("no such directory");
        let Failure::Other(text) = failure else {
            panic!("{failure:?}");
        };
        assert!(text.contains("missing/file cannot be written"), "{text}");
    }
}
