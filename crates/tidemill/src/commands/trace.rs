//! `tidemill trace`

use crate::cli::{Format, Global, Trace};
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::output::{self, plain};
use serde_json::Value;
use std::collections::BTreeSet;

/// Prints the spans of a trace or a request as a tree.
pub(crate) fn run(global: &Global, command: &Trace) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let found = client.get(&format!("/v1/traces/{}", segment(&command.id)))?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let spans = found["spans"].as_array().cloned().unwrap_or_default();
    output::line(&format!("trace {}", plain(&found["trace"])))?;
    for line in tree(&spans) {
        output::line(&line)?;
    }
    Ok(())
}

/// The spans as lines, each below the span around it: time since the first, how
/// long it took, and what it was.
fn tree(spans: &[Value]) -> Vec<String> {
    let ids: BTreeSet<&str> = spans
        .iter()
        .filter_map(|span| span["id"].as_str())
        .collect();
    let first_us = spans
        .iter()
        .filter_map(|span| span["start_us"].as_u64())
        .min()
        .unwrap_or(0);
    let is_root = |span: &Value| {
        let parent = span["parent"].as_str();
        parent.is_none_or(|parent| !ids.contains(parent))
    };
    // Roots first, then whatever no root leads to, such as a ring of parents.
    let (roots, others): (Vec<_>, Vec<_>) =
        (0..spans.len()).partition(|index| spans.get(*index).is_some_and(is_root));
    let mut lines = Vec::with_capacity(spans.len());
    let mut shown = BTreeSet::new();
    for start in roots.into_iter().chain(others) {
        // Depth first over an explicit stack: a trace from outside may be deep.
        let mut stack = vec![(0, start)];
        while let Some((depth, index)) = stack.pop() {
            let Some(span) = spans.get(index).filter(|_| shown.insert(index)) else {
                continue;
            };
            lines.push(describe(span, depth, first_us));
            let id = span["id"].as_str();
            let children = (0..spans.len()).rev().filter(|child| {
                let parent = spans.get(*child).and_then(|child| child["parent"].as_str());
                parent.is_some() && parent == id
            });
            stack.extend(children.map(|child| (depth + 1, child)));
        }
    }
    lines
}

fn describe(span: &Value, depth: usize, first_us: u64) -> String {
    let number = |name: &str| span[name].as_u64().unwrap_or(0);
    let offset = output::duration(number("start_us").saturating_sub(first_us));
    let took = output::duration(number("duration_us"));
    let indent = "  ".repeat(depth);
    let error = match span["error"].as_str() {
        Some(code) => format!(" !{code}"),
        None => String::new(),
    };
    format!(
        "{:>9} {took:>9}  {indent}{} {}{error}",
        format!("+{offset}"),
        plain(&span["kind"]),
        plain(&span["name"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn span(id: &str, parent: Option<&str>, start_us: u64, name: &str) -> Value {
        json!({
            "id": id, "parent": parent, "start_us": start_us, "duration_us": 1500,
            "kind": "step", "name": name, "error": null,
        })
    }

    #[test]
    fn spans_stand_below_the_ones_around_them() {
        let mut failed = span("d", Some("b"), 12, "inner");
        failed["error"] = json!("timed-out");
        let spans = [
            span("a", Some("elsewhere"), 10, "root"),
            span("b", Some("a"), 11, "first"),
            failed,
            span("c", Some("a"), 20, "second"),
        ];
        let expected = [
            "     +0us     1.5ms  step root",
            "     +1us     1.5ms    step first",
            "     +2us     1.5ms      step inner !timed-out",
            "    +10us     1.5ms    step second",
        ];
        assert_eq!(tree(&spans), expected);
    }

    #[test]
    fn each_span_is_shown_once_whatever_its_parents() {
        let ring = [
            span("a", Some("b"), 1, "x"),
            span("b", Some("a"), 2, "y"),
            span("c", Some("c"), 3, "z"),
        ];
        assert_eq!(tree(&ring).len(), 3);
        let twice = [
            span("a", None, 1, "outer"),
            span("b", Some("a"), 2, "between"),
            span("a", Some("b"), 3, "same id"),
        ];
        let lines = tree(&twice);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].ends_with("    step same id"), "{lines:?}");
    }
}
