//! Cells to bytes.

use super::{
    FLAG_DELETED, FLAG_EXPIRIES, TAG_OF_BEGINNING, kind_tag,
    primitive::{
        put_bytes, put_content, put_count, put_dot, put_ordinal, put_payload, put_signed,
        put_some_time, put_varint,
    },
};
use crate::{Cell, ContentType, Counter, Dot, Kind, Multi, Payload, Set, Time, Value};

pub(super) fn body(cell: &Cell, out: &mut Vec<u8>) {
    let is_deleted = cell.deleted != Dot::ZERO;
    let expires = !cell.expiries.is_empty();
    out.push(if is_deleted { FLAG_DELETED } else { 0 } | if expires { FLAG_EXPIRIES } else { 0 });
    if is_deleted {
        put_dot(out, cell.deleted);
    }
    if expires {
        put_count(out, cell.expiries.len());
        for (dot, end) in &cell.expiries {
            put_dot(out, *dot);
            put_some_time(out, *end);
        }
    }
    put_count(out, cell.lives.len());
    for life in &cell.lives {
        let tag = kind_tag(life.value.kind());
        match &life.value {
            Value::Register(register) if register.dot == life.created => {
                let Payload { content_type, body } = &register.payload;
                put_register(out, life.created, content_type, body);
            }
            other => {
                out.push(tag);
                put_dot(out, life.created);
                value(other, out);
            }
        }
    }
}

/// A life that is a register not written again since.
pub(crate) fn put_register(
    out: &mut Vec<u8>,
    created: Dot,
    content_type: &ContentType,
    body: &[u8],
) {
    out.push(kind_tag(Kind::Register) | TAG_OF_BEGINNING);
    put_dot(out, created);
    put_content(out, content_type, body);
}

/// A life that is a counter, all of whose addends are in its sum.
pub(crate) fn put_counter(out: &mut Vec<u8>, created: Dot, value: &Counter) {
    out.push(kind_tag(Kind::Counter));
    put_dot(out, created);
    counter(value, out);
}

fn value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Register(register) => {
            put_dot(out, register.dot);
            put_payload(out, &register.payload);
        }
        Value::Multi(value) => multi(value, out),
        Value::Counter(value) => counter(value, out),
        Value::Max(max) => put_ordinal(out, &max.0),
        Value::Min(min) => put_ordinal(out, &min.0),
        Value::Flag(_) => {}
        Value::Set(value) => set(value, out),
        Value::Map(map) => {
            put_count(out, map.fields.len());
            for (field, cell) in map.fields.iter() {
                put_bytes(out, field.as_bytes());
                body(cell, out);
            }
        }
        Value::Log(log) => {
            // Zero is no bound: a bound is at least one.
            put_varint(out, log.keep.unwrap_or(0).into());
            put_count(out, log.entries.len());
            for (dot, payload) in log.entries.iter() {
                put_dot(out, *dot);
                put_payload(out, payload);
            }
        }
        Value::Top(top) => {
            put_varint(out, top.of.into());
            put_count(out, top.scores.len());
            for (id, score) in &top.scores {
                put_bytes(out, id.as_bytes());
                put_ordinal(out, score);
            }
        }
    }
}

fn through(time: Time, out: &mut Vec<u8>) {
    put_some_time(out, (time != Time::ZERO).then_some(time));
}

fn dots(dots: &[Dot], out: &mut Vec<u8>) {
    put_count(out, dots.len());
    dots.iter().for_each(|dot| put_dot(out, *dot));
}

fn multi(multi: &Multi, out: &mut Vec<u8>) {
    through(multi.through, out);
    put_count(out, multi.live.len());
    for (dot, payload) in &multi.live {
        put_dot(out, *dot);
        put_payload(out, payload);
    }
    dots(&multi.dead, out);
}

fn counter(counter: &Counter, out: &mut Vec<u8>) {
    through(counter.through, out);
    put_signed(out, counter.sum);
    put_count(out, counter.addends.len());
    for (dot, addend) in &counter.addends {
        put_dot(out, *dot);
        put_signed(out, (*addend).into());
    }
}

fn set(set: &Set, out: &mut Vec<u8>) {
    through(set.through, out);
    put_count(out, set.slots.len());
    for (element, slot) in set.slots.iter() {
        put_payload(out, element);
        dots(&slot.live, out);
        dots(&slot.dead, out);
    }
}
