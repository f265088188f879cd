//! How a command fails: what is printed, and the exit code.

use crate::cli::Format;
use serde_json::{Value, json};
use std::io;
use std::process::ExitCode;
use tidemill_problem::Problem;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or the settings are wrong. Exit code 2.
    Usage(String),
    /// Another node has the directory or the address. Exit code 3.
    InUse(String),
    /// No node answers. Exit code 4.
    Unreachable(String),
    /// The node answered with a problem. Exit code 5 for `unauthorized`, else 1.
    Problem(Value),
    /// Something else went wrong here. Exit code 1.
    Other(String),
    /// Nobody reads the output any more; not an error. Exit code 0.
    BrokenPipe,
}

impl Failure {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::BrokenPipe => 0,
            Self::Problem(problem) if problem["code"] == "unauthorized" => 5,
            Self::Problem(_) | Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::InUse(_) => 3,
            Self::Unreachable(_) => 4,
        })
    }

    /// Prints what happened on standard error: for people, or as one JSON object.
    pub(crate) fn report(&self, format: Format) {
        let text = match self {
            Self::BrokenPipe => return,
            Self::Problem(problem) if format == Format::Json => problem.to_string(),
            Self::Problem(problem) => problem_text(problem),
            Self::Usage(text) | Self::InUse(text) | Self::Unreachable(text) | Self::Other(text) => {
                match format {
                    Format::Json => json!({ "detail": text }).to_string(),
                    Format::Table => format!("error: {text}"),
                }
            }
        };
        eprintln!("{text}");
    }
}

/// A problem for people.
pub(crate) fn problem_text(problem: &Value) -> String {
    let member = |name: &str| problem[name].as_str().unwrap_or_default();
    let mut text = format!("error: {}: {}", member("code"), member("detail"));
    if let Some(traceback) = problem["exception"]["traceback"].as_str() {
        text.push('\n');
        text.push_str(traceback.trim_end());
    }
    let suggestions = problem["suggestions"].as_array();
    let names: Vec<_> = suggestions
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !names.is_empty() {
        text.push_str(&format!("\ndid you mean: {}?", names.join(", ")));
    }
    if !member("request").is_empty() {
        text.push_str(&format!("\nrequest {}", member("request")));
    }
    text
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::Other(error.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem.to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_exit_code() {
        let cases = [
            (Failure::BrokenPipe, 0),
            (Failure::Problem(json!({ "code": "timed-out" })), 1),
            (Failure::Other(String::new()), 1),
            (Failure::Usage(String::new()), 2),
            (Failure::InUse(String::new()), 3),
            (Failure::Unreachable(String::new()), 4),
            (Failure::Problem(json!({ "code": "unauthorized" })), 5),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.exit_code(), ExitCode::from(code), "{failure:?}");
        }
    }

    #[test]
    fn a_problem_is_shown_with_traceback_and_near_names() {
        let text = problem_text(&json!({
            "code": "function-failed",
            "detail": "it raised",
            "exception": {"traceback": "Traceback\nValueError: no\n"},
            "suggestions": ["clean", "clear"],
            "request": "00ff",
        }));
        let expected = "error: function-failed: it raised\nTraceback\nValueError: no\n\
                        did you mean: clean, clear?\nrequest 00ff";
        assert_eq!(text, expected);
    }
}
