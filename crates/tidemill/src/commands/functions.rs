//! `tidemill fn`

use crate::cli::{Format, Functions, Global};
use crate::client::{Client, segment, split_target};
use crate::failure::Failure;
use crate::output::{self, plain};
use crate::settings::near;
use serde_json::{Value, json};

/// Looks at functions, or removes an app.
pub(crate) fn run(global: &Global, command: &Functions) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match command {
        Functions::Ls { app } => list(&client, global.output, app.as_deref()),
        Functions::Describe { target } => describe(&client, global.output, target),
        Functions::Rm { app, delete_state } => {
            let state = if *delete_state { "delete" } else { "keep" };
            let path = format!("/v1/apps/{}?state={state}", segment(app));
            client.send("DELETE", &path, &[], b"")?;
            eprintln!(
                "removed {app}; its state is {}",
                if *delete_state { "deleted" } else { "kept" }
            );
            Ok(())
        }
    }
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn list(client: &Client, format: Format, app: Option<&str>) -> Result<(), Failure> {
    let apps = match app {
        Some(app) => vec![client.get(&format!("/v1/apps/{}", segment(app)))?],
        None => items(&client.get("/v1/apps")?, "apps").cloned().collect(),
    };
    if format == Format::Json {
        return output::json(&json!({ "apps": apps }));
    }
    let mut rows = Vec::new();
    for app in &apps {
        for function in items(app, "functions") {
            let mean = function["mean_us"].as_u64().map(output::duration);
            rows.push(vec![
                plain(&app["app"]),
                plain(&function["name"]),
                plain(&function["kind"]),
                plain(&function["calls"]),
                mean.unwrap_or_default(),
                first_line(&function["doc"]),
            ]);
        }
        for flow in items(app, "flows") {
            let empty = String::new;
            rows.push(vec![
                plain(&app["app"]),
                plain(&flow["name"]),
                "flow".to_owned(),
                empty(),
                empty(),
                empty(),
            ]);
        }
    }
    output::table(&["APP", "FUNCTION", "KIND", "CALLS", "MEAN", "DOC"], rows)
}

fn first_line(doc: &Value) -> String {
    plain(doc).lines().next().unwrap_or_default().to_owned()
}

fn describe(client: &Client, format: Format, target: &str) -> Result<(), Failure> {
    let (app_name, name) = match split_target(target) {
        Some((app, name)) => (app, Some(name)),
        None => (target, None),
    };
    let app = client.get(&format!("/v1/apps/{}", segment(app_name)))?;
    let described = match name {
        None => app,
        Some(name) => find(&app, app_name, name)?,
    };
    if format == Format::Json {
        return output::json(&described);
    }
    if let Some(plan) = described["plan"].as_str() {
        return output::line(plan.trim_end());
    }
    let text = serde_json::to_string_pretty(&described).unwrap_or_default();
    output::line(&text)
}

/// The function or flow of this name; a problem with near names otherwise.
fn find(app: &Value, app_name: &str, name: &str) -> Result<Value, Failure> {
    let all = || items(app, "functions").chain(items(app, "flows"));
    if let Some(found) = all().find(|item| item["name"] == name) {
        return Ok(found.clone());
    }
    let near = near(name, all().filter_map(|item| item["name"].as_str()));
    Err(Failure::Problem(json!({
        "code": "unknown-function",
        "detail": format!("{app_name} has no function or flow {name}"),
        "suggestions": near,
    })))
}
