//! The requests that are running, and the last ones that ended.

use crate::{Fetched, RequestId, RequestState, RequestSummary};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_telemetry::{Meter, OUTCOME_OK, TraceId};
use tokio::sync::Notify;

/// A request in the list.
pub(crate) struct Entry {
    app: Arc<str>,
    function: Arc<str>,
    created_us: u64,
    trace: TraceId,
    key: Option<String>,
    /// Rung to cancel it, until it has ended.
    cancel: Option<Arc<Notify>>,
    end: Option<End>,
}

struct End {
    code: Option<Code>,
    duration_us: u64,
    counts: Option<Counts>,
    /// Kept for requests that nobody waited for.
    result: Option<Box<Result<Payload, Problem>>>,
}

/// What a request has used: of its meter what the list does not hold anyway.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    cpu_us: u64,
    memory_byte_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
    state_reads: u64,
    state_writes: u64,
}

impl Counts {
    pub(crate) fn of(meter: &Meter) -> Self {
        Self {
            cpu_us: meter.cpu_us,
            memory_byte_ms: meter.memory_byte_ms,
            bytes_in: meter.bytes_in,
            bytes_out: meter.bytes_out,
            state_reads: meter.state_reads,
            state_writes: meter.state_writes,
        }
    }
}

/// The list, bounded in entries and in bytes of kept results.
pub(crate) struct Requests {
    kept_max: usize,
    results_bytes_max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Boxed, so that a new one takes the place of the one that has just made room for it, and
    /// not of one that was looked at a long time ago.
    entries: HashMap<RequestId, Box<Entry>>,
    ended: VecDeque<RequestId>,
    with_result: VecDeque<(RequestId, usize)>,
    results_bytes: usize,
    running: usize,
}

/// What is known of a request at its admission.
pub(crate) struct Admitted {
    pub(crate) app: Arc<str>,
    pub(crate) function: Arc<str>,
    pub(crate) created_us: u64,
    pub(crate) trace: TraceId,
    pub(crate) key: Option<String>,
}

impl Requests {
    pub(crate) fn new(kept_max: usize, results_bytes_max: usize) -> Self {
        Self {
            kept_max,
            results_bytes_max,
            table: Mutex::default(),
        }
    }

    /// Puts a request on the list. What comes back is rung when it is cancelled.
    pub(crate) fn admit(&self, id: RequestId, admitted: Admitted) -> Arc<Notify> {
        let cancel = Arc::new(Notify::new());
        let entry = Box::new(Entry {
            app: admitted.app,
            function: admitted.function,
            created_us: admitted.created_us,
            trace: admitted.trace,
            key: admitted.key,
            cancel: Some(Arc::clone(&cancel)),
            end: None,
        });
        let mut table = self.table.lock();
        table.running += 1;
        if let Some(before) = table.entries.insert(id, entry) {
            // An earlier try with the same key, which left nothing.
            table.forget(id, &before);
        }
        cancel
    }

    /// Notes how a request ended. `bell` is what its admission gave: with the same key there
    /// may be another one of its id by now.
    pub(crate) fn end(
        &self,
        id: RequestId,
        bell: &Arc<Notify>,
        now_us: u64,
        code: Option<Code>,
        counts: Option<Counts>,
        result: Option<Result<Payload, Problem>>,
    ) {
        let mut table = self.table.lock();
        let bytes = result.as_ref().map(|result| match result {
            Ok(payload) => payload.body.len(),
            Err(problem) => problem.detail.len(),
        });
        let Some(entry) = table.entries.get_mut(&id) else {
            return;
        };
        let is_its_own = |cancel: &mut Arc<Notify>| Arc::ptr_eq(cancel, bell);
        if entry.cancel.take_if(is_its_own).is_none() {
            return;
        }
        let duration_us = now_us.saturating_sub(entry.created_us);
        entry.end = Some(End {
            code,
            duration_us,
            counts,
            result: result.map(Box::new),
        });
        table.running -= 1;
        table.ended.push_back(id);
        if let Some(bytes) = bytes {
            table.results_bytes += bytes;
            table.with_result.push_back((id, bytes));
        }
        table.make_room(self.kept_max, self.results_bytes_max);
    }

    pub(crate) fn running(&self) -> usize {
        self.table.lock().running
    }

