//! `tidemill dev`: deploy on every change, and follow the logs.

use crate::cli::{Deploy, Format, Global, Logs};
use crate::client::Client;
use crate::commands::{deploy, logs};
use crate::failure::Failure;
use crate::source::{self, Bundle};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

/// How often the sources are looked at.
const PERIOD: Duration = Duration::from_millis(300);

/// What is known of a source file: when it was changed, and its length.
type Stamps = BTreeMap<PathBuf, Option<(SystemTime, u64)>>;

/// Runs until the logs end or the process is ended.
pub(crate) fn run(global: &Global, command: &Deploy) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let file = std::path::absolute(&command.file)?;
    let (ended, log_ends) = mpsc::channel();
    let mut following = false;
    let mut sources = Vec::new();
    loop {
        // Taken before the deploy, so that a change during it counts.
        let mut before = stamps(&file, &sources);
        if let Some(bundle) = try_deploy(global, &client, command) {
            sources = bundle.sources;
            if !following {
                follow(global, &bundle.app, ended.clone())?;
                following = true;
            }
        }
        for (path, stamp) in stamps(&file, &sources) {
            before.entry(path).or_insert(stamp);
        }
        loop {
            // Nobody sends but the logs when they end, so this is the pause, too.
            match log_ends.recv_timeout(PERIOD) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            let now = stamps(&file, &sources);
            if now
                .iter()
                .any(|(path, stamp)| before.get(path) != Some(stamp))
            {
                break;
            }
        }
    }
}

/// Deploys; a failure is shown, and the version before keeps serving.
fn try_deploy(global: &Global, client: &Client, command: &Deploy) -> Option<Bundle> {
    let deployed = source::bundle(global, command).and_then(|bundle| {
        let deployed = deploy::send(client, &bundle)?;
        eprintln!("{}", deploy::summary(&deployed));
        Ok(bundle)
    });
    match deployed {
        Ok(bundle) => Some(bundle),
        Err(failure) => {
            failure.report(Format::Table);
            eprintln!("the version before, if any, keeps serving; waiting for a change");
            None
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the command line is the edge; logs are read beside the watch"
)]
fn follow(global: &Global, app: &str, ended: Sender<Result<(), Failure>>) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let format = global.output;
    let command = Logs {
        follow: true,
        app: Some(app.to_owned()),
        limit: Some(0),
        ..Logs::default()
    };
    std::thread::spawn(move || {
        let result = logs::print(&client, format, &command, None);
        // The receiver is gone only when the process is ending.
        drop(ended.send(result));
    });
    Ok(())
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The files that a deploy depends on: the app's file, those of its last bundle,
/// and the Python files beside it, which the next bundle may hold.
fn stamps(file: &Path, sources: &[PathBuf]) -> Stamps {
    let beside = file
        .parent()
        .and_then(|directory| fs::read_dir(directory).ok());
    let beside = beside
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let python = beside.filter(|path| path.extension().is_some_and(|extension| extension == "py"));
    let named = sources.iter().cloned().chain([file.to_owned()]);
    named
        .chain(python)
        .map(|path| (path.clone(), stamp(&path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_their_neighbours_are_watched() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("app.py");
        let data = directory.path().join("data.csv");
        fs::write(&file, "a").expect("written");
        fs::write(&data, "a").expect("written");
        fs::write(directory.path().join("notes.txt"), "a").expect("written");
        let before = stamps(&file, &[]);
        assert_eq!(before.len(), 1);
        assert_eq!(stamps(&file, std::slice::from_ref(&data)).len(), 2);
        fs::write(directory.path().join("more.py"), "a").expect("written");
        assert_eq!(stamps(&file, &[]).len(), 2);
        fs::write(&file, "ab").expect("written");
        assert_ne!(stamps(&file, &[]).get(&file), before.get(&file));
    }
}
