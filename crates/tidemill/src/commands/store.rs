//! `tidemill store`

use crate::cli::{Format, Global, Store};
use crate::client::{Client, broke_off};
use crate::failure::Failure;
use crate::files;
use crate::output;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemill_store::backup::{Decoder, ReadError, Summary};
use tidemill_store::{Range, Report, RestoreError, SystemDisk};

const BUFFER_BYTES: usize = 256 * 1024;

/// Backs up a node, restores a backup, or looks whether one of them is whole.
pub(crate) fn run(global: &Global, command: &Store) -> Result<(), Failure> {
    match command {
        Store::Backup { file } => backup(global, file),
        Store::Restore { file, dir } => restore(global.output, file, dir),
        Store::Verify { path } => verify(global.output, path),
    }
}

/// Reads what it gives also into a file.
struct Tee<R, W>(R, W);

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        let part = buffer.get(..count).unwrap_or_default();
        self.1.write_all(part).map_err(|error| {
            io::Error::new(error.kind(), format!("the file cannot be written: {error}"))
        })?;
        Ok(count)
    }
}

fn backup(global: &Global, file: &Path) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let partial = partial_of(file);
    let unwritable = |error: io::Error| {
        Failure::Other(format!("{} cannot be written: {error}", partial.display()))
    };
    // Whoever has the file has the state: for its owner only.
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(unwritable)?;
    let taken = client
        .send("GET", "/v1/store/backup", &[], b"")
        .and_then(|answer| take(answer.reader(), &target).map_err(unfinished));
    let summary = match taken {
        Ok(summary) => summary,
        Err(failure) => {
            drop(fs::remove_file(&partial));
            return Err(failure);
        }
    };
    let settle = || {
        target.sync_all()?;
        fs::rename(&partial, file)?;
        match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    };
    settle().map_err(unwritable)?;
    print(global.output, "backed up", &summary)
}

fn partial_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Writes a backup to a file, and checks it on the way.
fn take(reader: impl Read, target: &File) -> Result<Summary, ReadError> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, target);
    let reader = BufReader::with_capacity(BUFFER_BYTES, Tee(reader, &mut writer));
    let summary = Decoder::new(reader)?.check()?;
    writer.flush().map_err(ReadError::Io)?;
    Ok(summary)
}

fn unfinished(error: ReadError) -> Failure {
    match error {
        ReadError::Io(error) => broke_off(&error),
        ReadError::Cut { at_byte } => Failure::Other(format!(
            "the node ended the backup after {at_byte} bytes; look at its log, and try again"
        )),
        error => Failure::Other(error.to_string()),
    }
}

fn open(file: &Path) -> Result<BufReader<File>, Failure> {
    let opened = File::open(file);
    let opened = opened
        .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, opened))
}

fn restore(format: Format, file: &Path, dir: &Path) -> Result<(), Failure> {
    let backup = open(file)?;
    let in_the_way = entries(dir)?
        .into_iter()
        .find(|name| name != "state.partial");
    if let Some(name) = in_the_way {
        return Err(Failure::Usage(format!(
            "{} is not empty ({name} is in it): restore into a new directory, then start a node \
             on it with `tidemill up --data DIR`",
            dir.display()
        )));
    }
    files::create_private(dir)?;
    let restored = tidemill_store::restore(backup, &dir.join("state"), Arc::new(SystemDisk));
    let summary = restored.map_err(|error| match error {
        error @ RestoreError::NotEmpty { .. } => Failure::Usage(error.to_string()),
        RestoreError::Store(error @ tidemill_store::Error::InUse { .. }) => {
            Failure::InUse(error.to_string())
        }
        error => Failure::Other(error.to_string()),
    })?;
    print(format, "restored", &summary)?;
    if format == Format::Table {
        eprintln!(
            "start a node on it with `tidemill up --data {}`",
            dir.display()
        );
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<String>, Failure> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed,
    };
    let unreadable =
        |error| Failure::Usage(format!("{} cannot be looked at: {error}", dir.display()));
    listed
        .map_err(unreadable)?
        .map(|entry| {
            let name = entry.map_err(unreadable)?.file_name();
            Ok(name.to_string_lossy().into_owned())
        })
        .collect()
}

