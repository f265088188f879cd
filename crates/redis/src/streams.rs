//! Streams: logs. An entry's id is its commit's time: Redis's milliseconds, then what orders the
//! entries of one millisecond.
//!
//! An entry is a JSON array of its fields and values, one after the other, so that functions read
//! it as a list of texts. A part that is not UTF-8 is held as `{"content_type","base64"}`. Entries
//! that functions append in any other form are shown with the one field `value`.

use std::fmt;

use bytes::Bytes;
use serde_json::Value as Json;
use tidemill_lattice::{Dot, Kind, Log, Op, Payload, Time, Value};

use crate::Reply;
use crate::door::{Answer, Door, Reader, Write};
use crate::fault::{Fault, Outcome};
use crate::number::{integer, unsigned};

/// The bits of an id's second number that tell writes of one commit apart.
const SEQUENCE_BITS: u32 = 32;
/// The bits of hybrid time's counter.
const COUNTER_BITS: u32 = 12;

/// An entry's id, in the order of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    millis: u64,
    rest: u64,
}

impl Id {
    const MIN: Id = Id { millis: 0, rest: 0 };
    const MAX: Id = Id {
        millis: u64::MAX,
        rest: u64::MAX,
    };

    /// The id of a write of the commit at a time.
    pub(crate) fn new(time: Time, sequence: u32) -> Id {
        let micros = time.micros() % 1_000;
        let within = micros << COUNTER_BITS | u64::from(time.counter());
        Id {
            millis: time.millis(),
            rest: within << SEQUENCE_BITS | u64::from(sequence),
        }
    }

    fn of(dot: Dot) -> Id {
        Id::new(dot.time, dot.sequence)
    }

    fn next(self) -> Option<Id> {
        match self.rest.checked_add(1) {
            Some(rest) => Some(Id { rest, ..self }),
            None => Some(Id {
                millis: self.millis.checked_add(1)?,
                rest: 0,
            }),
        }
    }

    fn previous(self) -> Option<Id> {
        match self.rest.checked_sub(1) {
            Some(rest) => Some(Id { rest, ..self }),
            None => Some(Id {
                millis: self.millis.checked_sub(1)?,
                rest: u64::MAX,
            }),
        }
    }

    /// Reads an end of a range: `-`, `+`, an id, milliseconds alone, or one of them after `(`,
    /// which leaves the id itself out.
    fn parse_end(text: &[u8], is_start: bool) -> Result<Id, Fault> {
        let (excluded, text) = match text.split_first() {
            Some((b'(', rest)) => (true, rest),
            _ => (false, text),
        };
        let id = match text {
            b"-" => Id::MIN,
            b"+" => Id::MAX,
            _ => Id::parse(text, if is_start { 0 } else { u64::MAX })?,
        };
        match (excluded, is_start) {
            (false, _) => Ok(id),
            (true, true) => id
                .next()
                .ok_or_else(|| Fault::other("invalid start ID for the interval")),
            (true, false) => id
                .previous()
                .ok_or_else(|| Fault::other("invalid end ID for the interval")),
        }
    }

    fn parse(text: &[u8], rest: u64) -> Result<Id, Fault> {
        let mut parts = text.splitn(2, |byte| *byte == b'-');
        let millis = parts.next().and_then(unsigned).ok_or(Fault::StreamId)?;
        let rest = match parts.next() {
            None => rest,
            Some(part) => unsigned(part).ok_or(Fault::StreamId)?,
        };
        Ok(Id { millis, rest })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.rest)
    }
}

/// The fields and values of an entry as a payload.
fn entry(parts: &[Bytes]) -> Payload {
    let parts = parts.iter().map(|part| match std::str::from_utf8(part) {
        Ok(text) => Json::from(text),
        Err(_) => Payload::bytes(part.clone()).to_json(),
    });
    Payload::json(&Json::Array(parts.collect()))
}

/// The fields and values of a payload.
fn parts(payload: &Payload) -> Vec<Bytes> {
    let whole = || vec![Bytes::from_static(b"value"), payload.body.clone()];
    let Ok(Json::Array(all)) = serde_json::from_slice(&payload.body) else {
        return whole();
    };
    let parts: Option<Vec<Bytes>> = all.iter().map(part).collect();
    parts
        .filter(|parts| !parts.is_empty() && parts.len().is_multiple_of(2))
        .unwrap_or_else(whole)
}

fn part(value: &Json) -> Option<Bytes> {
    match value {
        Json::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        Json::Object(object) if object.contains_key("base64") => {
            Payload::from_json(value).ok().map(|payload| payload.body)
        }
        _ => None,
    }
}

/// What comes before the fields of `XADD`.
struct AddOptions {
    makes_stream: bool,
    keep: Option<u32>,
    /// Where the fields begin.
    fields: usize,
}

fn add_options(words: &[Bytes]) -> Result<AddOptions, Fault> {
    let mut options = AddOptions {
        makes_stream: true,
        keep: None,
        fields: 0,
    };
    let mut at = 2;
    loop {
        let word = words.get(at).ok_or(Fault::Syntax)?;
        at += 1;
        match &word.to_ascii_uppercase()[..] {
            b"NOMKSTREAM" => options.makes_stream = false,
            b"MAXLEN" => {
                if matches!(words.get(at).map(|word| &word[..]), Some(b"~" | b"=")) {
                    at += 1;
                }
                options.keep = Some(keep(words.get(at).ok_or(Fault::Syntax)?)?);
                at += 1;
            }
            b"LIMIT" if options.keep.is_some() => at += 1,
            b"MINID" => {
                return Err(Fault::other(
                    "MINID is not there: bound the stream with MAXLEN",
                ));
            }
            b"*" => break,
            _ => {
                return Err(Fault::other(
                    "an entry's id is its commit's time: give * as the ID",
                ));
            }
        }
    }
    options.fields = at;
    let count = words.len().saturating_sub(at);
    if count == 0 || !count.is_multiple_of(2) {
        return Err(Fault::Arity("xadd".to_owned()));
    }
    Ok(options)
}

