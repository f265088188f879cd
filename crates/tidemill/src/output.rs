//! Standard output: lines, JSON and tables. A reader that has gone ends the
//! command quietly.

use crate::failure::Failure;
use comfy_table::{Table, presets};
use serde_json::Value;
use std::io::{self, Write};

/// Writes bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}

/// Writes a line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    Ok(())
}

/// Writes a JSON document, one line.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    line(&value.to_string())
}

/// Writes a table.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    line(&table_text(header, rows))
}

/// A table without rules, so that it also reads well in a pipe.
pub(crate) fn table_text(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    // Each cell is padded by a blank on both sides; the line's own ends need none.
    let trimmed: Vec<String> = table
        .lines()
        .map(|line| {
            line.strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
        })
        .collect();
    trimmed.join("\n")
}

/// A JSON string as it reads, anything else as JSON; nothing for null.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Unix microseconds as a time of the day, UTC.
pub(crate) fn time_of_day(time_us: u64) -> String {
    let ms = time_us / 1000;
    let (s, ms) = (ms / 1000, ms % 1000);
    let (m, s) = (s / 60, s % 60);
    let (h, m) = (m / 60 % 24, m % 60);
    format!("{h:02}:{m:02}:{s:02}.{ms:03}")
}

/// Microseconds with a unit that suits their size.
pub(crate) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => format!("{:.2}s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_read_well() {
        assert_eq!(time_of_day(0), "00:00:00.000");
        assert_eq!(time_of_day(86_399_999_999), "23:59:59.999");
        assert_eq!(time_of_day(86_400_000_000 + 3_661_002_000), "01:01:01.002");
        assert_eq!(duration(999), "999us");
        assert_eq!(duration(1_500), "1.5ms");
        assert_eq!(duration(2_340_000), "2.34s");
    }
}