fn verify(format: Format, path: &Path) -> Result<(), Failure> {
    if path.is_file() {
        let summary = Decoder::new(open(path)?).and_then(Decoder::check);
        let summary = summary.map_err(|error| Failure::Other(error.to_string()))?;
        return print(format, "whole", &summary);
    }
    let directory = [path.to_owned(), path.join("state")]
        .into_iter()
        .find(|directory| directory.join("engine").is_dir())
        .ok_or_else(|| {
            Failure::Usage(format!(
                "{} is neither a backup nor a node's data directory",
                path.display()
            ))
        })?;
    let scratch = tempfile::tempdir()?;
    let report = tidemill_store::verify(&directory, scratch.path());
    let report = report.map_err(|error| match error {
        tidemill_store::Error::InUse { .. } => Failure::InUse(format!(
            "{error}; while the node runs, `tidemill store backup FILE` reads everything too"
        )),
        error => Failure::Other(error.to_string()),
    })?;
    match format {
        Format::Json => output::json(&report_json(&report))?,
        Format::Table => output::line(&report_text(&report))?,
    }
    if report.is_whole() {
        return Ok(());
    }
    Err(Failure::Other(format!(
        "{} is damaged: restore it from a backup with `tidemill store restore FILE --dir DIR`",
        directory.display()
    )))
}

fn print(format: Format, done: &str, summary: &Summary) -> Result<(), Failure> {
    let Summary {
        head,
        keys,
        messages,
        requests,
        bytes,
    } = summary;
    match format {
        Format::Json => output::json(&json!({
            "keys": keys,
            "messages": messages,
            "requests": requests,
            "bytes": bytes,
            "snapshot": head.snapshot.to_string(),
            "writer": head.writer.0,
        })),
        Format::Table => output::line(&format!(
            "{done}: {keys} keys, {messages} messages, {requests} requests, {bytes} bytes, snapshot {}",
            head.snapshot
        )),
    }
}

fn report_json(report: &Report) -> Value {
    let damages = report.damages.iter().map(|damage| {
        json!({
            "place": damage.place,
            "cause": damage.cause,
            "keys": damage.range.as_ref().map(range_json),
        })
    });
    json!({
        "whole": report.is_whole(),
        "keys": report.keys,
        "value_bytes": report.value_bytes,
        "records": report.records,
        "messages": report.messages,
        "requests": report.requests,
        "epoch": report.epoch,
        "checkpoint": report.checkpoint.to_string(),
        "stable": report.stable.to_string(),
        "torn": report.torn,
        "damages": Value::from_iter(damages),
        "more": report.more,
    })
}

fn range_json(range: &Range) -> Value {
    let key = |key: &Option<tidemill_lattice::Key>| {
        key.as_ref()
            .map(|key| json!({ "tenant": key.tenant(), "app": key.app(), "key": key.name_lossy() }))
    };
    json!({ "after": key(&range.after), "before": key(&range.before) })
}

fn report_text(report: &Report) -> String {
    let mut text = format!(
        "{} values ({} bytes) through {}, {} commits in the log up to {}, {} messages, \
         {} requests",
        report.keys,
        report.value_bytes,
        report.checkpoint,
        report.records,
        report.stable,
        report.messages,
        report.requests
    );
    for torn in &report.torn {
        text.push_str(&format!(
            "\nharmless: {torn}; it is cut when the node starts"
        ));
    }
    for damage in &report.damages {
        text.push_str(&format!("\ndamaged: {damage}"));
    }
    if report.more {
        text.push_str("\nthere is more damage than is listed");
    }
    if report.is_whole() {
        text.push_str("\nwhole");
    }
    text
}
