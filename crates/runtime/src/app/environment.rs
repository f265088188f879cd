//! Requirements, installed once by content hash with the interpreter's own pip.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tidemill_problem::{Code, Problem};
use tokio::process::Command;

/// How long installing may take.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(900);
/// How much of the installer's output goes into an error.
const OUTPUT_BYTES_MAX: usize = 4000;

/// The environments of a node.
pub(crate) struct Environments {
    directory: PathBuf,
    python: PathBuf,
    // One installation at a time: two apps often want the same one.
    installing: tokio::sync::Mutex<()>,
}

/// The interpreter's version, such as `3.11`.
pub(crate) async fn python_version(python: &Path) -> Result<String, Problem> {
    let failed = |detail: String| {
        Problem::new(
            Code::EnvironmentFailed,
            format!(
                "the Python interpreter {} cannot be used: {detail}; name another with --python",
                python.display()
            ),
        )
    };
    let output = Command::new(python)
        .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !version.is_empty() {
        Ok(version)
    } else {
        Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}

impl Environments {
    pub(crate) fn new(directory: PathBuf, python: PathBuf) -> Self {
        Self {
            directory,
            python,
            installing: tokio::sync::Mutex::new(()),
        }
    }

    /// The directory that holds these requirements, installing them if need be.
    /// `None` when there are none.
    pub(crate) async fn ensure(
        &self,
        python_version: &str,
        requirements: &[String],
    ) -> Result<Option<PathBuf>, Problem> {
        if requirements.is_empty() {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        hash.update(python_version);
        for requirement in requirements {
            hash.update([0]);
            hash.update(requirement);
        }
        let name: String = hash.finalize()[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let directory = self.directory.join(name);
        let _one = self.installing.lock().await;
        if !directory.is_dir() {
            self.install(requirements, &directory).await?;
        }
        Ok(Some(directory))
    }

    async fn install(&self, requirements: &[String], directory: &Path) -> Result<(), Problem> {
        let failed = |detail: String| Problem::new(Code::EnvironmentFailed, detail);
        let io = |error: std::io::Error| failed(format!("cannot make an environment: {error}"));
        let half = directory.with_extension("half");
        let _ = tokio::fs::remove_dir_all(&half).await;
        tokio::fs::create_dir_all(&half).await.map_err(io)?;
        tracing::info!(?requirements, "installing");
        let run = Command::new(&self.python)
            .args([
                "-m",
                "pip",
                "install",
                "--no-input",
                "--disable-pip-version-check",
            ])
            .args(["--quiet", "--no-warn-script-location", "--target"])
            .arg(&half)
            .arg("--")
            .args(requirements)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(INSTALL_TIMEOUT, run)
            .await
            .map_err(|_| failed("installing the requirements took too long".to_owned()))?
            .map_err(io)?;
        if !output.status.success() {
            let _ = tokio::fs::remove_dir_all(&half).await;
            let text = String::from_utf8_lossy(&output.stderr);
            let tail = text.len().saturating_sub(OUTPUT_BYTES_MAX);
            let tail = (tail..=text.len())
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0);
            return Err(failed(format!(
                "pip could not install {}: {}",
                requirements.join(", "),
                text[tail..].trim()
            )));
        }
        tokio::fs::rename(&half, directory).await.map_err(io)
    }
}
