//! The client of a node: finding it, asking it, and reading its problems.

use crate::cli::Global;
use crate::failure::Failure;
use crate::files;
use serde_json::Value;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

const URL_DEFAULT: &str = "http://127.0.0.1:7070";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A node to ask.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
}

/// An answer that is no problem.
pub(crate) struct Answer {
    response: Response<Body>,
}

impl Client {
    /// The node that the options, the environment or the data directory name.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let data = || files::data_directory(global.data.as_deref());
        let url = match &global.url {
            Some(url) => url.clone(),
            None => match files::read_node(&data()?) {
                Some(node) => node.http,
                None => URL_DEFAULT.to_owned(),
            },
        };
        let token = match &global.token {
            Some(token) => Some(token.clone()),
            None => files::read_token(&data()?)?,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .build();
        Ok(Self {
            agent: config.new_agent(),
            url: base_of(&url)?,
            token,
        })
    }

    /// Asks and gives the answer, or the problem as a failure.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(body)
            .map_err(|error| Failure::Usage(format!("the request cannot be made: {error}")))?;
        let response = self
            .agent
            .run(request)
            .map_err(|error| self.unreachable(&error))?;
        if response.status().as_u16() < 400 {
            return Ok(Answer { response });
        }
        let status = response.status();
        let text = Answer { response }.bytes()?;
        let problem = serde_json::from_slice(&text).unwrap_or(Value::Null);
        if problem["code"].is_string() {
            return Err(Failure::Problem(problem));
        }
        Err(Failure::Other(format!(
            "{} answered {status} and no problem: is it a Tidemill node?",
            self.url
        )))
    }

    /// Asks for a JSON document.
    pub(crate) fn json(&self, method: &str, path: &str, body: &[u8]) -> Result<Value, Failure> {
        let answer = self.send(method, path, &[("content-type", "application/json")], body)?;
        answer.json()
    }

    /// Reads a JSON document.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json("GET", path, b"")
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::Unreachable(format!(
            "no node answers at {}: {error}; start one with `tidemill up`, or name it with --url",
            self.url
        ))
    }
}

/// `http://host:port` of what was given.
fn base_of(url: &str) -> Result<String, Failure> {
    let url = url.trim_end_matches('/');
    if url.starts_with("https://") {
        return Err(Failure::Usage(format!(
            "{url}: this program speaks no TLS; use http:// to a node near by or through a tunnel"
        )));
    }
    if url.starts_with("http://") {
        return Ok(url.to_owned());
    }
    if url.contains("://") {
        return Err(Failure::Usage(format!(
            "{url} is no address of a node: use http://HOST:PORT"
        )));
    }
    Ok(format!("http://{url}"))
}

impl Answer {
    /// The status.
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The content type without parameters.
    pub(crate) fn content_type(&self) -> &str {
        let text = self.header("content-type");
        text.split(';').next().unwrap_or_default().trim()
    }

    /// A header's text; empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.response.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The whole body.
    pub(crate) fn bytes(self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        self.reader()
            .read_to_end(&mut bytes)
            .map_err(|error| broke_off(&error))?;
        Ok(bytes)
    }

    /// The body as it comes.
    pub(crate) fn reader(self) -> impl Read {
        self.response
            .into_body()
            .into_with_config()
            .limit(u64::MAX)
            .reader()
    }

    /// The body as JSON.
    pub(crate) fn json(self) -> Result<Value, Failure> {
        let bytes = self.bytes()?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::Other(format!("the node's answer is not JSON: {error}")))
    }
}

/// An answer that ended before its end.
pub(crate) fn broke_off(error: &io::Error) -> Failure {
    Failure::Unreachable(format!("the node's answer broke off: {error}"))
}

/// One segment of a path, percent-encoded; a slash within it is encoded too.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `path?name=value…` with the parameters that are there.
pub(crate) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut out = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            out.push(separator);
            out.push_str(name);
            out.push('=');
            out.push_str(&segment(value));
            separator = '&';
        }
    }
    out
}

/// `APP.NAME` or `APP/NAME`: an app's name ends at the first dot, unless a slash
/// says where.
pub(crate) fn split_target(target: &str) -> Option<(&str, &str)> {
    let parts = target.split_once('/').or_else(|| target.split_once('.'));
    parts.filter(|(app, name)| !app.is_empty() && !name.is_empty())
}

/// The data directory, for commands that keep something there.
pub(crate) fn data_directory(global: &Global) -> Result<PathBuf, Failure> {
    files::data_directory(global.data.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_or_refused() {
        assert_eq!(
            base_of("127.0.0.1:7070").expect("valid"),
            "http://127.0.0.1:7070"
        );
        assert_eq!(base_of("http://a:1/").expect("valid"), "http://a:1");
        assert!(base_of("https://a").is_err());
        assert!(base_of("redis://a").is_err());
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(segment("a/b c\u{e4}%.-_~"), "a%2Fb%20c%C3%A4%25.-_~");
        let query = with_query(
            "/x",
            &[
                ("a", Some("1&2".into())),
                ("b", None),
                ("c", Some("3".into())),
            ],
        );
        assert_eq!(query, "/x?a=1%262&c=3");
    }

    #[test]
    fn targets_are_split_at_the_first_dot_or_the_slash() {
        assert_eq!(split_target("a.f"), Some(("a", "f")));
        assert_eq!(split_target("a.C.m"), Some(("a", "C.m")));
        assert_eq!(split_target("a.b/C.m"), Some(("a.b", "C.m")));
        assert_eq!(split_target("a"), None);
        assert_eq!(split_target("a."), None);
    }
}
