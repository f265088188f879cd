//! `wasi:keyvalue` over the app's own keys, for guests that were written for any host.
//!
//! The bucket `""` or `"default"` is the app's keys as they are; any other bucket `b` is the keys
//! with the prefix `b/`. A value is a register of bytes, and what `increment` makes is a counter,
//! read as its decimal text. A guest sees its request's own writes, and they are committed with
//! the request; so `increment` gives the sum as this request sees it, and increments of requests
//! at the same time all count.

use crate::bindings::standard::wasi::keyvalue::{atomics, batch, store};
use crate::data::Data;
use std::collections::VecDeque;
use store::{Error, KeyResponse};
use tidemill_lattice::{Kind, Op, Payload, Value};
use tidemill_problem::Problem;
use wasmtime::component::Resource;

/// The most keys of one page of a list.
const PAGE_KEYS_MAX: usize = 1000;
/// How many pages an instance can go on after.
const CURSORS_MAX: usize = 256;
/// The longest name of a bucket: with a key it is a key.
const BUCKET_BYTES_MAX: usize = 1024;
/// After so many keys of one batch others have their turn.
const TURN_KEYS: usize = 256;

/// A bucket that a guest has opened.
#[expect(unreachable_pub, reason = "generated code names it again")]
pub struct Bucket {
    /// In front of each of its keys.
    prefix: String,
}

/// Where lists go on: a cursor is how many keys came before it.
#[derive(Default)]
pub(crate) struct Cursors(VecDeque<Cursor>);

struct Cursor {
    prefix: String,
    position: u64,
    after: String,
}

impl Cursors {
    fn put(&mut self, cursor: Cursor) {
        self.0
            .retain(|one| (one.position, &one.prefix) != (cursor.position, &cursor.prefix));
        if self.0.len() == CURSORS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(cursor);
    }

    /// The key to go on after.
    fn after(&self, prefix: &str, position: u64) -> Option<String> {
        let mut all = self.0.iter();
        let found = all.find(|one| one.position == position && one.prefix == prefix);
        found.map(|one| one.after.clone())
    }
}

/// A host function's answer: to the guest, unless the guest is to be stopped.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Other(format!("{}: {}", problem.code.as_str(), problem.detail))
    }
}

impl Data {
    /// The key of the app that a bucket's key is.
    fn bucket_key(&self, bucket: &Resource<Bucket>, key: &str) -> wasmtime::Result<String> {
        let prefix = &self.table.get(bucket)?.prefix;
        Ok(format!("{prefix}{key}"))
    }

    fn bytes(&mut self, key: &str) -> Answer<Option<Vec<u8>>> {
        let platform = self.platform()?;
        let at = platform.time();
        let cell = match platform.read(key, None) {
            Ok(cell) => cell,
            Err(problem) => return Ok(Err(problem.into())),
        };
        let value = cell.as_ref().and_then(|cell| cell.view(at));
        Ok(value.map(bytes_of).transpose())
    }

    async fn put(&mut self, key: &str, op: &Op) -> Answer<()> {
        let platform = self.platform()?;
        if let Err(problem) = platform.write(key, op) {
            return Ok(Err(problem.into()));
        }
        Ok(match platform.settled() {
            None => Ok(()),
            Some(settled) => settled.await.map_err(Into::into),
        })
    }

    /// What a counter holds; 0 if there is none.
    fn sum(&mut self, key: &str) -> Answer<i128> {
        let platform = self.platform()?;
        let at = platform.time();
        let cell = match platform.read(key, Some(Kind::Counter)) {
            Ok(cell) => cell,
            Err(problem) => return Ok(Err(problem.into())),
        };
        Ok(Ok(match cell.as_ref().and_then(|cell| cell.view(at)) {
            Some(Value::Counter(counter)) => counter.value(),
            _ => 0,
        }))
    }
}

/// A value as bytes, if it has such a form.
fn bytes_of(value: &Value) -> Result<Vec<u8>, Error> {
    match value {
        Value::Register(register) => Ok(register.get().body.to_vec()),
        Value::Counter(counter) => Ok(counter.value().to_string().into_bytes()),
        other => Err(Error::Other(format!(
            "wrong-type: the key holds a {}, and a wasi:keyvalue store has registers and \
             counters only; ask tidemill:platform/state for it",
            other.kind().as_str()
        ))),
    }
}

/// The sum after an increment, if the interface can say it.
fn raised(before: i128, delta: u64) -> Result<(i64, u64), Error> {
    let amount = i64::try_from(delta)
        .map_err(|_| Error::Other(format!("increment by at most {}, not {delta}", i64::MAX)));
    let sum = u64::try_from(before.saturating_add(delta.into())).map_err(|_| {
        Error::Other(format!(
            "the counter is {before}, and what increment gives is between 0 and {}; \
             ask tidemill:platform/counter for it",
            u64::MAX
        ))
    });
    Ok((amount?, sum?))
}

/// Makes room for others in a long batch.
async fn take_turns(done: usize) {
    if done % TURN_KEYS == TURN_KEYS - 1 {
        tokio::task::yield_now().await;
    }
}

impl store::Host for Data {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        if identifier.len() > BUCKET_BYTES_MAX {
            return Ok(Err(Error::NoSuchStore));
        }
        let prefix = match identifier.as_str() {
            "" | "default" => String::new(),
            name => format!("{name}/"),
        };
        Ok(Ok(self.table.push(Bucket { prefix })?))
    }
}

