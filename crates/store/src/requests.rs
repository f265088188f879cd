//! Records of requests that have taken effect, so that a retry is answered and not run.
//!
//! A record is written in the batch of the log that holds its commit, so it stands with the
//! commit's deltas or not at all. It passes through two times: until the first it gives its
//! result; until the second it only says that the request has been, so that a late retry is
//! refused and not run once more; then it is forgotten.
//!
//! | field of the stored value | bytes |
//! |---|---|
//! | version, 1 | 1 |
//! | 1 with a result, 0 without | 1 |
//! | commit time | 8 |
//! | number of the log's group | 8 |
//! | when its next time is due, Unix microseconds | 8 |
//! | with a result: until when the id is refused after that, Unix microseconds | 8 |
//! | with a result: digest of the arguments | 16 |
//! | with a result: the result | … |
//! | XXH3-64 of the id and everything before | 8 |
//!
//! Fixed numbers are big endian; the key is the id. A second table, ordered by due time and
//! id, finds what is due.
//!
//! Pure: it knows bytes and times, not where they are kept.

use bytes::{Buf, Bytes};
use tidemill_lattice::Time;
use xxhash_rust::xxh3::Xxh3;

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// What a record takes besides its result, in both tables.
pub(crate) const OVERHEAD_BYTES: usize = 16 + 1 + 1 + 8 + 8 + 8 + 8 + 16 + 8 + 24;

/// What a commit keeps of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Names the arguments: the same request with another digest is not a retry.
    pub digest: u128,
    /// What the caller was told, for the store just bytes.
    pub result: Bytes,
    /// Until when the result is kept, in Unix microseconds.
    pub expires_us: u64,
    /// Until when the id is refused after that; at or below `expires_us` it is forgotten then.
    pub refused_until_us: u64,
}

/// A request that has taken effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    /// The time of its commit.
    pub time: Time,
    /// What it answered; `None` once that has expired.
    pub answer: Option<RecordedAnswer>,
}

/// What a request was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedAnswer {
    /// Names the arguments.
    pub digest: u128,
    /// What the caller was told.
    pub result: Bytes,
}

/// A record as it is stored, and as backups carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    /// The request.
    pub id: u128,
    /// The time of its commit.
    pub time: Time,
    /// The log's group that it was written with; 0 in a store that was restored.
    pub group: u64,
    /// When its result expires, or when it is forgotten where it has none. Unix microseconds.
    pub due_us: u64,
    /// Until when the id is refused, Unix microseconds.
    pub refused_until_us: u64,
    /// What it answered, until that expires.
    pub answer: Option<RecordedAnswer>,
}

/// What is to be done with a record that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// It is not due yet.
    Keep,
    /// Its result goes, the id stays.
    Refuse(StoredRequest),
    /// All of it goes.
    Forget,
}

impl StoredRequest {
    /// The record of a commit.
    pub(crate) fn new(id: u128, time: Time, group: u64, record: RequestRecord) -> StoredRequest {
        let RequestRecord {
            digest,
            result,
            expires_us,
            refused_until_us,
        } = record;
        StoredRequest {
            id,
            time,
            group,
            due_us: expires_us,
            refused_until_us,
            answer: Some(RecordedAnswer { digest, result }),
        }
    }

    /// What is to be done with it now.
    pub(crate) fn sweep(&self, now_us: u64) -> Sweep {
        if now_us < self.due_us {
            Sweep::Keep
        } else if self.answer.is_some() && now_us < self.refused_until_us {
            Sweep::Refuse(StoredRequest {
                due_us: self.refused_until_us,
                answer: None,
                ..self.clone()
            })
        } else {
            Sweep::Forget
        }
    }

    /// What it says now, whether it has been swept or not.
    pub(crate) fn at(self, now_us: u64) -> Option<RecordedRequest> {
        let seen = match self.sweep(now_us) {
            Sweep::Keep => self,
            Sweep::Refuse(rest) => rest,
            Sweep::Forget => return None,
        };
        Some(RecordedRequest {
            time: seen.time,
            answer: seen.answer,
        })
    }

