//! `tidemill deploy`

use crate::cli::{Deploy, Format, Global};
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::output::{self, plain};
use crate::source::{self, Bundle};
use serde_json::Value;

/// Makes a bundle of a file and sends it.
pub(crate) fn run(global: &Global, command: &Deploy) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let bundle = source::bundle(global, command)?;
    let deployed = send(&client, &bundle)?;
    match global.output {
        Format::Json => output::json(&deployed),
        Format::Table => output::line(&summary(&deployed)),
    }
}

/// Sends a bundle; what the node says of it comes back.
pub(crate) fn send(client: &Client, bundle: &Bundle) -> Result<Value, Failure> {
    let path = format!("/v1/apps/{}", segment(&bundle.app));
    let headers = [("content-type", "application/zip")];
    client.send("PUT", &path, &headers, &bundle.archive)?.json()
}

/// A deploy in a few lines.
pub(crate) fn summary(deployed: &Value) -> String {
    let app = plain(&deployed["app"]);
    let version = plain(&deployed["version"]);
    let version = version.get(..12).unwrap_or(&version);
    let verb = if deployed["changed"] == true {
        "deployed"
    } else {
        "unchanged"
    };
    let mut text = format!("{verb} {app} {version}");
    for kind in ["functions", "flows"] {
        for name in deployed[kind].as_array().into_iter().flatten() {
            text.push_str(&format!("\n  {app}.{}", plain(name)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deploy_is_summed_up() {
        let deployed = json!({
            "app": "a", "version": "0123456789abcdef", "changed": true,
            "functions": ["f"], "flows": ["g"],
        });
        assert_eq!(summary(&deployed), "deployed a 0123456789ab\n  a.f\n  a.g");
        let same = json!({ "app": "a", "version": "01", "changed": false });
        assert_eq!(summary(&same), "unchanged a 01");
    }
}