    pub(crate) fn summary(&self, id: RequestId, now_us: u64) -> Option<RequestSummary> {
        let table = self.table.lock();
        table
            .entries
            .get(&id)
            .map(|entry| entry.summary(id, now_us))
    }

    /// The newest first.
    pub(crate) fn list(
        &self,
        now_us: u64,
        app: Option<&str>,
        state: Option<RequestState>,
        limit: usize,
    ) -> Vec<RequestSummary> {
        let table = self.table.lock();
        let entries = table.entries.iter();
        let mut found: Vec<(&RequestId, &Entry)> = entries
            .map(|(id, entry)| (id, &**entry))
            .filter(|(_, entry)| app.is_none_or(|app| &*entry.app == app))
            .filter(|(_, entry)| state.is_none_or(|state| entry.state() == state))
            .collect();
        found.sort_unstable_by_key(|(id, entry)| (std::cmp::Reverse(entry.created_us), **id));
        found.truncate(limit);
        found
            .into_iter()
            .map(|(id, entry)| entry.summary(*id, now_us))
            .collect()
    }

    pub(crate) fn fetch(&self, id: RequestId, now_us: u64) -> Option<Fetched> {
        let table = self.table.lock();
        let entry = table.entries.get(&id)?;
        Some(match &entry.end {
            None => Fetched::Running(Box::new(entry.summary(id, now_us))),
            Some(End {
                result: Some(result),
                ..
            }) => Fetched::Ended(Result::clone(result)),
            Some(End { result: None, .. }) => Fetched::Forgotten,
        })
    }

    /// Cancels a request. `None`: unknown; `false`: it had ended.
    pub(crate) fn cancel(&self, id: RequestId) -> Option<bool> {
        let table = self.table.lock();
        let entry = table.entries.get(&id)?;
        let cancel = entry.cancel.as_ref();
        cancel.inspect(|cancel| cancel.notify_one());
        Some(cancel.is_some())
    }
}

impl Table {
    fn make_room(&mut self, kept_max: usize, results_bytes_max: usize) {
        while self.results_bytes > results_bytes_max {
            let Some((id, bytes)) = self.with_result.pop_front() else {
                break;
            };
            self.results_bytes -= bytes;
            if let Some(end) = self
                .entries
                .get_mut(&id)
                .and_then(|entry| entry.end.as_mut())
            {
                end.result = None;
            }
        }
        while self.ended.len() > kept_max {
            let Some(id) = self.ended.pop_front() else {
                break;
            };
            self.drop_entry(id);
        }
    }

    /// Takes an earlier request of this id off the list, whose place another has taken.
    fn forget(&mut self, id: RequestId, entry: &Entry) {
        match self.ended.iter().position(|other| *other == id) {
            Some(place) => drop(self.ended.remove(place)),
            // A run that is being cancelled ends after the new one has begun.
            None => self.running -= 1,
        }
        self.let_go(id, entry);
    }

    fn drop_entry(&mut self, id: RequestId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.let_go(id, &entry);
        }
    }

    /// Counts the result of an entry no more.
    fn let_go(&mut self, id: RequestId, entry: &Entry) {
        let end = entry.end.as_ref();
        if end.is_none_or(|end| end.result.is_none()) {
            return;
        }
        let place = self.with_result.iter().position(|(other, _)| *other == id);
        if let Some(place) = place
            && let Some((_, bytes)) = self.with_result.remove(place)
        {
            self.results_bytes -= bytes;
        }
    }
}

impl Entry {
    fn state(&self) -> RequestState {
        match &self.end {
            None => RequestState::Running,
            Some(End { code: None, .. }) => RequestState::Succeeded,
            Some(End {
                code: Some(Code::Cancelled),
                ..
            }) => RequestState::Cancelled,
            Some(_) => RequestState::Failed,
        }
    }

    fn meter(&self, id: RequestId, end: &End) -> Option<Meter> {
        let counts = end.counts?;
        Some(Meter {
            request: id.0,
            app: Arc::clone(&self.app),
            function: Arc::clone(&self.function),
            started_us: self.created_us,
            duration_us: end.duration_us,
            cpu_us: counts.cpu_us,
            memory_byte_ms: counts.memory_byte_ms,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            state_reads: counts.state_reads,
            state_writes: counts.state_writes,
            outcome: end.code.map_or(OUTCOME_OK, Code::as_str),
        })
    }

