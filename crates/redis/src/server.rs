//! The connection and the server: who one is, what is spoken, what is there.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::command::{self, Command};
use crate::door::{Door, Reader};
use crate::fault::{Fault, Outcome};
use crate::number::integer;
use crate::session::{Client, Session, Shown};
use crate::{Protocol, Reply, glob, keys};

/// The version of Redis whose answers are imitated; clients choose what to send by it.
const REDIS_VERSION: &str = "7.2.0";

pub(crate) fn ping(_: &mut Session, words: &[Bytes]) -> Outcome {
    match words {
        [_] => Ok(Reply::Simple("PONG".into())),
        [_, text] => Ok(Reply::Bulk(text.clone())),
        _ => Err(Fault::Arity("ping".to_owned())),
    }
}

pub(crate) fn echo(_: &mut Session, words: &[Bytes]) -> Outcome {
    Ok(Reply::Bulk(words[1].clone()))
}

pub(crate) fn select(_: &mut Session, words: &[Bytes]) -> Outcome {
    match integer(&words[1]) {
        Some(0) => Ok(Reply::ok()),
        Some(_) => Err(Fault::other("DB index is out of range")),
        None => Err(Fault::NotInteger),
    }
}

pub(crate) fn time(session: &mut Session, _: &[Bytes]) -> Outcome {
    let now_us = session.door.clock.now_micros();
    let parts = [now_us / 1_000_000, now_us % 1_000_000];
    Ok(Reply::bulks(parts.map(|part| part.to_string().into())))
}

pub(crate) fn quit(session: &mut Session, _: &[Bytes]) -> Outcome {
    session.is_closing = true;
    Ok(Reply::ok())
}

pub(crate) fn reset(session: &mut Session, _: &[Bytes]) -> Outcome {
    session.speak(Protocol::Resp2);
    session.multi = None;
    session.is_authenticated = session.door.options.password.is_none();
    session.client.shown.lock().name = Bytes::new();
    Ok(Reply::Simple("RESET".into()))
}

