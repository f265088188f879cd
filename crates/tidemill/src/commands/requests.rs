//! `tidemill request`

use crate::cli::{Format, Global, Requests};
use crate::client::{Client, segment, with_query};
use crate::commands::call::print_result;
use crate::failure::Failure;
use crate::output::{self, plain};
use serde_json::Value;

/// Looks at requests, or cancels one.
pub(crate) fn run(global: &Global, command: &Requests) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match command {
        Requests::Ls { app, state, limit } => {
            let parameters = [
                ("app", app.clone()),
                ("state", state.clone()),
                ("limit", Some(limit.to_string())),
            ];
            let found = client.get(&with_query("/v1/requests", &parameters))?;
            list(global.output, &found)
        }
        Requests::Show { id } => {
            let found = client.get(&path(id))?;
            if global.output == Format::Json {
                return output::json(&found);
            }
            let text = serde_json::to_string_pretty(&found).unwrap_or_default();
            output::line(&text)
        }
        Requests::Result { id } => {
            let answer = client.send("GET", &format!("{}/result", path(id)), &[], b"")?;
            if answer.status() == 202 {
                return Err(Failure::Other(format!("request {id} is still running")));
            }
            print_result(answer)
        }
        Requests::Cancel { id } => cancel(&client, global.output, id),
    }
}

fn path(id: &str) -> String {
    format!("/v1/requests/{}", segment(id))
}

fn list(format: Format, found: &Value) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(found);
    }
    let requests = found["requests"].as_array().into_iter().flatten();
    let rows = requests
        .map(|request| {
            let created_us = request["created_ms"]
                .as_u64()
                .unwrap_or(0)
                .saturating_mul(1000);
            let duration_us = request["duration_ms"].as_f64().unwrap_or(0.0) * 1000.0;
            let state = plain(&request["state"]);
            let code = plain(&request["code"]);
            vec![
                plain(&request["id"]),
                format!("{}.{}", plain(&request["app"]), plain(&request["function"])),
                if code.is_empty() {
                    state
                } else {
                    format!("{state} ({code})")
                },
                output::time_of_day(created_us),
                output::duration(duration_us as u64),
            ]
        })
        .collect();
    output::table(&["REQUEST", "FUNCTION", "STATE", "AT (UTC)", "TOOK"], rows)
}

fn cancel(client: &Client, format: Format, id: &str) -> Result<(), Failure> {
    let answer = client.send("DELETE", &path(id), &[], b"")?.json()?;
    if format == Format::Json {
        return output::json(&answer);
    }
    if answer["cancelled"] == true {
        eprintln!("cancelled {id}");
    } else {
        eprintln!("request {id} had ended already");
    }
    Ok(())
}
