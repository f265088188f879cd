//! The table of commands: names, arity, flags, where their keys are, and who runs them.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::door::{Door, Reader, Write};
use crate::fault::{Fault, Outcome};
use crate::session::Session;
use crate::{hashes, keys, multi, server, sets, streams, strings};

/// Who runs a command, and what it waits for.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// The connection itself; no keys.
    Local(fn(&mut Session, &[Bytes]) -> Outcome),
    /// A read at one snapshot, after the connection's earlier writes.
    Read(fn(&Reader<'_>, &[Bytes]) -> Outcome),
    /// The same, of very many keys: off the threads that serve connections.
    Scan(fn(&Reader<'_>, &[Bytes]) -> Outcome),
    /// A write.
    Write(fn(&Door, &[Bytes]) -> Result<Write, Fault>),
    /// Runs what `MULTI` has gathered.
    Exec,
    /// Redis has it, this door has not; says what to use instead.
    Absent(&'static str),
}

/// One command, as `COMMAND` tells of it.
pub(crate) struct Command {
    /// In lower case.
    pub(crate) name: &'static str,
    /// How many words, the name included; at least so many where it is negative.
    pub(crate) arity: i64,
    pub(crate) flags: &'static [&'static str],
    /// First key, last key (negative: from the end), step; zeros for none.
    pub(crate) keys: (i64, i64, i64),
    pub(crate) run: Run,
}

impl Command {
    /// Whether it may run before `AUTH`.
    pub(crate) fn is_open(&self) -> bool {
        self.flags.contains(&"no_auth")
    }

    /// Whether it names one key at most.
    pub(crate) fn is_of_one_key(&self) -> bool {
        self.keys == ONE
    }

    /// Whether it does anything.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self.run, Run::Absent(_))
    }

    fn takes(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        count == self.arity || (self.arity < 0 && count >= -self.arity)
    }
}

const fn entry(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: (i64, i64, i64),
    run: Run,
) -> Command {
    Command {
        name,
        arity,
        flags,
        keys,
        run,
    }
}

const READ: &[&str] = &["readonly", "fast"];
const SLOW: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const SHRINK: &[&str] = &["write", "fast"];
const OPEN: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth"];
const ADMIN: &[&str] = &["noscript", "loading", "stale"];
const ABSENT: &[&str] = &["noscript"];

const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);
const NONE: (i64, i64, i64) = (0, 0, 0);

const NO_WATCH: &str = "nothing is validated here, so nothing can be watched; decide with SET NX or \
                        a counter, or in a function, which is one transaction";
const NO_PUBSUB: &str = "append to a stream and read it with XRANGE";
const NO_BLOCKING: &str = "nothing blocks here; ask again, or let a function enqueue the work";
const NO_SCRIPT: &str = "write a function and call it over HTTP";

/// Every command.
pub(crate) static TABLE: &[Command] = &[
    // Strings.
    entry("get", 2, READ, ONE, Run::Read(strings::get)),
    entry("set", -3, WRITE, ONE, Run::Write(strings::set)),
    entry("mget", -2, READ, ALL, Run::Read(strings::mget)),
    entry("mset", -3, WRITE, PAIRS, Run::Write(strings::mset)),
    entry("getdel", 2, SHRINK, ONE, Run::Write(strings::getdel)),
    entry("getex", -2, SHRINK, ONE, Run::Write(strings::getex)),
    entry("getset", 3, WRITE, ONE, Run::Write(strings::getset)),
    entry("setnx", 3, WRITE, ONE, Run::Write(strings::setnx)),
    entry("setex", 4, WRITE, ONE, Run::Write(strings::setex)),
    entry("psetex", 4, WRITE, ONE, Run::Write(strings::psetex)),
    entry("append", 3, WRITE, ONE, Run::Write(strings::append)),
    entry("strlen", 2, READ, ONE, Run::Read(strings::strlen)),
    entry("incr", 2, WRITE, ONE, Run::Write(strings::incr)),
    entry("incrby", 3, WRITE, ONE, Run::Write(strings::incrby)),
    entry("decr", 2, WRITE, ONE, Run::Write(strings::decr)),
    entry("decrby", 3, WRITE, ONE, Run::Write(strings::decrby)),
    // Keys.
    entry("exists", -2, READ, ALL, Run::Read(keys::exists)),
    entry("del", -2, SHRINK, ALL, Run::Write(keys::del)),
    entry("unlink", -2, SHRINK, ALL, Run::Write(keys::del)),
    entry("type", 2, READ, ONE, Run::Read(keys::type_of)),
    entry("ttl", 2, READ, ONE, Run::Read(keys::ttl)),
    entry("pttl", 2, READ, ONE, Run::Read(keys::pttl)),
    entry("expire", -3, SHRINK, ONE, Run::Write(keys::expire)),
    entry("pexpire", -3, SHRINK, ONE, Run::Write(keys::pexpire)),
    entry("expireat", -3, SHRINK, ONE, Run::Write(keys::expireat)),
    entry("pexpireat", -3, SHRINK, ONE, Run::Write(keys::pexpireat)),
    entry("persist", 2, SHRINK, ONE, Run::Write(keys::persist)),
    entry("scan", -2, SLOW, NONE, Run::Scan(keys::scan)),
    entry("keys", 2, SLOW, NONE, Run::Scan(keys::keys)),
    entry("dbsize", 1, SLOW, NONE, Run::Scan(keys::dbsize)),
    // Hashes.
    entry("hset", -4, WRITE, ONE, Run::Write(hashes::hset)),
    entry("hmset", -4, WRITE, ONE, Run::Write(hashes::hmset)),
    entry("hget", 3, READ, ONE, Run::Read(hashes::hget)),
    entry("hmget", -3, READ, ONE, Run::Read(hashes::hmget)),
    entry("hgetall", 2, SLOW, ONE, Run::Read(hashes::hgetall)),
    entry("hdel", -3, SHRINK, ONE, Run::Write(hashes::hdel)),
    entry("hlen", 2, READ, ONE, Run::Read(hashes::hlen)),
    entry("hexists", 3, READ, ONE, Run::Read(hashes::hexists)),
    entry("hkeys", 2, SLOW, ONE, Run::Read(hashes::hkeys)),
    entry("hvals", 2, SLOW, ONE, Run::Read(hashes::hvals)),
    entry("hincrby", 4, WRITE, ONE, Run::Write(hashes::hincrby)),
    entry("hscan", -3, SLOW, ONE, Run::Read(hashes::hscan)),
    // Sets.
    entry("sadd", -3, WRITE, ONE, Run::Write(sets::sadd)),
    entry("srem", -3, SHRINK, ONE, Run::Write(sets::srem)),
    entry("smembers", 2, SLOW, ONE, Run::Read(sets::smembers)),
    entry("sismember", 3, READ, ONE, Run::Read(sets::sismember)),
    entry("scard", 2, READ, ONE, Run::Read(sets::scard)),
    entry("sscan", -3, SLOW, ONE, Run::Read(sets::sscan)),
    entry("sunion", -2, SLOW, ALL, Run::Read(sets::sunion)),
    entry("sinter", -2, SLOW, ALL, Run::Read(sets::sinter)),
    // Streams.
    entry("xadd", -5, WRITE, ONE, Run::Write(streams::xadd)),
    entry("xrange", -4, SLOW, ONE, Run::Read(streams::xrange)),
    entry("xrevrange", -4, SLOW, ONE, Run::Read(streams::xrevrange)),
    entry("xlen", 2, READ, ONE, Run::Read(streams::xlen)),
    // The connection and the server.
    entry("auth", -2, OPEN, NONE, Run::Local(server::auth)),
    entry("hello", -1, OPEN, NONE, Run::Local(server::hello)),
    entry("quit", -1, OPEN, NONE, Run::Local(server::quit)),
    entry("reset", 1, OPEN, NONE, Run::Local(server::reset)),
    entry("client", -2, ADMIN, NONE, Run::Local(server::client)),
    entry("config", -2, ADMIN, NONE, Run::Local(server::config)),
    entry("command", -1, ADMIN, NONE, Run::Local(server::command)),
    entry("info", -1, ADMIN, NONE, Run::Scan(server::info)),
    entry("ping", -1, READ, NONE, Run::Local(server::ping)),
    entry("echo", 2, READ, NONE, Run::Local(server::echo)),
    entry("select", 2, READ, NONE, Run::Local(server::select)),
    entry("time", 1, READ, NONE, Run::Local(server::time)),
    // Transactions.
    entry("multi", 1, READ, NONE, Run::Local(multi::multi)),
    entry("exec", 1, ABSENT, NONE, Run::Exec),
    entry("discard", 1, READ, NONE, Run::Local(multi::discard)),
    entry("unwatch", 1, READ, NONE, Run::Local(multi::unwatch)),
    // Known, and not there.
    entry("watch", -2, ABSENT, ALL, Run::Absent(NO_WATCH)),
    entry("subscribe", -2, ABSENT, NONE, Run::Absent(NO_PUBSUB)),
    entry("psubscribe", -2, ABSENT, NONE, Run::Absent(NO_PUBSUB)),
    entry("ssubscribe", -2, ABSENT, NONE, Run::Absent(NO_PUBSUB)),
    entry("unsubscribe", -1, ABSENT, NONE, Run::Absent(NO_PUBSUB)),
    entry("punsubscribe", -1, ABSENT, NONE, Run::Absent(NO_PUBSUB)),
    entry("publish", 3, ABSENT, NONE, Run::Absent(NO_PUBSUB)),
    entry("blpop", -3, ABSENT, NONE, Run::Absent(NO_BLOCKING)),
    entry("brpop", -3, ABSENT, NONE, Run::Absent(NO_BLOCKING)),
    entry("blmove", 6, ABSENT, NONE, Run::Absent(NO_BLOCKING)),
    entry("brpoplpush", 4, ABSENT, NONE, Run::Absent(NO_BLOCKING)),
    entry("bzpopmin", -3, ABSENT, NONE, Run::Absent(NO_BLOCKING)),
    entry("bzpopmax", -3, ABSENT, NONE, Run::Absent(NO_BLOCKING)),
    entry("wait", 3, ABSENT, NONE, Run::Absent(NO_BLOCKING)),
    entry("eval", -3, ABSENT, NONE, Run::Absent(NO_SCRIPT)),
    entry("evalsha", -3, ABSENT, NONE, Run::Absent(NO_SCRIPT)),
    entry("script", -2, ABSENT, NONE, Run::Absent(NO_SCRIPT)),
    entry("function", -2, ABSENT, NONE, Run::Absent(NO_SCRIPT)),
    entry("fcall", -3, ABSENT, NONE, Run::Absent(NO_SCRIPT)),
];

/// Commands by the length of their names, the way to find one without copying its name.
static BY_LENGTH: LazyLock<[Vec<&'static Command>; NAME_MAX_BYTES + 1]> = LazyLock::new(|| {
    let mut lists: [Vec<&'static Command>; NAME_MAX_BYTES + 1] = Default::default();
    for command in TABLE {
        lists[command.name.len()].push(command);
    }
    lists
});

/// The longest name in the table.
const NAME_MAX_BYTES: usize = 12;
/// How much of an unknown command is said back.
const ECHO_MAX_BYTES: usize = 128;

/// Why a command can not be run.
pub(crate) enum Unknown {
    /// What to answer.
    Name(String),
    /// The words begin an HTTP request.
    Hostile,
}

/// The command of that name, in any case.
pub(crate) fn by_name(name: &[u8]) -> Option<&'static Command> {
    let mut list = BY_LENGTH.get(name.len())?.iter().copied();
    list.find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()))
}

