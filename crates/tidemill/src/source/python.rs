//! From a Python file to a bundle: runs the user's interpreter with the SDK.

use super::Bundle;
use crate::cli::{Deploy, Global, Up};
use crate::client::data_directory;
use crate::failure::Failure;
use crate::{sdk, settings};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Makes the bundle. What Python prints goes to standard error as it comes.
pub(super) fn bundle(global: &Global, command: &Deploy) -> Result<Bundle, Failure> {
    let data = data_directory(global)?;
    let python = match &command.python {
        Some(python) => python.clone(),
        None => {
            let loaded = settings::load(&data, global.config.as_deref(), &Up::default())?;
            loaded.settings.runtime.python
        }
    };
    let directory = tempfile::tempdir()?;
    let output = directory.path().join("bundle.zip");
    let mut target = OsString::from(&command.file);
    if let Some(attribute) = &command.app {
        target.push(":");
        target.push(attribute);
    }
    let mut process = Command::new(&python);
    process
        .args(["-m", "tidemill.deploy"])
        .arg(target)
        .arg("-o")
        .arg(&output)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if !has_sdk(&python)? {
        process.env("PYTHONPATH", python_path(&sdk::unpack(&data)?)?);
    }
    let status = process
        .status()
        .map_err(|error| cannot_run(&python, &error))?;
    if !status.success() {
        return Err(Failure::Other(format!(
            "{} could not make a bundle of {} ({status})",
            python.display(),
            command.file.display()
        )));
    }
    let archive = std::fs::read(&output)?;
    let (app, names) = contents(&output)?;
    let root = root_of(&command.file)?;
    Ok(Bundle {
        app,
        archive,
        sources: names
            .iter()
            .map(|name| root.join(name))
            .filter(|path| path.is_file())
            .collect(),
    })
}

fn cannot_run(python: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!(
        "the interpreter {} cannot be run: {error}; name another with --python",
        python.display()
    ))
}

/// Whether the interpreter has the SDK itself. It is asked from the root directory,
/// so that a folder called `tidemill` beside the user is not taken for it.
fn has_sdk(python: &Path) -> Result<bool, Failure> {
    let probe = "import importlib.util, sys; \
                 spec = importlib.util.find_spec('tidemill'); \
                 sys.exit(0 if spec is not None and spec.origin else 1)";
    let python = std::path::absolute(python)
        .ok()
        .filter(|path| path.is_file())
        .unwrap_or_else(|| python.to_owned());
    let status = Command::new(&python)
        .args(["-c", probe])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| cannot_run(&python, &error))?;
    Ok(status.success())
}

fn python_path(sdk: &Path) -> Result<OsString, Failure> {
    let held = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let paths = std::iter::once(sdk.to_owned()).chain(std::env::split_paths(&held));
    std::env::join_paths(paths)
        .map_err(|error| Failure::Usage(format!("PYTHONPATH cannot be extended: {error}")))
}

/// The app's name and the names of the files in a bundle.
fn contents(archive: &Path) -> Result<(String, Vec<String>), Failure> {
    let broken = |cause: String| Failure::Other(format!("the bundle cannot be read: {cause}"));
    let mut zip =
        zip::ZipArchive::new(File::open(archive)?).map_err(|error| broken(error.to_string()))?;
    let names: Vec<String> = zip.file_names().map(str::to_owned).collect();
    let manifest = zip
        .by_name("tidemill.json")
        .map_err(|error| broken(error.to_string()))?;
    let manifest: serde_json::Value =
        serde_json::from_reader(manifest).map_err(|error| broken(error.to_string()))?;
    let app = manifest["app"].as_str().unwrap_or_default().to_owned();
    if app.is_empty() {
        return Err(broken("its manifest names no app".to_owned()));
    }
    Ok((app, names))
}

/// The directory that the bundle's names are relative to: above the packages that
/// the file is in.
fn root_of(file: &Path) -> Result<PathBuf, Failure> {
    let file = std::path::absolute(file)?;
    let mut root = file.parent().unwrap_or(Path::new("/"));
    while root.join("__init__.py").is_file() {
        let Some(parent) = root.parent() else { break };
        root = parent;
    }
    Ok(root.to_owned())
}
