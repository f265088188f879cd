//! Who a request is: the same for every retry with the same key, and what it was asked.

use crate::{Call, RequestId};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tidemill_lattice::{ContentType, Payload};
use tidemill_problem::{Code, Problem};
use tidemill_store::{MessageId, RequestRecord};

/// What client libraries begin their keys with: `tm1-`, the key's birth in Unix milliseconds
/// in 12 hexadecimal digits, `-`, 32 random ones.
const BORN: &str = "tm1-";
/// A client's clock may be so far ahead of this one.
const AHEAD_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// After a result has expired its id is refused for so many times its retention.
const REFUSED_RETENTIONS: u64 = 7;

/// A request that may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: RequestId,
    /// Names the arguments.
    pub(crate) digest: u128,
    /// When its key was made, where the key says so.
    birth_us: Option<u64>,
}

/// How a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    pub(crate) digest: u128,
    expires_us: u64,
    refused_until_us: u64,
}

impl Identity {
    /// The identity of a call with a key; `None` for one without.
    ///
    /// # Errors
    /// `bad-request` for a key from the future, `request-expired` for one whose record would
    /// have expired.
    pub(crate) fn of(
        call: &Call,
        now_us: u64,
        retention: Duration,
    ) -> Result<Option<Self>, Problem> {
        let Some(key) = &call.key else {
            return Ok(None);
        };
        let birth_ms = birth_ms(key);
        if let Some(birth_ms) = birth_ms {
            let now_ms = now_us / 1000;
            if birth_ms > now_ms.saturating_add(AHEAD_MAX_MS) {
                return Err(Problem::new(
                    Code::BadRequest,
                    "the idempotency key says that it was made in the future; set the client's clock",
                ));
            }
            let age = Duration::from_millis(now_ms.saturating_sub(birth_ms));
            if age > retention {
                return Err(expired());
            }
        }
        let parts = [
            call.caller.tenant.as_bytes(),
            call.app.as_bytes(),
            call.function.as_bytes(),
            key.as_bytes(),
        ];
        Ok(Some(Self {
            id: RequestId(hash("request", &parts)),
            digest: digest_of(&call.input),
            birth_us: birth_ms.map(|ms| ms.saturating_mul(1000)),
        }))
    }

    /// Whether the caller chose the key, and not his client library for the one call.
    pub(crate) fn is_own(&self) -> bool {
        self.birth_us.is_none()
    }

    /// How it is recorded if it commits now.
    pub(crate) fn recording(&self, now_us: u64, retention: Duration) -> Recording {
        let retention_us = micros(retention);
        let from_us = self
            .birth_us
            .map_or(now_us, |birth_us| birth_us.max(now_us));
        let expires_us = from_us.saturating_add(retention_us);
        // A key that says when it was made is refused by that alone.
        let refused_us = match self.birth_us {
            Some(_) => 0,
            None => retention_us.saturating_mul(REFUSED_RETENTIONS),
        };
        Recording {
            digest: self.digest,
            expires_us,
            refused_until_us: expires_us.saturating_add(refused_us),
        }
    }
}

impl Recording {
    /// How a request is recorded that nobody can ask again.
    pub(crate) fn plain(now_us: u64, retention: Duration) -> Self {
        let expires_us = now_us.saturating_add(micros(retention));
        Self {
            digest: 0,
            expires_us,
            refused_until_us: expires_us,
        }
    }

    pub(crate) fn record(self, result: bytes::Bytes) -> RequestRecord {
        RequestRecord {
            digest: self.digest,
            result,
            expires_us: self.expires_us,
            refused_until_us: self.refused_until_us,
        }
    }
}

