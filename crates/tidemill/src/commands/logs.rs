//! `tidemill logs`

use crate::cli::{Format, Global, Logs};
use crate::client::{Client, broke_off, with_query};
use crate::failure::Failure;
use crate::output::{self, plain};
use serde_json::Value;
use std::io::{BufRead, BufReader};

/// Prints log lines.
pub(crate) fn run(global: &Global, command: &Logs) -> Result<(), Failure> {
    print(&Client::new(global)?, global.output, command, None)
}

/// Prints log lines, with `after` only those after that number.
pub(crate) fn print(
    client: &Client,
    format: Format,
    command: &Logs,
    after: Option<u64>,
) -> Result<(), Failure> {
    let parameters = [
        ("app", command.app.clone()),
        ("function", command.function.clone()),
        ("request", command.request.clone()),
        ("limit", command.limit.map(|limit| limit.to_string())),
        ("after", after.map(|after| after.to_string())),
        ("follow", command.follow.then(|| "true".to_owned())),
    ];
    let answer = client.send("GET", &with_query("/v1/logs", &parameters), &[], b"")?;
    let mut reader = BufReader::new(answer.reader());
    let mut line = String::new();
    loop {
        line.clear();
        if reader
            .read_line(&mut line)
            .map_err(|error| broke_off(&error))?
            == 0
        {
            return Ok(());
        }
        match format {
            Format::Json => output::bytes(line.as_bytes())?,
            Format::Table => output::line(&readable(&line))?,
        }
    }
}

/// A line for people.
fn readable(line: &str) -> String {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return line.trim_end().to_owned();
    };
    let time = output::time_of_day(line["time_us"].as_u64().unwrap_or(0));
    let origin = match (plain(&line["app"]), plain(&line["function"])) {
        (app, function) if function.is_empty() => app,
        (app, function) => format!("{app}.{function}"),
    };
    let mark = match line["level"].as_str() {
        Some(level) => level.to_owned(),
        None => plain(&line["stream"]),
    };
    format!("{time} {origin} {mark}: {}", plain(&line["text"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_well() {
        let line = r#"{"time_us":1000,"app":"a","function":"f","stream":"stdout","text":"hello"}"#;
        assert_eq!(readable(line), "00:00:00.001 a.f stdout: hello");
        let line =
            r#"{"time_us":1000,"app":"a","function":"","stream":"log","level":"INFO","text":"x"}"#;
        assert_eq!(readable(line), "00:00:00.001 a INFO: x");
    }
}
