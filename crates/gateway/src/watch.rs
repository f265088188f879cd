//! Changes of keys as server-sent events, while the client stays.
//!
//! Each event is written when the client takes it: one that is slow is told by the store what
//! it missed. Events have no ids, and a new connection begins anew.

use crate::query;
use crate::routes::Context;
use crate::views::write_view;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tidemill_problem::{Code, Problem};
use tidemill_runtime::store_problem;
use tidemill_store::Store;
use tidemill_store::watch::{Change, Event, Watch};
use tokio::sync::{Notify, watch};
use tokio::time::{Interval, MissedTickBehavior};

/// Events of one write to the connection.
const EVENTS_MAX: usize = 256;
/// How often a silent stream says that it lives, so that a client that has gone is noticed.
const ALIVE_PERIOD: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchQuery {
    key: Option<String>,
    prefix: Option<String>,
}

/// A client and how far it is.
struct Follower {
    store: Arc<dyn Store>,
    watch: Watch,
    called: Arc<Notify>,
    alive: Interval,
    stopping: watch::Receiver<bool>,
    ended: bool,
}

/// `GET /v1/watch/{app}`
pub(crate) fn stream(context: &Context<'_>) -> Result<Response, Problem> {
    let query: WatchQuery = query::parse(&context.parts.uri)?;
    let (name, whole) = match (&query.key, &query.prefix) {
        (Some(key), None) => (key, true),
        (None, Some(prefix)) => (prefix, false),
        _ => {
            let detail = "name what to watch: `key`, or `prefix` (empty for all keys)";
            return Err(Problem::new(Code::BadRequest, detail));
        }
    };
    let called = Arc::new(Notify::new());
    let wake = Arc::clone(&called);
    let wake = Box::new(move || wake.notify_one());
    let app = context.param("app")?;
    let watch = context.state.runtime.state_watch(app, name, whole, wake)?;
    let mut alive = tokio::time::interval(ALIVE_PERIOD);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower {
        store: Arc::clone(&context.state.store),
        watch,
        called,
        alive,
        stopping: context.state.stopping.clone(),
        ended: false,
    };
    let chunks = stream::unfold(follower, |mut follower| async move {
        let chunk = follower.next().await?;
        Some((Ok::<_, Infallible>(chunk), follower))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Follower {
    /// The next events; `None` once the node stops, or after a failure was told.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        loop {
            let mut out = Vec::new();
            match self.watch.take(&*self.store, EVENTS_MAX) {
                Ok(events) => events.iter().for_each(|event| write(&mut out, event)),
                Err(error) => {
                    self.ended = true;
                    let problem = store_problem(&error).to_json();
                    write_event(&mut out, "failed", problem.to_string().as_bytes());
                }
            }
            if !out.is_empty() {
                return Some(Bytes::from(out));
            }
            tokio::select! {
                () = self.called.notified() => {}
                _ = self.alive.tick() => return Some(Bytes::from_static(b":\n\n")),
                _ = self.stopping.wait_for(|stopping| *stopping) => return None,
            }
        }
    }
}

fn write(out: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Begins { after } => {
            let data = json!({ "after": after.to_string() });
            write_event(out, "begins", data.to_string().as_bytes());
        }
        Event::Change(change) => write_event(out, "change", &change_json(change)),
        Event::Dropped(dropped) => {
            let data = json!({
                "count": dropped.count,
                "first": dropped.first.name_lossy(),
                "last": dropped.last.name_lossy(),
                "from": dropped.from.to_string(),
                "through": dropped.through.to_string(),
            });
            write_event(out, "dropped", data.to_string().as_bytes());
        }
    }
}

/// The change with the view's members, or `"type":null` where the key holds nothing.
fn change_json(change: &Change) -> Vec<u8> {
    let head = json!({ "key": change.key.name_lossy(), "time": change.time.to_string() });
    let mut out = head.to_string().into_bytes();
    out.pop();
    let cell = change.cell.as_ref();
    let mut view = Vec::new();
    match cell.and_then(|cell| cell.view(change.read_at)) {
        Some(value) => write_view(&mut view, value, change.read_at),
        None => view.extend_from_slice(b"{\"type\":null}"),
    }
    out.push(b',');
    out.extend_from_slice(view.get(1..).unwrap_or_default());
    out
}

/// One event. Between tokens a line's end is as good as a blank, within them there is none.
fn write_event(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend(data.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    }));
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_to_its_line() {
        let mut out = Vec::new();
        write_event(&mut out, "change", b"{\"a\":\r\n1}");
        assert_eq!(out, b"event: change\ndata: {\"a\":  1}\n\n");
    }
}
