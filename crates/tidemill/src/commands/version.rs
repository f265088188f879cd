//! `tidemill version`

use crate::cli::{Format, Global};
use crate::client::Client;
use crate::failure::Failure;
use crate::output;
use serde_json::json;

/// Prints the version of this program, and of the node where one answers.
pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let node = Client::new(global).and_then(|client| client.get("/v1/node"));
    let node = match node {
        Ok(node) => node["version"].clone(),
        Err(Failure::Unreachable(_)) => serde_json::Value::Null,
        Err(failure) => return Err(failure),
    };
    if global.output == Format::Json {
        return output::json(&json!({ "tidemill": own, "node": node }));
    }
    output::line(&format!("tidemill {own}"))?;
    if let Some(node) = node.as_str() {
        output::line(&format!("node     {node}"))?;
    }
    Ok(())
}