    fn summary(&self, id: RequestId, now_us: u64) -> RequestSummary {
        let end = self.end.as_ref();
        let duration_us = end.map_or_else(
            || now_us.saturating_sub(self.created_us),
            |end| end.duration_us,
        );
        RequestSummary {
            id: id.to_string(),
            app: self.app.to_string(),
            function: self.function.to_string(),
            state: self.state(),
            code: end.and_then(|end| end.code).map(Code::as_str),
            created_ms: self.created_us / 1000,
            #[expect(clippy::cast_precision_loss, reason = "durations are far below 2^52")]
            duration_ms: duration_us as f64 / 1000.0,
            trace: self.trace.to_string(),
            key: self.key.clone(),
            meter: end.and_then(|end| self.meter(id, end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(at: u64) -> Admitted {
        Admitted {
            app: "a".into(),
            function: "f".into(),
            created_us: at,
            trace: TraceId(7),
            key: None,
        }
    }

    fn end(requests: &Requests, n: u64, bell: &Arc<Notify>, result: Option<Payload>) {
        requests.end(RequestId(n.into()), bell, 100, None, None, result.map(Ok));
    }

    #[test]
    fn the_list_is_bounded_and_newest_first() {
        let requests = Requests::new(3, 1000);
        let admit = |n: u64| (n, requests.admit(RequestId(n.into()), admitted(n)));
        let bells: Vec<_> = (1..=5).map(admit).collect();
        assert_eq!(requests.running(), 5);
        for (n, bell) in &bells {
            end(&requests, *n, bell, None);
        }
        let listed: Vec<_> = requests
            .list(100, None, None, 10)
            .iter()
            .map(|r| r.created_ms)
            .collect();
        assert_eq!(listed.len(), 3);
        assert!(requests.summary(RequestId(1), 100).is_none());
        assert_eq!(
            requests.list(100, None, None, 1)[0].id,
            RequestId(5).to_string()
        );
        assert_eq!(requests.running(), 0);
    }

    #[test]
    fn old_results_make_room_for_new_ones() {
        let requests = Requests::new(10, 250);
        for n in 1..=3_u64 {
            let bell = requests.admit(RequestId(n.into()), admitted(n));
            end(&requests, n, &bell, Some(Payload::bytes(vec![0; 100])));
        }
        let kept = |n: u64| {
            matches!(
                requests.fetch(RequestId(n.into()), 0),
                Some(Fetched::Ended(Ok(_)))
            )
        };
        assert_eq!([kept(1), kept(2), kept(3)], [false, true, true]);
    }

    #[test]
    fn a_request_that_is_tried_again_is_listed_once() {
        let requests = Requests::new(10, 250);
        let body = || Some(Payload::bytes(vec![0; 100]));
        for _ in 0..5 {
            let bell = requests.admit(RequestId(1), admitted(1));
            end(&requests, 1, &bell, body());
        }
        let other = requests.admit(RequestId(2), admitted(2));
        end(&requests, 2, &other, body());
        assert_eq!(requests.list(100, None, None, 10).len(), 2);
        let first = requests.fetch(RequestId(1), 0);
        assert!(matches!(first, Some(Fetched::Ended(Ok(_)))));
        // One that is being cancelled ends after the next has begun, and does not end it.
        let old = requests.admit(RequestId(3), admitted(3));
        let new = requests.admit(RequestId(3), admitted(4));
        end(&requests, 3, &old, None);
        assert_eq!(requests.running(), 1);
        end(&requests, 3, &new, None);
        assert_eq!(requests.running(), 0);
    }

    #[test]
    fn a_cancel_rings_once_and_says_what_it_found() {
        let requests = Requests::new(10, 10);
        let bell = requests.admit(RequestId(1), admitted(1));
        assert_eq!(requests.cancel(RequestId(2)), None);
        assert_eq!(requests.cancel(RequestId(1)), Some(true));
        let rung = std::pin::pin!(bell.notified());
        assert!(futures_util::FutureExt::now_or_never(rung).is_some());
        requests.end(RequestId(1), &bell, 5, Some(Code::Cancelled), None, None);
        assert_eq!(requests.cancel(RequestId(1)), Some(false));
        let state = requests.summary(RequestId(1), 9).unwrap().state;
        assert_eq!(state, RequestState::Cancelled);
    }
}
