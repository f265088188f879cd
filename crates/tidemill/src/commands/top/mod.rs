//! `tidemill top`: a node's load, live.
//!
//! Each frame is made of two samples of the node's own numbers. On a terminal a frame is
//! written over the one before it; elsewhere they follow each other without escapes.

mod draw;
mod frame;

use crate::cli::{Format, Global, Top};
use crate::client::Client;
use crate::failure::Failure;
use crate::output;
use frame::{Frame, Sample};
use serde::de::DeserializeOwned;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

/// Shows frames until the process is ended, or one.
pub(crate) fn run(global: &Global, command: &Top) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let interval = Duration::try_from_secs_f64(command.interval)
        .map_err(|error| Failure::Usage(format!("--interval is wrong: {error}")))?;
    let screen = Screen {
        format: global.output,
        is_terminal: stdout().is_terminal(),
        hot_max: command.hot,
    };
    let mut earlier = None;
    if command.once {
        earlier = Some(sample(&client)?);
        pause(interval);
    }
    loop {
        let later = sample(&client)?;
        screen.show(&frame::frame(earlier.as_ref(), later.clone()))?;
        if command.once {
            return Ok(());
        }
        earlier = Some(later);
        pause(interval);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the command line is the edge, and nothing else is to be done between samples"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn sample(client: &Client) -> Result<Sample, Failure> {
    Ok(Sample {
        node: get(client, "/v1/node")?,
        store: get(client, "/v1/node/store")?,
    })
}

fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Failure> {
    serde_json::from_value(client.get(path)?).map_err(|error| {
        Failure::Other(format!(
            "the node's answer at {path} is not understood: {error}; is it of this version?"
        ))
    })
}

/// Where frames go.
struct Screen {
    format: Format,
    is_terminal: bool,
    hot_max: usize,
}

impl Screen {
    fn show(&self, frame: &Frame) -> Result<(), Failure> {
        if self.format == Format::Json {
            let json = serde_json::to_value(frame).map_err(std::io::Error::from)?;
            return output::json(&json);
        }
        let text = draw::draw(frame, self.hot_max);
        if self.is_terminal {
            return output::bytes(in_place(&text).as_bytes());
        }
        output::line(&text)
    }
}

/// Text that replaces what is on the screen without a flicker: from the upper left corner, each
/// line cleared to its end, long lines cut off, then the rest of the screen cleared.
fn in_place(text: &str) -> String {
    let mut out = String::from("\x1b[H\x1b[?7l");
    for line in text.lines() {
        out.push_str(line);
        out.push_str("\x1b[K\r\n");
    }
    out.push_str("\x1b[J\x1b[?7h");
    out
}

#[cfg(test)]
mod tests {
    use super::in_place;

    #[test]
    fn a_frame_replaces_the_one_before() {
        assert_eq!(
            in_place("a\nb\n"),
            "\x1b[H\x1b[?7la\x1b[K\r\nb\x1b[K\r\n\x1b[J\x1b[?7h"
        );
    }
}
