//! Sessions across requests: the token of each answer, and waiting for what a token names.
//!
//! A request begins once the newest complete state has passed what its session has seen, so its
//! snapshot has that; its commit lies above its snapshot. Nobody waits on a thread.

use crate::inner::Inner;
use crate::{Level, Runtime};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidemill_lattice::{Entropy, Time};
use tidemill_problem::{Code, Problem};
use tidemill_session::{Seen, Tokens};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a request without a deadline waits for what its session has seen.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);

/// The tokens of a node with this secret; without one, of this life of it.
pub(crate) fn tokens(secret: Option<[u8; 32]>, entropy: &dyn Entropy) -> Tokens {
    Tokens::new(&secret.unwrap_or_else(|| {
        let mut drawn = [0; 32];
        entropy.fill(&mut drawn);
        drawn
    }))
}

/// What a session has seen. Its token is signed for those who ask for it. It may outlive the
/// runtime, and does not keep it.
#[derive(Clone)]
pub struct SessionSeen {
    seen: Seen,
    tokens: Arc<Tokens>,
}

impl SessionSeen {
    /// The token to be shown again with the session's next request.
    #[must_use]
    pub fn token(&self) -> String {
        self.tokens.token(self.seen)
    }
}

impl fmt::Debug for SessionSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seen.fmt(f)
    }
}

impl Inner {
    /// Reads a token: the time that its session has seen.
    ///
    /// # Errors
    /// `bad-session-token`, `state-lost`.
    pub(crate) fn since(&self, token: &str) -> Result<Time, Problem> {
        let seen = self.tokens.read(token).map_err(|error| {
            let detail = format!(
                "the header `Tidemill-Session`: {error}; leave it out to begin a new session"
            );
            Problem::new(Code::BadSessionToken, detail)
        })?;
        if self.store.has_kept(seen.losses, seen.time) {
            return Ok(seen.time);
        }
        let detail = format!(
            "the session had seen the state at {}, and the node has lost its last writes since; \
             begin a new session and read again what you rely on",
            seen.time
        );
        Err(Problem::new(Code::StateLost, detail))
    }

    /// The token of a session that has seen the state at this time.
    pub(crate) fn token(&self, time: Time) -> String {
        self.tokens.token(self.seen(time))
    }

    fn seen(&self, time: Time) -> Seen {
        let losses = self.store.losses();
        Seen { losses, time }
    }

    /// Waits until every new snapshot has what was committed at `time`.
    ///
    /// # Errors
    /// `timed-out` if the deadline comes first.
    pub(crate) async fn catch_up(
        &self,
        time: Time,
        deadline: Option<Instant>,
    ) -> Result<(), Problem> {
        if time == Time::ZERO || time <= self.store.stable() {
            return Ok(());
        }
        let (sender, receiver) = oneshot::channel();
        let then = Box::new(move || {
            let _ = sender.send(());
        });
        self.store.when_stable(time, then);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + CATCH_UP_MAX);
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Problem::new(
                Code::ShuttingDown,
                "the store closed before it had what the session has seen",
            )),
            Err(_) => Err(Problem::new(
                Code::TimedOut,
                "the call's time was over while the node waited for what its session has seen; \
                 try again",
            )),
        }
    }
}

impl crate::execute::Execution {
    /// What the request has seen so far; none if that is nothing.
    pub(crate) fn session_seen(&self) -> Option<SessionSeen> {
        let time = self.seen_by_now();
        (time > Time::ZERO).then(|| SessionSeen {
            seen: self.inner.seen(time),
            tokens: Arc::clone(&self.inner.tokens),
        })
    }

    /// The same, as a token.
    pub(crate) fn token(&self) -> Option<String> {
        self.session_seen().map(|seen| seen.token())
    }

    /// The greatest time that the request has seen.
    pub(crate) fn seen_by_now(&self) -> Time {
        let mut time = self.seen();
        if let Some(session) = self.begun() {
            time = time.max(session.written());
            // Without a snapshot it has seen what was here until now.
            let is_snapshot = self.promise().level == Level::Causal;
            time = time.max(if is_snapshot {
                session.time()
            } else {
                self.inner.store.stable()
            });
        }
        time
    }
}

impl Runtime {
    /// Waits until every new snapshot has what the session of this token has seen.
    ///
    /// # Errors
    /// `bad-session-token`, `state-lost`; `timed-out` if that takes longer than half a minute.
    pub async fn catch_up(&self, token: &str) -> Result<(), Problem> {
        let time = self.inner.since(token)?;
        self.inner.catch_up(time, None).await
    }

    /// The token of a session that has seen everything that is complete by now.
    #[must_use]
    pub fn token(&self) -> String {
        self.inner.token(self.inner.store.stable())
    }
}