/// What a retry is told that came too late.
pub(crate) fn expired() -> Problem {
    Problem::new(
        Code::RequestExpired,
        "the request was made so long ago that its result is not kept any more; it is not run \
         again. If it is meant as a new one, use a new key",
    )
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// When a key of a client library was made; any other key says nothing.
fn birth_ms(key: &str) -> Option<u64> {
    let (birth, random) = key.strip_prefix(BORN)?.split_once('-')?;
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if birth.len() != 12 || random.len() != 32 || !is_hex(birth) || !is_hex(random) {
        return None;
    }
    u64::from_str_radix(birth, 16).ok()
}

/// The first 128 bits of a SHA-256 (FIPS 180-4) over a purpose and parts, none of which can
/// run into the next.
fn hash(purpose: &str, parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in [purpose.as_bytes()].iter().chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    first(hash)
}

fn first(hash: Sha256) -> u128 {
    let mut id = [0; 16];
    let digest = hash.finalize();
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    u128::from_be_bytes(id)
}

/// Names arguments by their content type and bytes. Space between the tokens of JSON is left
/// out; everything else counts, the order of an object's members too.
fn digest_of(input: &Payload) -> u128 {
    let mut hash = Sha256::new();
    hash.update(input.content_type.as_str());
    hash.update([0]);
    if input.content_type != ContentType::Json {
        hash.update(&input.body);
        return first(hash);
    }
    let (mut in_text, mut is_escaped) = (false, false);
    let mut from = 0;
    for (at, byte) in input.body.iter().enumerate() {
        if in_text {
            in_text = is_escaped || *byte != b'"';
            is_escaped = !is_escaped && *byte == b'\\';
        } else if *byte == b'"' {
            in_text = true;
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            hash.update(input.body.get(from..at).unwrap_or_default());
            from = at + 1;
        }
    }
    hash.update(input.body.get(from..).unwrap_or_default());
    first(hash)
}

/// The request that a message starts: the same each time that it is delivered.
pub(crate) fn message_id((time, index): MessageId) -> RequestId {
    let parts = [&time.as_u64().to_be_bytes()[..], &index.to_be_bytes()];
    RequestId(hash("message", &parts))
}

/// What names a call within its request: the call it is made by, the step of that one's flow,
/// and how many calls that step had made before.
pub(crate) fn child_path(parent: u128, step: u32, nth: u32) -> u128 {
    let parts = [
        &parent.to_be_bytes()[..],
        &step.to_be_bytes(),
        &nth.to_be_bytes(),
    ];
    hash("call", &parts)
}

/// What names the record of a `step`: the request, the place of the call that runs it, the step
/// of the flow there, the step's name, and how many of that name came before.
pub(crate) fn step_record_id(
    request: RequestId,
    path: u128,
    step: u32,
    name: &str,
    nth: u32,
) -> u128 {
    let parts = [
        &request.0.to_be_bytes()[..],
        &path.to_be_bytes(),
        &step.to_be_bytes(),
        name.as_bytes(),
        &nth.to_be_bytes(),
    ];
    hash("step", &parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;

    const NOW_US: u64 = 1_700_000_000_000_000;
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

    fn call(key: Option<&str>) -> Call {
        Call {
            app: "shop".into(),
            function: "pay".into(),
            input: Payload::new(ContentType::Json, "[1]"),
            key: key.map(str::to_owned),
            trace: None,
            caller: Caller {
                tenant: "default".into(),
                subject: "s".into(),
            },
            timeout: None,
            asked: crate::Asked::default(),
        }
    }

    fn identity(call: &Call) -> Identity {
        let identity = Identity::of(call, NOW_US, DAY).expect("a good key");
        identity.expect("a key")
    }

    fn born(birth_ms: u64) -> String {
        format!("tm1-{birth_ms:012x}-{:032x}", 7)
    }

    #[test]
    fn the_same_key_is_the_same_request_and_each_part_counts() {
        let first = call(Some("k"));
        assert_eq!(identity(&first), identity(&first.clone()));
        assert_eq!(Identity::of(&call(None), NOW_US, DAY), Ok(None));
        let others = [
            Call {
                app: "shopp".into(),
                function: "ay".into(),
                ..first.clone()
            },
            Call {
                function: "refund".into(),
                ..first.clone()
            },
            call(Some("kk")),
            Call {
                caller: Caller {
                    tenant: "other".into(),
                    subject: "s".into(),
                },
                ..first.clone()
            },
        ];
        for other in others {
            assert_ne!(identity(&other).id, identity(&first).id, "{other:?}");
        }
        let subject = Call {
            caller: Caller {
                tenant: "default".into(),
                subject: "another".into(),
            },
            ..first.clone()
        };
        assert_eq!(identity(&subject).id, identity(&first).id);
        // As it is stored: changing it would make retries across an upgrade run again.
        let known = "b87dea220b75a437fbc38ffdd98428f1";
        assert_eq!(identity(&first).id.to_string(), known);
    }

    #[test]
    fn arguments_are_told_apart_but_for_space_between_tokens() {
        let digest = |content_type: &str, body: &str| {
            let content_type = ContentType::parse(content_type).expect("a type");
            digest_of(&Payload::new(content_type, body.to_owned()))
        };
        let json = |body| digest("application/json", body);
        assert_eq!(
            json("[1,{\"a b\":\"\\\" c\"}]"),
            json(" [ 1,\t{\"a b\" :\"\\\" c\"}\n]")
        );
        let different = [
            "[1]",
            "[ 2]",
            "[11]",
            "[\"1\"]",
            "[\" 1\"]",
            "[\"1 \"]",
            "[\"\\\\\",\" \"]",
            "[\"\\\\\",\"\"]",
            "[\"\\\" \"]",
            "[\"\\\"\"]",
        ];
        for (at, one) in different.iter().enumerate() {
            for other in &different[..at] {
                assert_ne!(json(one), json(other), "{one} {other}");
            }
        }
        assert_ne!(digest("text/plain", "[1]"), json("[1]"));
        assert_ne!(digest("text/plain", "[ 1]"), digest("text/plain", "[1]"));
    }

    #[test]
    fn a_key_that_says_when_it_was_made_is_held_to_it() {
        let of = |birth_ms: u64| Identity::of(&call(Some(&born(birth_ms))), NOW_US, DAY);
        let now_ms = NOW_US / 1000;
        assert!(of(now_ms).is_ok());
        assert!(of(now_ms - 24 * 3_600_000).is_ok());
        let late = of(now_ms - 24 * 3_600_000 - 1).expect_err("too old");
        assert_eq!(late.code, Code::RequestExpired);
        assert!(of(now_ms + 24 * 3_600_000).is_ok());
        let early = of(now_ms + 24 * 3_600_000 + 1).expect_err("from the future");
        assert_eq!(early.code, Code::BadRequest);
        for opaque in ["tm1-", "tm1-0-0", "tm1-00000000000g-0", "tm2-x", "tm1--"] {
            assert_eq!(birth_ms(opaque), None, "{opaque}");
            assert!(Identity::of(&call(Some(opaque)), NOW_US, DAY).is_ok());
        }
    }

    #[test]
    fn an_opaque_key_is_refused_for_longer_than_one_with_its_birth() {
        let opaque = identity(&call(Some("k"))).recording(NOW_US, DAY);
        assert_eq!(opaque.expires_us, NOW_US + DAY_US);
        assert_eq!(opaque.refused_until_us, NOW_US + 8 * DAY_US);
        let key = born(NOW_US / 1000 - 5000);
        let made = identity(&call(Some(&key))).recording(NOW_US, DAY);
        assert_eq!(made.expires_us, NOW_US + DAY_US);
        assert_eq!(made.refused_until_us, made.expires_us);
        // Until its own time says that it is too old, the record must stand.
        let ahead = born(NOW_US / 1000 + 3_600_000);
        let made = identity(&call(Some(&ahead))).recording(NOW_US, DAY);
        assert_eq!(made.expires_us, NOW_US + DAY_US + 3_600_000_000);
    }

    #[test]
    fn calls_steps_and_messages_have_names_of_their_own() {
        let step =
            |path, step, name: &str, nth| step_record_id(RequestId(1), path, step, name, nth);
        let mut all = vec![
            step(0, 0, "a", 0),
            step(1, 0, "a", 0),
            step(0, 1, "a", 0),
            step(0, 0, "b", 0),
            step(0, 0, "a", 1),
            step_record_id(RequestId(2), 0, 0, "a", 0),
            child_path(0, 0, 0),
            child_path(1, 0, 0),
            child_path(0, 1, 0),
            child_path(0, 0, 1),
        ];
        let time = tidemill_lattice::Time::from_micros(5);
        all.extend([message_id((time, 0)).0, message_id((time, 1)).0]);
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