/// The command that these words are, with as many as it takes.
pub(crate) fn find(arguments: &[Bytes]) -> Result<&'static Command, Unknown> {
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) => (&name[..], rest),
        None => (&b""[..], arguments),
    };
    let Some(command) = by_name(name) else {
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            return Err(Unknown::Hostile);
        }
        return Err(Unknown::Name(unknown(name, rest)));
    };
    if !command.takes(arguments.len()) {
        return Err(Unknown::Name(
            Fault::Arity(command.name.to_owned()).to_string(),
        ));
    }
    Ok(command)
}

fn unknown(name: &[u8], rest: &[Bytes]) -> String {
    let cut = |text: &[u8], most: usize| {
        let text = text.get(..most).unwrap_or(text);
        String::from_utf8_lossy(text).into_owned()
    };
    let mut text = format!(
        "ERR unknown command '{}', with args beginning with: ",
        cut(name, ECHO_MAX_BYTES)
    );
    let mut said = 0;
    for argument in rest {
        if said >= ECHO_MAX_BYTES {
            break;
        }
        let word = format!("'{}' ", cut(argument, ECHO_MAX_BYTES - said));
        said += word.len();
        text.push_str(&word);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_short_and_each_there_once() {
        let names: std::collections::HashSet<_> = TABLE.iter().map(|each| each.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for command in TABLE {
            assert_eq!(command.name, command.name.to_ascii_lowercase());
            assert!(command.name.len() <= NAME_MAX_BYTES && command.arity != 0);
            assert!(std::ptr::eq(
                by_name(command.name.to_uppercase().as_bytes()).expect("known"),
                command
            ));
        }
    }

    #[test]
    fn an_unknown_command_is_told_with_its_words_cut() {
        let long = Bytes::from(vec![b'x'; 300]);
        let words = [Bytes::from_static(b"a"), long.clone(), long];
        let text = unknown(b"NOPE", &words);
        assert!(
            text.starts_with("ERR unknown command 'NOPE', with args beginning with: 'a' 'xxx"),
            "{text}"
        );
        assert!(text.len() < 220, "{text}");
    }
}