impl store::HostBucket for Data {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let key = self.bucket_key(&bucket, &key)?;
        self.bytes(&key)
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let key = self.bucket_key(&bucket, &key)?;
        let op = Op::RegisterSet(Payload::bytes(value));
        self.put(&key, &op).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let key = self.bucket_key(&bucket, &key)?;
        self.put(&key, &Op::Delete).await
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let key = self.bucket_key(&bucket, &key)?;
        let platform = self.platform()?;
        let at = platform.time();
        Ok(match platform.read(&key, None) {
            Ok(cell) => Ok(cell.is_some_and(|cell| cell.view(at).is_some())),
            Err(problem) => Err(problem.into()),
        })
    }

    fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        let prefix = self.table.get(&bucket)?.prefix.clone();
        let position = cursor.unwrap_or(0);
        let after = if position == 0 {
            None
        } else {
            let Some(after) = self.cursors.after(&prefix, position) else {
                let message = "this cursor is none that list-keys gave here, or was given long \
                               ago; begin anew without a cursor";
                return Ok(Err(Error::Other(message.to_owned())));
            };
            Some(after)
        };
        let platform = self.platform()?;
        let page = match platform.keys(&prefix, after.as_deref(), PAGE_KEYS_MAX) {
            Ok(page) => page,
            Err(problem) => return Ok(Err(problem.into())),
        };
        let keys: Vec<String> = page
            .keys
            .into_iter()
            .filter_map(|(name, _)| Some(name.strip_prefix(&prefix)?.to_owned()))
            .collect();
        // A page may be empty where much was deleted; a cursor is never one that was given.
        let next = page.next.map(|after| {
            let position = position.saturating_add(keys.len().max(1) as u64);
            self.cursors.put(Cursor {
                prefix,
                position,
                after,
            });
            position
        });
        Ok(Ok(KeyResponse { keys, cursor: next }))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for Data {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Answer<u64> {
        let key = self.bucket_key(&bucket, &key)?;
        let before = match self.sum(&key)? {
            Ok(before) => before,
            Err(error) => return Ok(Err(error)),
        };
        let (amount, sum) = match raised(before, delta) {
            Ok(raised) => raised,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = self.put(&key, &Op::CounterAdd(amount)).await? {
            return Ok(Err(error));
        }
        // Where each write stands for itself, others have added, too.
        let now = self.sum(&key)?;
        Ok(now.map(|now| u64::try_from(now).unwrap_or(sum)))
    }
}

impl batch::Host for Data {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let mut found = Vec::with_capacity(keys.len());
        // The guest has to hold the answer; one small list could name a large value often.
        let mut room = self.memory_bytes_max();
        for (done, key) in keys.into_iter().enumerate() {
            let name = self.bucket_key(&bucket, &key)?;
            let value = match self.bytes(&name)? {
                Ok(value) => value,
                Err(error) => return Ok(Err(error)),
            };
            let bytes = value.as_ref().map_or(0, Vec::len);
            let Some(left) = room.checked_sub(bytes) else {
                let message = "these values are larger together than the function's memory; get \
                               fewer at a time";
                return Ok(Err(Error::Other(message.to_owned())));
            };
            room = left;
            found.push(value.map(|value| (key, value)));
            take_turns(done).await;
        }
        Ok(Ok(found))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Answer<()> {
        for (done, (key, value)) in key_values.into_iter().enumerate() {
            let name = self.bucket_key(&bucket, &key)?;
            let op = Op::RegisterSet(Payload::bytes(value));
            if let Err(error) = self.put(&name, &op).await? {
                return Ok(Err(error));
            }
            take_turns(done).await;
        }
        Ok(Ok(()))
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        for (done, key) in keys.into_iter().enumerate() {
            let name = self.bucket_key(&bucket, &key)?;
            if let Err(error) = self.put(&name, &Op::Delete).await? {
                return Ok(Err(error));
            }
            take_turns(done).await;
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(prefix: &str, position: u64) -> Cursor {
        Cursor {
            prefix: prefix.to_owned(),
            position,
            after: format!("{prefix}{position}"),
        }
    }

    #[test]
    fn the_oldest_cursors_are_forgotten_and_buckets_have_their_own() {
        let mut cursors = Cursors::default();
        for position in 1..=CURSORS_MAX as u64 + 1 {
            cursors.put(cursor("a/", position));
        }
        assert_eq!(cursors.after("a/", 1), None);
        assert_eq!(cursors.after("a/", 2).as_deref(), Some("a/2"));
        assert_eq!(cursors.after("b/", 2), None);
        cursors.put(cursor("a/", 2));
        assert_eq!(cursors.0.len(), CURSORS_MAX);
        assert_eq!(cursors.after("a/", 3).as_deref(), Some("a/3"));
    }

    #[test]
    fn an_increment_gives_what_the_interface_can_say() {
        assert!(matches!(raised(-3, 5), Ok((5, 2))));
        assert!(matches!(raised(0, 0), Ok((0, 0))));
        assert!(raised(-3, 2).is_err());
        assert!(raised(0, u64::MAX).is_err());
        assert!(raised(u64::MAX.into(), 1).is_err());
    }
}
