//! Log lines as newline-delimited JSON, once or followed.

use crate::query;
use crate::requests::limit;
use crate::routes::Context;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tidemill_problem::{Code, Problem};
use tidemill_runtime::RequestId;
use tidemill_telemetry::{LogFilter, LogLine, Telemetry};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

/// How often a follower looks for new lines: short for a person's eye, long
/// beside the cost of one look.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// The most lines that one look sends on.
const FOLLOW_LINES_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    app: Option<String>,
    function: Option<String>,
    request: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// `GET /v1/logs`
pub(crate) fn read(context: &Context<'_>) -> Result<Response, Problem> {
    let query: LogsQuery = query::parse(&context.parts.uri)?;
    let request = query.request.as_deref().map(request_id).transpose()?;
    let filter = LogFilter {
        app: query.app,
        function: query.function,
        request,
        after_sequence: query.after,
        limit: Some(limit(query.limit)),
    };
    let body = if query.follow {
        let telemetry = Arc::clone(&context.state.telemetry);
        follow(telemetry, filter, context.state.stopping.clone())
    } else {
        Body::from(write_lines(&context.state.telemetry.logs.query(&filter)))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn request_id(text: &str) -> Result<u128, Problem> {
    let id: Result<RequestId, ()> = text.parse();
    id.map(|id| id.0).map_err(|()| {
        let detail = format!("`request` is 32 hexadecimal digits, not {text:?}");
        Problem::new(Code::BadRequest, detail)
    })
}

fn write_lines(lines: &[LogLine]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len() * 160);
    for line in lines {
        let before = out.len();
        match serde_json::to_writer(&mut out, line) {
            Ok(()) => out.push(b'\n'),
            Err(_) => out.truncate(before),
        }
    }
    out
}

/// A follower: what it has sent, and when it looks again.
struct Follower {
    telemetry: Arc<Telemetry>,
    filter: LogFilter,
    /// Where the ring ended at the last look, so that lines of others are not read again.
    seen: u64,
    interval: Interval,
    stopping: watch::Receiver<bool>,
}

fn follow(telemetry: Arc<Telemetry>, filter: LogFilter, stopping: watch::Receiver<bool>) -> Body {
    let mut interval = tokio::time::interval(FOLLOW_PERIOD);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower {
        telemetry,
        filter,
        seen: 0,
        interval,
        stopping,
    };
    Body::from_stream(stream::unfold(follower, |mut follower| async move {
        let chunk = follower.next().await?;
        Some((Ok::<_, Infallible>(chunk), follower))
    }))
}

impl Follower {
    /// The next lines; `None` once the node stops.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                _ = self.interval.tick() => {}
                _ = self.stopping.wait_for(|stopping| *stopping) => return None,
            }
            let lines = self.look();
            if !lines.is_empty() {
                return Some(Bytes::from(write_lines(&lines)));
            }
        }
    }

    fn look(&mut self) -> Vec<LogLine> {
        let logs = &self.telemetry.logs;
        let latest = logs.latest_sequence();
        if latest == self.seen && self.seen > 0 {
            return Vec::new();
        }
        let lines = logs.query(&self.filter);
        let limit = self.filter.limit.unwrap_or(FOLLOW_LINES_MAX);
        let all = self.filter.after_sequence.is_none() || lines.len() < limit;
        let last = lines.last().map(|line| line.sequence);
        // A full page after a sequence may have more behind it: go on from its end.
        self.seen = match last {
            Some(last) if !all => last,
            Some(last) => last.max(latest),
            None => latest,
        };
        self.filter.after_sequence = Some(self.seen);
        self.filter.limit = Some(FOLLOW_LINES_MAX);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_telemetry::Stream;

    fn push(telemetry: &Telemetry, app: &str, text: &str) {
        telemetry.logs.push(LogLine {
            sequence: 0,
            time_us: 1,
            app: app.into(),
            function: "f".into(),
            request: 1,
            stream: Stream::Stdout,
            level: None,
            logger: None,
            text: text.into(),
        });
    }

    fn follower(telemetry: &Arc<Telemetry>, after: Option<u64>, limit: usize) -> Follower {
        let (_, stopping) = watch::channel(false);
        Follower {
            telemetry: Arc::clone(telemetry),
            filter: LogFilter {
                app: Some("a".into()),
                after_sequence: after,
                limit: Some(limit),
                ..LogFilter::default()
            },
            seen: 0,
            interval: tokio::time::interval(FOLLOW_PERIOD),
            stopping,
        }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[tokio::test]
    async fn a_follower_begins_with_the_newest_and_repeats_none() {
        let telemetry = Arc::new(Telemetry::default());
        for text in ["1", "2", "3"] {
            push(&telemetry, "a", text);
        }
        push(&telemetry, "b", "of another app");
        let mut follower = follower(&telemetry, None, 2);
        assert_eq!(texts(&follower.look()), ["2", "3"]);
        assert!(follower.look().is_empty());
        push(&telemetry, "b", "of another app");
        assert!(follower.look().is_empty());
        push(&telemetry, "a", "4");
        assert_eq!(texts(&follower.look()), ["4"]);
    }

    #[tokio::test]
    async fn a_follower_after_a_line_misses_none_behind_a_full_page() {
        let telemetry = Arc::new(Telemetry::default());
        for text in ["1", "2", "3", "4"] {
            push(&telemetry, "a", text);
        }
        let mut follower = follower(&telemetry, Some(1), 2);
        assert_eq!(texts(&follower.look()), ["2", "3"]);
        assert_eq!(texts(&follower.look()), ["4"]);
        assert!(follower.look().is_empty());
    }

    #[test]
    fn lines_are_one_json_object_each() {
        let telemetry = Telemetry::default();
        push(&telemetry, "a", "two\nlines");
        push(&telemetry, "a", "next");
        let text = write_lines(&telemetry.logs.query(&LogFilter::default()));
        let text = String::from_utf8_lossy(&text);
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with('\n'));
    }
}
