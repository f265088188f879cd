//! Facts for tests, written in one line.

use std::collections::BTreeMap;

use tidemill_flow::FunctionFacts;

/// Facts from words: `name`, then any of `@group`, `~mean_cost_us`, `!` (not fusable),
/// `*` (a generator), in that order: `"score@2~5000"`.
pub(crate) fn facts(words: &str) -> BTreeMap<String, FunctionFacts> {
    words.split_whitespace().map(fact).collect()
}

fn fact(word: &str) -> (String, FunctionFacts) {
    let generator = word.ends_with('*');
    let fusable = !generator && !word.ends_with('!');
    let word = word.trim_end_matches(['*', '!']);
    let (word, mean_cost_us) = match word.split_once('~') {
        Some((rest, cost)) => (rest, Some(cost.parse().unwrap())),
        None => (word, None),
    };
    let (name, group) = match word.split_once('@') {
        Some((name, group)) => (name, group.parse().unwrap()),
        None => (word, 1),
    };
    let facts = FunctionFacts {
        group,
        fusable,
        generator,
        mean_cost_us,
        timeout_ms: 1_000,
    };
    (name.to_owned(), facts)
}
