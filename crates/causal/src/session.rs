//! What a client carries from one request to the next.

use tidemill_lattice::Time;

/// A session's token: everything the session has seen or written is at or below its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// The greatest commit and the greatest snapshot of the session so far.
    pub time: Time,
    /// The loss number of the cluster when the token was made.
    pub loss: u64,
}

/// What a token means to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// A snapshot at or above its time continues the session.
    Good,
    /// Commits may have been lost since: the session cannot be continued.
    Lost,
}

impl Token {
    /// The token of an answer. Both times count: a request that wrote nothing has still seen its
    /// snapshot, and one that was answered from its record has a commit above the snapshot.
    #[must_use]
    pub fn after(self, commit: Option<Time>, snapshot: Time, loss: u64) -> Token {
        Token {
            time: self.time.max(snapshot).max(commit.unwrap_or(Time::ZERO)),
            loss: self.loss.max(loss),
        }
    }

    /// Whether the session can go on in a cluster with this loss number. An empty token has
    /// nothing to lose.
    #[must_use]
    pub fn state(self, loss: u64) -> TokenState {
        if self.time > Time::ZERO && self.loss < loss {
            TokenState::Lost
        } else {
            TokenState::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_rises_with_commits_and_with_snapshots() {
        let at = Time::from_u64;
        let token = Token::default().after(Some(at(9)), at(4), 0);
        assert_eq!(token.time, at(9));
        assert_eq!(token.after(None, at(12), 0).time, at(12));
        assert_eq!(token.after(None, at(3), 0).time, at(9));
    }

    #[test]
    fn a_token_from_before_a_loss_is_lost_unless_it_is_empty() {
        let token = Token::default().after(None, Time::from_u64(3), 1);
        assert_eq!(token.state(1), TokenState::Good);
        assert_eq!(token.state(2), TokenState::Lost);
        assert_eq!(Token::default().state(2), TokenState::Good);
    }
}