pub(crate) fn auth(session: &mut Session, words: &[Bytes]) -> Outcome {
    let (user, password) = match words {
        [_, password] if session.door.options.password.is_none() => {
            let _ = password;
            return Err(Fault::other(
                "AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            ));
        }
        [_, password] => (&b"default"[..], password),
        [_, user, password] => (&user[..], password),
        _ => return Err(Fault::Syntax),
    };
    log_in(session, user, password)?;
    Ok(Reply::ok())
}

/// There is one user, as in a Redis without a list of users.
fn log_in(session: &mut Session, user: &[u8], password: &[u8]) -> Result<(), Fault> {
    if user == b"default" && session.door.opens(password) {
        session.is_authenticated = true;
        return Ok(());
    }
    Err(Fault::Store(
        "WRONGPASS invalid username-password pair or user is disabled.".to_owned(),
    ))
}

pub(crate) fn hello(session: &mut Session, words: &[Bytes]) -> Outcome {
    let protocol = match words.get(1).map(|word| integer(word)) {
        None => session.protocol,
        Some(Some(2)) => Protocol::Resp2,
        Some(Some(3)) => Protocol::Resp3,
        Some(Some(_)) => {
            return Err(Fault::Store(
                "NOPROTO unsupported protocol version".to_owned(),
            ));
        }
        Some(None) => {
            return Err(Fault::other(
                "Protocol version is not an integer or out of range",
            ));
        }
    };
    let mut rest = words.get(2..).unwrap_or_default();
    let mut name = None;
    loop {
        rest = match rest {
            [] => break,
            [option, user, password, rest @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                log_in(session, user, password)?;
                rest
            }
            [option, given, rest @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                name = Some(client_name(given)?);
                rest
            }
            [option, ..] => {
                let option = String::from_utf8_lossy(option);
                return Err(Fault::other(format!(
                    "Syntax error in HELLO option '{option}'"
                )));
            }
        };
    }
    if !session.is_authenticated {
        return Err(Fault::Store(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time"
                .to_owned(),
        ));
    }
    if let Some(name) = name {
        session.client.shown.lock().name = name;
    }
    session.speak(protocol);
    let id = i64::try_from(session.client.id).unwrap_or(i64::MAX);
    let version = if protocol == Protocol::Resp3 { 3 } else { 2 };
    Ok(Reply::Map(vec![
        (Reply::text("server"), Reply::text("redis")),
        (Reply::text("version"), Reply::text(REDIS_VERSION)),
        (Reply::text("proto"), Reply::Integer(version)),
        (Reply::text("id"), Reply::Integer(id)),
        (Reply::text("mode"), Reply::text("standalone")),
        (Reply::text("role"), Reply::text("master")),
        (Reply::text("modules"), Reply::Array(Vec::new())),
    ]))
}

/// The subcommand in upper case.
fn subcommand(words: &[Bytes]) -> Vec<u8> {
    words
        .get(1)
        .map(|word| word.to_ascii_uppercase())
        .unwrap_or_default()
}

fn unknown_subcommand(words: &[Bytes], of: &'static str) -> Fault {
    let word = words.get(1).map(|word| &word[..]).unwrap_or_default();
    let word = word.get(..128).unwrap_or(word);
    Fault::Subcommand(String::from_utf8_lossy(word).into_owned(), of)
}

fn client_name(name: &Bytes) -> Result<Bytes, Fault> {
    if name.len() <= 1024 && name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(Bytes::copy_from_slice(name));
    }
    Err(Fault::other(
        "Client names cannot contain spaces, newlines or special characters.",
    ))
}

pub(crate) fn client(session: &mut Session, words: &[Bytes]) -> Outcome {
    let client = &session.client;
    match (&subcommand(words)[..], &words[2..]) {
        (b"ID", []) => Ok(Reply::Integer(i64::try_from(client.id).unwrap_or(i64::MAX))),
        (b"GETNAME", []) => {
            let name = client.shown.lock().name.clone();
            Ok(Reply::maybe((!name.is_empty()).then_some(name)))
        }
        (b"SETNAME", [name]) => {
            client.shown.lock().name = client_name(name)?;
            Ok(Reply::ok())
        }
        (b"SETINFO", [attribute, value]) => {
            let value = client_name(value)?;
            let mut shown = client.shown.lock();
            match &attribute.to_ascii_lowercase()[..] {
                b"lib-name" => shown.library = value,
                b"lib-ver" => shown.library_version = value,
                _ => {
                    let name = String::from_utf8_lossy(attribute);
                    return Err(Fault::other(format!("Unrecognized option '{name}'")));
                }
            }
            Ok(Reply::ok())
        }
        (b"INFO", []) => Ok(Reply::bulk(line_of(&session.door, client))),
        (b"LIST", []) => {
            let all: Vec<_> = session.door.clients.lock().values().cloned().collect();
            let lines = all.iter().map(|client| line_of(&session.door, client));
            Ok(Reply::bulk(lines.collect::<String>()))
        }
        (b"NO-EVICT" | b"NO-TOUCH", [_]) => Ok(Reply::ok()),
        (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"INFO" | b"NO-EVICT" | b"NO-TOUCH", _) => {
            let name = String::from_utf8_lossy(&words[1]).to_lowercase();
            Err(Fault::Arity(format!("client|{name}")))
        }
        (b"LIST", _) => Err(Fault::Syntax),
        _ => Err(unknown_subcommand(words, "CLIENT")),
    }
}

fn line_of(door: &Door, client: &Client) -> String {
    let now_us = door.clock.now_micros();
    let seconds = |since_us: u64| now_us.saturating_sub(since_us) / 1_000_000;
    let Shown {
        name,
        library,
        library_version,
        command,
        protocol,
    } = client.shown.lock().clone();
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags=N db=0 sub=0 psub=0 multi=-1 \
         cmd={command} user=default resp={} lib-name={} lib-ver={}\n",
        client.id,
        client.peer,
        client.local,
        text(&name),
        seconds(client.connected_us),
        seconds(client.active_us.load(Ordering::Relaxed)),
        if protocol == Protocol::Resp3 { 3 } else { 2 },
        text(&library),
        text(&library_version),
    )
}

pub(crate) fn config(session: &mut Session, words: &[Bytes]) -> Outcome {
    match (&subcommand(words)[..], &words[2..]) {
        (b"GET", []) => Err(Fault::Arity("config|get".to_owned())),
        (b"GET", patterns) => {
            let all = settings(&session.door);
            let asked = all.into_iter().filter(|(name, _)| {
                patterns
                    .iter()
                    .any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
            });
            let pairs = asked.map(|(name, value)| (Reply::text(name), Reply::bulk(value)));
            Ok(Reply::Map(pairs.collect()))
        }
        (b"SET", _) => Err(Fault::other(
            "CONFIG SET is not there: change the node's settings file and restart it",
        )),
        (b"RESETSTAT", []) => {
            let counts = &session.door.counts;
            for counter in [
                &counts.commands,
                &counts.hits,
                &counts.misses,
                &counts.refused,
            ] {
                counter.store(0, Ordering::Relaxed);
            }
            Ok(Reply::ok())
        }
        _ => Err(unknown_subcommand(words, "CONFIG")),
    }
}

/// What `CONFIG GET` knows: what clients and benchmarks ask for.
fn settings(door: &Door) -> Vec<(&'static str, String)> {
    let options = &door.options;
    let is_durable = options.durability == tidemill_store::Durability::Durable;
    let fixed = |text: &str| text.to_owned();
    vec![
        (
            "appendfsync",
            fixed(if is_durable { "always" } else { "no" }),
        ),
        ("appendonly", fixed("yes")),
        ("databases", fixed("1")),
        ("maxclients", options.connections_max.to_string()),
        ("maxmemory", fixed("0")),
        ("maxmemory-policy", fixed("noeviction")),
        (
            "proto-max-bulk-len",
            options.limits.bulk_bytes_max.to_string(),
        ),
        ("save", String::new()),
        ("timeout", fixed("0")),
    ]
}

