//! Directories outside the data directory, for sockets and shared values: made for one
//! life of a node, removed at its end, and swept by the next node if it was killed.

use rustix::process::{Pid, Signal};
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tidemill_lattice::Entropy;

/// The file whose lock says that a directory's node lives. Process ids come back, in a
/// container at each start.
const LOCK: &str = "LOCK";

/// A directory of this node's own.
pub(crate) struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    /// Makes a directory below `base` that nobody else may enter.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn make(base: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes);
        let (pid, random) = (std::process::id(), u64::from_le_bytes(bytes));
        let path = base.join(format!("tidemill-{pid}-{random:016x}"));
        // Under its name only once it is locked: before that it would be swept.
        let unlocked = base.join(format!(".tidemill-{pid}-{random:016x}"));
        DirBuilder::new().mode(0o700).create(&unlocked)?;
        let lock = File::create(unlocked.join(LOCK))?;
        lock.lock()?;
        std::fs::rename(&unlocked, &path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and what is in it.
    pub(crate) fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a directory is left behind");
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes what nodes that are gone have left in `base`, and ends workers of theirs that
/// have not noticed.
pub(crate) fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(owner) else {
            continue;
        };
        let path = entry.path();
        if is_left(&path, pid) {
            end_workers(&path);
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// The process id in a directory's name.
fn owner(name: &str) -> Option<u32> {
    let (pid, random) = name.strip_prefix("tidemill-")?.split_once('-')?;
    let pid = pid.parse().ok()?;
    let whole = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then_some(pid)
}

fn is_left(path: &Path, pid: u32) -> bool {
    match File::open(path.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            !Path::new(&format!("/proc/{pid}")).exists()
        }
        Err(_) => false,
    }
}

/// Ends the processes that were told a socket in this directory.
fn end_workers(directory: &Path) {
    let mark = format!("TIDEMILL_SOCKET={}/", directory.display());
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        if variables.any(|variable| variable.starts_with(mark.as_bytes()))
            && let Some(pid) = Pid::from_raw(pid)
        {
            tracing::warn!(?pid, "a worker of a node that is gone is ended");
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    struct Fixed(u8);

    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    /// A process that has only just begun its program shows an empty environment.
    fn wait_for_environment(pid: u32) {
        let path = format!("/proc/{pid}/environ");
        while std::fs::read(&path).unwrap().is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_a_dead_node_left_goes_and_what_lives_stays() {
        let base = tempfile::tempdir().unwrap();
        let alive = RunDirectory::make(base.path(), &Fixed(1)).unwrap();
        let dead = RunDirectory::make(base.path(), &Fixed(2)).unwrap();
        let other = base.path().join("tidemill-notes");
        std::fs::create_dir(&other).unwrap();
        // It runs as long as its input is open: if the test fails, it ends with the test.
        let mut worker = Command::new("cat")
            .stdin(Stdio::piped())
            .env("TIDEMILL_SOCKET", dead.path().join("workers.sock"))
            .spawn()
            .unwrap();
        wait_for_environment(worker.id());
        // As a kill leaves it: the lock is gone and the directory is there.
        let path = dead.path().to_owned();
        std::fs::rename(&path, base.path().join("kept")).unwrap();
        drop(dead);
        std::fs::rename(base.path().join("kept"), &path).unwrap();
        sweep(base.path());
        assert!(!path.exists());
        assert!(alive.path().exists() && other.exists());
        drop(worker.stdin.take());
        assert_eq!(worker.wait().unwrap().signal(), Some(9), "it was ended");
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
