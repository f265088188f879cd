//! A function on the interfaces that are not Tidemill's own, `wasi:keyvalue`, `wasi:config` and
//! `wasi:logging`, and one that opens handles, keeps them and makes them up. It picks what it does
//! by the name of the function it runs as.
//!
//! An input is a JSON text of words, `"bucket key value"`; the output is one of what came of it.

mod handles;
mod store;

use tidemill_guest::{Error, Payload, request};

#[allow(missing_docs)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../crates/wasm/wit",
        world: "tidemill:standard/imports",
        generate_all,
    });
}

use bindings::wasi::{config::store as config, logging::logging};

tidemill_guest::function!(handle);

fn handle(input: Payload) -> Result<Payload, Error> {
    let text = String::from_utf8(input.body).unwrap_or_default();
    let words: Vec<&str> = text.trim_matches('"').split(' ').collect();
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let number = |at: usize| word(at).parse().unwrap_or(0_u64);
    // As a function of another name, it may have instances of its own.
    let name = request::current().function;
    let said = match name.trim_end_matches("-fresh") {
        "set" => store::set(word(0), word(1), word(2)),
        "get" => store::get(word(0), word(1)),
        "increment" => store::increment(word(0), word(1), number(2)),
        "fill" => store::fill(word(0), number(1)),
        "list" => store::list(word(0), words.get(1).map(|_| number(1))),
        "open-long" => store::open(&"b".repeat(number(0) as usize)).map(|_| "opened".to_owned()),
        "config" => configured(word(0)),
        "log" => logged(),
        "hoard" => handles::hoard(),
        "hoard-calls" => handles::hoard_calls(),
        "keep" => handles::keep(),
        "kept" => handles::kept(),
        "forge" => handles::forge(number(0) as u32),
        "confuse" => handles::confuse(),
        other => return Err(Error::new("unknown-function", other)),
    };
    let said = said.unwrap_or_else(|error| ["error: ", &error].concat());
    Ok(Payload::raw_json(["\"", &said, "\""].concat()))
}

/// One variable, and how many there are.
fn configured(name: &str) -> Result<String, String> {
    let failed = |_| "config".to_owned();
    let one = config::get(name).map_err(failed)?;
    let all = config::get_all().map_err(failed)?;
    let count = all.len().to_string();
    Ok([one.as_deref().unwrap_or("none"), " of ", &count].concat())
}

/// A line of each level, the last without a context.
fn logged() -> Result<String, String> {
    use logging::Level;
    let levels = [
        (Level::Trace, "trace"),
        (Level::Debug, "debug"),
        (Level::Info, "info"),
        (Level::Warn, "warn"),
        (Level::Error, "error"),
    ];
    for (level, name) in levels {
        logging::log(level, "radio", name);
    }
    logging::log(Level::Critical, "", "critical");
    Ok("logged".to_owned())
}