pub(crate) fn command(_: &mut Session, words: &[Bytes]) -> Outcome {
    let all = || command::TABLE.iter().filter(|command| command.is_there());
    match (&subcommand(words)[..], words.get(2..).unwrap_or_default()) {
        (b"", _) => Ok(Reply::Array(all().map(described).collect())),
        (b"COUNT", []) => Ok(Reply::count(all().count())),
        (b"DOCS", _) => Ok(Reply::Map(Vec::new())),
        (b"LIST", []) => Ok(Reply::Array(
            all().map(|command| Reply::text(command.name)).collect(),
        )),
        (b"INFO", []) => Ok(Reply::Array(all().map(described).collect())),
        (b"INFO", names) => {
            let known = |name: &Bytes| {
                let command = command::by_name(name)?;
                command.is_there().then(|| described(command))
            };
            let found = names.iter().map(|name| known(name).unwrap_or(Reply::Null));
            Ok(Reply::Array(found.collect()))
        }
        _ => Err(unknown_subcommand(words, "COMMAND")),
    }
}

/// A command as `COMMAND` has it: name, arity, flags, keys; then categories, tips, key
/// specifications and subcommands, which are not told.
fn described(command: &Command) -> Reply {
    let (first, last, step) = command.keys;
    let flags = command.flags.iter();
    let flags = flags.map(|flag| Reply::Simple((*flag).into())).collect();
    let none = || Reply::Array(Vec::new());
    Reply::Array(vec![
        Reply::text(command.name),
        Reply::Integer(command.arity),
        Reply::Set(flags),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
        none(),
        none(),
        none(),
        none(),
    ])
}

/// The sections asked for. `keyspace` counts every key, so only those get it who name it.
pub(crate) fn info(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let door = reader.door;
    let asked: Vec<Vec<u8>> = words[1..]
        .iter()
        .map(|word| word.to_ascii_lowercase())
        .collect();
    let is_asked = |names: &[&[u8]]| asked.iter().any(|word| names.contains(&&word[..]));
    let is_all = asked.is_empty() || is_asked(&[b"default", b"all", b"everything"]);
    let mut text = String::new();
    for (name, section) in SECTIONS {
        if is_all || is_asked(&[name.as_bytes()]) {
            section(door, &mut text);
            text.push_str("\r\n");
        }
    }
    if is_asked(&[b"keyspace", b"all", b"everything"]) {
        let count = keys::key_count(reader)?;
        text.push_str("# Keyspace\r\n");
        if count > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "db0:keys={count},expires=0,avg_ttl=0\r\n");
        }
    }
    Ok(Reply::bulk(text))
}

type Section = fn(&Door, &mut String);

const SECTIONS: [(&str, Section); 5] = [
    ("server", server_section),
    ("clients", clients_section),
    ("memory", memory_section),
    ("persistence", persistence_section),
    ("stats", stats_section),
];

fn server_section(door: &Door, out: &mut String) {
    let now_us = door.clock.now_micros();
    let uptime = now_us.saturating_sub(door.started_us) / 1_000_000;
    let _ = write!(
        out,
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n\
         tidemill_version:{}\r\nprocess_id:{}\r\nserver_time_usec:{now_us}\r\n\
         uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
        door.options.version,
        std::process::id(),
        uptime / 86_400,
    );
}

fn clients_section(door: &Door, out: &mut String) {
    let _ = write!(
        out,
        "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:0\r\n",
        door.clients.lock().len(),
        door.options.connections_max,
    );
}

fn memory_section(door: &Door, out: &mut String) {
    let _ = write!(
        out,
        "# Memory\r\nused_memory:{}\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n",
        door.store.stats().bytes,
    );
}

/// A checkpoint is what a snapshot file is to Redis, and the log its append-only file.
fn persistence_section(door: &Door, out: &mut String) {
    let stats = door.store.stats();
    let shards = door.store.observe().shards;
    let dirty: u64 = shards.iter().map(|shard| shard.dirty_keys).sum();
    let _ = write!(
        out,
        "# Persistence\r\nloading:0\r\nrdb_changes_since_last_save:{dirty}\r\n\
         rdb_bgsave_in_progress:0\r\nrdb_last_save_time:{}\r\naof_enabled:1\r\n\
         aof_rewrite_in_progress:0\r\naof_last_write_status:{}\r\naof_current_size:{}\r\n",
        stats.checkpoint.micros() / 1_000_000,
        if stats.read_only { "err" } else { "ok" },
        stats.log_bytes,
    );
}

fn stats_section(door: &Door, out: &mut String) {
    let counts = &door.counts;
    let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let _ = write!(
        out,
        "# Stats\r\ntotal_connections_received:{}\r\nrejected_connections:{}\r\n\
         total_commands_processed:{}\r\nkeyspace_hits:{}\r\nkeyspace_misses:{}\r\n",
        number(&counts.connections),
        number(&counts.refused),
        number(&counts.commands),
        number(&counts.hits),
        number(&counts.misses),
    );
}