    /// The stored value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let result_bytes = self.answer.as_ref().map_or(0, |a| a.result.len());
        let mut out = Vec::with_capacity(OVERHEAD_BYTES + result_bytes);
        out.push(VERSION);
        out.push(u8::from(self.answer.is_some()));
        out.extend_from_slice(&self.time.as_u64().to_be_bytes());
        out.extend_from_slice(&self.group.to_be_bytes());
        out.extend_from_slice(&self.due_us.to_be_bytes());
        if let Some(answer) = &self.answer {
            out.extend_from_slice(&self.refused_until_us.to_be_bytes());
            out.extend_from_slice(&answer.digest.to_be_bytes());
            out.extend_from_slice(&answer.result);
        }
        let checksum = checksum(self.id, &out);
        out.extend_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Reads a stored value, or says what is wrong with it.
    pub(crate) fn decode(id: u128, value: &[u8]) -> Result<StoredRequest, &'static str> {
        const SHORT: &str = "it is too short";
        let body = value.len().checked_sub(CHECKSUM_BYTES).ok_or(SHORT)?;
        let (mut rest, mut stored) = value.split_at(body);
        if checksum(id, rest) != stored.try_get_u64().map_err(|_| SHORT)? {
            return Err("its checksum is wrong");
        }
        if rest.try_get_u8().map_err(|_| SHORT)? != VERSION {
            return Err("another version wrote it");
        }
        let has_answer = match rest.try_get_u8().map_err(|_| SHORT)? {
            0 => false,
            1 => true,
            _ => return Err("it is of no known kind"),
        };
        let mut number = || rest.try_get_u64().map_err(|_| SHORT);
        let (time, group, due_us) = (Time::from_u64(number()?), number()?, number()?);
        let refused_until_us = if has_answer { number()? } else { due_us };
        let answer = if has_answer {
            let digest = rest.try_get_u128().map_err(|_| SHORT)?;
            // A copy of its own: a slice would keep the engine's whole block in memory.
            let result = Bytes::copy_from_slice(rest);
            Some(RecordedAnswer { digest, result })
        } else {
            None
        };
        Ok(StoredRequest {
            id,
            time,
            group,
            due_us,
            refused_until_us,
            answer,
        })
    }
}

fn checksum(id: u128, body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&id.to_be_bytes());
    hash.update(body);
    hash.digest()
}

/// The key of a record in the table of what is due.
pub(crate) fn due_key(due_us: u64, id: u128) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&due_us.to_be_bytes());
    key[8..].copy_from_slice(&id.to_be_bytes());
    key
}

/// Reads such a key.
pub(crate) fn read_due_key(mut key: &[u8]) -> Option<(u64, u128)> {
    if key.len() != 24 {
        return None;
    }
    Some((key.try_get_u64().ok()?, key.try_get_u128().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> StoredRequest {
        let record = RequestRecord {
            digest: 9,
            result: Bytes::from_static(b"twelve"),
            expires_us: 100,
            refused_until_us: 700,
        };
        StoredRequest::new(77, Time::from_micros(50), 3, record)
    }

    #[test]
    fn a_record_survives_its_encoding_and_damage_is_told() {
        let mark = StoredRequest {
            answer: None,
            due_us: 700,
            ..sample()
        };
        for record in [sample(), mark] {
            let value = record.encode();
            assert!(value.len() <= OVERHEAD_BYTES + 6);
            assert_eq!(StoredRequest::decode(77, &value), Ok(record));
            // Another record's value is as wrong as a damaged one.
            assert!(StoredRequest::decode(78, &value).is_err());
            for cut in 0..value.len() {
                assert!(StoredRequest::decode(77, &value[..cut]).is_err(), "{cut}");
            }
            for bit in 0..value.len() * 8 {
                let mut damaged = value.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(StoredRequest::decode(77, &damaged).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_result_expires_then_the_id_is_refused_then_forgotten() {
        let at = |now_us| sample().at(now_us);
        assert_eq!(at(99).and_then(|seen| seen.answer), sample().answer);
        let refused = at(100).expect("it is still known");
        assert_eq!((refused.time, refused.answer), (sample().time, None));
        assert!(at(699).is_some());
        assert_eq!(at(700), None);
    }

    #[test]
    fn sweeping_leaves_what_looking_would_have_seen() {
        let Sweep::Refuse(mark) = sample().sweep(100) else {
            panic!("its result expires first");
        };
        assert_eq!(mark.due_us, 700);
        assert_eq!(mark.sweep(699), Sweep::Keep);
        assert_eq!(mark.sweep(700), Sweep::Forget);
        assert_eq!(mark.at(300), sample().at(300));
        let forgotten = StoredRequest {
            refused_until_us: 0,
            ..sample()
        };
        assert_eq!(forgotten.sweep(100), Sweep::Forget);
        assert_eq!(sample().sweep(99), Sweep::Keep);
    }

    #[test]
    fn what_is_due_is_ordered_by_time() {
        assert!(due_key(5, u128::MAX) < due_key(6, 0));
        assert_eq!(read_due_key(&due_key(5, 7)), Some((5, 7)));
        assert_eq!(read_due_key(&[0; 23]), None);
    }
}
