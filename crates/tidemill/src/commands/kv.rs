//! `tidemill kv`

use crate::cli::{Format, Global, Kv};
use crate::client::{Client, broke_off, segment, with_query};
use crate::commands::call::print_result;
use crate::failure::Failure;
use crate::output;
use crate::settings::near;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// How many keys are looked through for near names.
const NEAR_KEYS_MAX: usize = 1000;

/// Reads or writes state.
pub(crate) fn run(global: &Global, command: &Kv) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match command {
        Kv::Get { app, key } => get(&client, global.output, app, key),
        Kv::Set {
            app,
            key,
            value,
            text,
            file,
            content_type,
        } => {
            let (content_type, body) = match (value, text, file) {
                (Some(value), ..) => ("application/json", value.clone().into_bytes()),
                (_, Some(text), _) => ("text/plain; charset=utf-8", text.clone().into_bytes()),
                (.., Some(file)) => (content_type.as_str(), read(file)?),
                (None, None, None) => {
                    return Err(Failure::Usage("give a value, --text or --file".into()));
                }
            };
            let headers = [("content-type", content_type)];
            let answer = client.send("PUT", &path(app, key), &headers, &body)?;
            written(global.output, &answer.json()?)
        }
        Kv::Add { app, key, number } => {
            let op = json!({ "op": "counter.add", "value": number }).to_string();
            written(
                global.output,
                &client.json("POST", &path(app, key), op.as_bytes())?,
            )
        }
        Kv::Watch { app, what } => watch(&client, global.output, app, what),
        Kv::Ls { app, prefix, limit } => list(&client, global.output, app, prefix, *limit),
        Kv::Rm { app, keys } => {
            let deletes = keys.iter().map(|key| json!({ "key": key, "op": "delete" }));
            let ops = Value::from_iter(deletes).to_string();
            let path = format!("/v1/kv/{}", segment(app));
            written(global.output, &client.json("POST", &path, ops.as_bytes())?)
        }
    }
}

fn path(app: &str, key: &str) -> String {
    format!("/v1/kv/{}/{}", segment(app), segment(key))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(file)
        .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))
}

fn written(format: Format, answer: &Value) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(answer),
        Format::Table => Ok(()),
    }
}

fn get(client: &Client, format: Format, app: &str, key: &str) -> Result<(), Failure> {
    let mut path = path(app, key);
    if format == Format::Json {
        path.push_str("?view=json");
    }
    let answer = match client.send("GET", &path, &[], b"") {
        Ok(answer) => answer,
        Err(Failure::Problem(problem)) if problem["code"] == "unknown-key" => {
            return Err(Failure::Problem(with_near_keys(client, app, key, problem)));
        }
        Err(failure) => return Err(failure),
    };
    print_result(answer)
}

/// The problem with keys that are near to the one that holds nothing.
fn with_near_keys(client: &Client, app: &str, key: &str, mut problem: Value) -> Value {
    let path = with_query(
        &format!("/v1/kv/{}", segment(app)),
        &[("limit", Some(NEAR_KEYS_MAX.to_string()))],
    );
    // Near names are a courtesy: without them the problem stands as it is.
    if let Ok(page) = client.get(&path) {
        let keys = page["keys"].as_array().into_iter().flatten();
        let names = near(key, keys.filter_map(|key| key["key"].as_str()));
        if !names.is_empty() && problem["suggestions"].is_null() {
            problem["suggestions"] = json!(names);
        }
    }
    problem
}

fn list(
    client: &Client,
    format: Format,
    app: &str,
    prefix: &str,
    limit: Option<usize>,
) -> Result<(), Failure> {
    let path = with_query(
        &format!("/v1/kv/{}", segment(app)),
        &[
            (
                "prefix",
                Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()),
            ),
            ("limit", limit.map(|limit| limit.to_string())),
        ],
    );
    let page = client.get(&path)?;
    if format == Format::Json {
        return output::json(&page);
    }
    let keys = page["keys"].as_array().into_iter().flatten();
    let rows = keys
        .map(|key| vec![output::plain(&key["key"]), output::plain(&key["type"])])
        .collect();
    output::table(&["KEY", "TYPE"], rows)?;
    if !page["next"].is_null() {
        eprintln!("there are more keys: raise --limit, or name a prefix");
    }
    Ok(())
}

/// Prints what the node tells, event by event, until it ends.
fn watch(client: &Client, format: Format, app: &str, what: &str) -> Result<(), Failure> {
    let (name, text) = match what.strip_suffix('*') {
        Some(prefix) => ("prefix", prefix),
        None => ("key", what),
    };
    let path = with_query(
        &format!("/v1/watch/{}", segment(app)),
        &[(name, Some(text.to_owned()))],
    );
    let answer = client.send("GET", &path, &[], b"")?;
    let mut event = String::new();
    for line in BufReader::new(answer.reader()).lines() {
        let line = line.map_err(|error| broke_off(&error))?;
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            if event == "failed" {
                let problem = serde_json::from_str(data).unwrap_or(Value::Null);
                return Err(Failure::Problem(problem));
            }
            match format {
                // As it came, so that no number loses digits.
                Format::Json => {
                    let rest = data.strip_prefix('{').unwrap_or(data);
                    output::line(&format!("{{\"event\":\"{event}\",{rest}"))?;
                }
                Format::Table => told(&event, data)?,
            }
        }
    }
    Ok(())
}

/// An event for people: changes on standard output, the rest beside it.
fn told(event: &str, data: &str) -> Result<(), Failure> {
    let data: Value = serde_json::from_str(data).unwrap_or(Value::Null);
    let key = output::plain(&data["key"]);
    match event {
        "begins" => eprintln!("watching from {}", output::plain(&data["after"])),
        "dropped" => eprintln!(
            "{} changes were missed, of keys from {} to {}: read them anew",
            data["count"],
            output::plain(&data["first"]),
            output::plain(&data["last"])
        ),
        _ if data["type"].is_null() => output::line(&format!("{key} is gone"))?,
        _ => output::line(&format!(
            "{key} {} {}",
            output::plain(&data["type"]),
            data["value"]
        ))?,
    }
    Ok(())
}