fn keep(word: &[u8]) -> Result<u32, Fault> {
    let bound = integer(word).ok_or(Fault::NotInteger)?;
    if bound < 0 {
        return Err(Fault::other("The MAXLEN argument must be >= 0."));
    }
    match u32::try_from(bound) {
        Ok(0) => Err(Fault::other(
            "MAXLEN 0 would keep nothing: delete the stream with DEL",
        )),
        Ok(bound) => Ok(bound),
        Err(_) => Err(Fault::NotInteger),
    }
}

pub(crate) fn xadd(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let options = add_options(words)?;
    let value = entry(&words[options.fields..]);
    Write::one(door.key(&words[1])?, move |draft| {
        if draft.held().is_none() && !options.makes_stream {
            return Ok(Reply::Null.into());
        }
        draft.make_room(Kind::Log)?;
        draft.apply(&Op::LogAppend {
            value,
            keep: options.keep,
        })?;
        Ok(Answer::Entry {
            sequence: draft.sequence(),
        })
    })
}

fn log_of(value: Option<&Value>) -> Result<Option<&Log>, Fault> {
    match value {
        None => Ok(None),
        Some(Value::Log(log)) => Ok(Some(log)),
        Some(_) => Err(Fault::WrongType),
    }
}

pub(crate) fn xlen(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    reader.look(&words[1], |value| {
        Ok(Reply::count(log_of(value)?.map_or(0, Log::len)))
    })
}

pub(crate) fn xrange(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let (start, end) = (&words[2], &words[3]);
    range(reader, words, start, end, false)
}

pub(crate) fn xrevrange(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let (end, start) = (&words[2], &words[3]);
    range(reader, words, start, end, true)
}

fn range(
    reader: &Reader<'_>,
    words: &[Bytes],
    start: &[u8],
    end: &[u8],
    is_reverse: bool,
) -> Outcome {
    let start = Id::parse_end(start, true)?;
    let end = Id::parse_end(end, false)?;
    let count = match &words[4..] {
        [] => usize::MAX,
        [option, count] if option.eq_ignore_ascii_case(b"COUNT") => {
            let count = integer(count).ok_or(Fault::NotInteger)?;
            usize::try_from(count).unwrap_or(0)
        }
        _ => return Err(Fault::Syntax),
    };
    reader.look(&words[1], |value| {
        let Some(log) = log_of(value)? else {
            return Ok(Reply::Array(Vec::new()));
        };
        let within = log
            .iter()
            .map(|(dot, payload)| (Id::of(dot), payload))
            .filter(|(id, _)| (start..=end).contains(id));
        let shown = |(id, payload): (Id, &Payload)| {
            Reply::Array(vec![
                Reply::bulk(id.to_string()),
                Reply::bulks(parts(payload)),
            ])
        };
        Ok(Reply::Array(if is_reverse {
            within.rev().take(count).map(shown).collect()
        } else {
            within.take(count).map(shown).collect()
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_in_the_order_of_commits() {
        let time = Time::from_micros(1_700_000_000_123_456);
        let ids = [
            Id::new(time, 0),
            Id::new(time, 1),
            Id::new(time.next(), 0),
            Id::new(Time::from_micros(1_700_000_000_123_457), 0),
            Id::new(Time::from_micros(1_700_000_000_124_000), 0),
        ];
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        assert!(
            ids[0].to_string().starts_with("1700000000123-"),
            "{}",
            ids[0]
        );
        for id in ids {
            let text = id.to_string();
            assert_eq!(Id::parse(text.as_bytes(), 0), Ok(id));
            assert_eq!(id.next().and_then(Id::previous), Some(id));
        }
        assert!(Id::parse_end(b"(+", true).is_err() && Id::parse_end(b"(-", false).is_err());
        for wrong in ["", "a", "1-", "-1", "1-a", "1-2-3"] {
            assert_eq!(
                Id::parse(wrong.as_bytes(), 0),
                Err(Fault::StreamId),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn entries_of_functions_are_shown_whole() {
        for json in ["{\"a\":1}", "[1,2]", "[]", "[\"a\"]", "7"] {
            let payload = Payload::new(tidemill_lattice::ContentType::Json, json);
            assert_eq!(parts(&payload), ["value".as_bytes(), json.as_bytes()]);
        }
        let list = Payload::json(&serde_json::json!(["a", "1"]));
        assert_eq!(parts(&list), [&b"a"[..], b"1"]);
    }

    proptest! {
        #[test]
        fn an_entry_keeps_its_bytes(pairs in prop::collection::vec(any::<(Vec<u8>, Vec<u8>)>(), 1..5)) {
            let given: Vec<Bytes> = pairs
                .into_iter()
                .flat_map(|(field, value)| [Bytes::from(field), Bytes::from(value)])
                .collect();
            prop_assert_eq!(parts(&entry(&given)), given);
        }
    }
}
