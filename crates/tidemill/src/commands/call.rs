//! `tidemill call`

use crate::cli::{Call, Format, Global};
use crate::client::{Answer, Client, broke_off, segment, split_target};
use crate::failure::Failure;
use crate::output;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, IsTerminal, Read};

/// Calls a function and prints its result; a generator's items line by line.
pub(crate) fn run(global: &Global, command: &Call) -> Result<(), Failure> {
    let (app, function, arguments) = target(command)?;
    let body = body(command, arguments)?;
    let timeout = command.timeout.map(|seconds| seconds.to_string());
    let mut headers = vec![("content-type", "application/json")];
    if let Some(timeout) = &timeout {
        headers.push(("tidemill-timeout", timeout));
    }
    if command.no_wait {
        headers.push(("prefer", "respond-async"));
    }
    let client = Client::new(global)?;
    let path = format!("/v1/call/{}/{}", segment(app), segment(function));
    let answer = client.send("POST", &path, &headers, &body)?;
    if command.no_wait {
        let accepted = answer.json()?;
        return match global.output {
            Format::Json => output::json(&accepted),
            Format::Table => output::line(&output::plain(&accepted["request"])),
        };
    }
    print_result(answer)
}

/// Prints a result: JSON and text with a line end, other bytes as they are.
pub(crate) fn print_result(answer: Answer) -> Result<(), Failure> {
    let content_type = answer.content_type().to_owned();
    if content_type == "text/event-stream" {
        return print_events(BufReader::new(answer.reader()));
    }
    let bytes = answer.bytes()?;
    if content_type == "application/json" || content_type.starts_with("text/") {
        return output::line(&String::from_utf8_lossy(&bytes));
    }
    if io::stdout().is_terminal() {
        eprintln!(
            "the result is {} bytes of {content_type}: send the output to a file to keep it",
            bytes.len()
        );
        return Ok(());
    }
    output::bytes(&bytes)
}

fn target(command: &Call) -> Result<(&str, &str, &[String]), Failure> {
    if let Some((app, function)) = split_target(&command.target) {
        return Ok((app, function, &command.arguments));
    }
    match command.arguments.split_first() {
        Some((function, arguments)) => Ok((&command.target, function, arguments)),
        None => Err(Failure::Usage(format!(
            "{:?} names no function: say APP.FUNCTION",
            command.target
        ))),
    }
}

fn body(command: &Call, arguments: &[String]) -> Result<Vec<u8>, Failure> {
    let Some(source) = &command.json else {
        let all = arguments.iter().chain(&command.arg);
        let values: Vec<Value> = all.map(|text| argument(text)).collect();
        return Ok(json!(values).to_string().into_bytes());
    };
    if !arguments.is_empty() {
        return Err(Failure::Usage("--json already holds all arguments".into()));
    }
    match (source.as_str(), source.strip_prefix('@')) {
        ("-", _) => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        (_, Some(path)) => std::fs::read(path)
            .map_err(|error| Failure::Usage(format!("{path} cannot be read: {error}"))),
        (text, None) => Ok(text.as_bytes().to_vec()),
    }
}

/// JSON where the text is JSON, else the text.
fn argument(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// Prints items as they come; fails unless the stream ends well.
fn print_events(mut reader: impl BufRead) -> Result<(), Failure> {
    let mut event = String::new();
    let mut data = String::new();
    let mut line = String::new();
    loop {
        line.clear();
        if reader
            .read_line(&mut line)
            .map_err(|error| broke_off(&error))?
            == 0
        {
            let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(broke_off(&cause));
        }
        let text = line.trim_end_matches(['\n', '\r']);
        if let Some(name) = text.strip_prefix("event:") {
            event = name.trim_start().to_owned();
        } else if let Some(more) = text.strip_prefix("data:") {
            data.push_str(more.strip_prefix(' ').unwrap_or(more));
            data.push('\n');
        } else if text.is_empty() {
            match event.as_str() {
                "item" => output::bytes(data.as_bytes())?,
                "committed" => return Ok(()),
                "failed" => return Err(failed(&data)),
                _ => {}
            }
            event.clear();
            data.clear();
        }
    }
}

fn failed(data: &str) -> Failure {
    match serde_json::from_str(data) {
        Ok(problem) => Failure::Problem(problem),
        Err(_) => Failure::Other("the stream failed without a problem".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(target: &str, arguments: &[&str]) -> Call {
        Call {
            target: target.to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            json: None,
            arg: Vec::new(),
            no_wait: false,
            timeout: None,
        }
    }

    #[test]
    fn targets_come_in_one_word_or_two() {
        let one = command("a.C.m", &["1"]);
        let parts = target(&one).expect("valid");
        assert_eq!((parts.0, parts.1, parts.2.len()), ("a", "C.m", 1));
        let two = command("a", &["f", "1"]);
        let parts = target(&two).expect("valid");
        assert_eq!((parts.0, parts.1, parts.2.len()), ("a", "f", 1));
        assert!(target(&command("a", &[])).is_err());
    }

    #[test]
    fn arguments_are_json_or_text() {
        let mut call = command("a.f", &["1", "\"x\""]);
        call.arg = vec!["plain".into(), "{\"a\": [null]}".into()];
        let body = body(&call, &call.arguments).expect("valid");
        assert_eq!(body, br#"[1,"x","plain",{"a":[null]}]"#);
    }

    #[test]
    fn a_stream_must_end_well() {
        let good: &[u8] = b": alive\n\nevent: committed\ndata: {}\n\n";
        assert!(print_events(good).is_ok());
        let failed: &[u8] = b"event: failed\ndata: {\"code\":\"timed-out\"}\n\n";
        assert!(matches!(print_events(failed), Err(Failure::Problem(_))));
        let cut: &[u8] = b"event: committed\n";
        assert!(matches!(print_events(cut), Err(Failure::Unreachable(_))));
    }
}
