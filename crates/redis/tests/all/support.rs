//! A door for one test, with a clock that stands until it is told to go on, and a client that
//! sends exactly what it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tidemill_lattice::{Clock, Entropy, RisingClock};
use tidemill_redis::{Door, Options, Parts, Threads};
use tidemill_store::{Disk, Embedded, Store, SystemDisk};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A clock that tests move.
#[derive(Clone)]
pub(crate) struct ManualClock(Arc<AtomicU64>);

impl Clock for ManualClock {
    fn now_micros(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct NoEntropy;

impl Entropy for NoEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// A served door.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    clock: ManualClock,
    pub(crate) store: Arc<dyn Store>,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
    _directory: TempDir,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self::over(options, |store| store)
    }

    /// A door to what is made of a store.
    pub(crate) fn over(
        options: Options,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        Self::made(options, Arc::new(SystemDisk), 2, wrap)
    }

    /// A door to a store of one shard on a disk.
    pub(crate) fn on(disk: Arc<dyn Disk>) -> Self {
        Self::made(Options::default(), disk, 1, |store| store)
    }

    fn made(
        options: Options,
        disk: Arc<dyn Disk>,
        shards: usize,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock = ManualClock(Arc::new(AtomicU64::new(1_700_000_000_000_000)));
        // As in a node, one clock for the store and the door.
        let rising: Arc<dyn Clock> = Arc::new(RisingClock::new(clock.clone()));
        let threads = Threads::new(shards).expect("runtimes");
        let store = tidemill_store::Options {
            shards,
            disk,
            driver: Arc::clone(&threads) as Arc<dyn tidemill_store::Driver>,
            ..tidemill_store::Options::new(directory.path().join("state"))
        };
        let store = Embedded::open(store, Arc::clone(&rising));
        let store = wrap(Arc::new(store.expect("a store")));
        let parts = Parts {
            store: Arc::clone(&store),
            clock: rising,
            entropy: Arc::new(NoEntropy),
            threads,
        };
        let door = Door::new(options, parts).expect("good names");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (stop, stopping) = watch::channel(false);
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a listener");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(tidemill_redis::serve(listener, door, stopping));
        Self {
            address,
            clock,
            store,
            stop,
            runtime: Some(runtime),
            _directory: directory,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Lets time pass.
    pub(crate) fn pass_ms(&self, millis: u64) {
        self.clock.0.fetch_add(millis * 1_000, Ordering::SeqCst);
    }

    /// Sets the clock back.
    pub(crate) fn set_back_ms(&self, millis: u64) {
        self.clock.0.fetch_sub(millis * 1_000, Ordering::SeqCst);
    }

    /// Asks the door to stop.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Runs lines of `COMMAND WORDS => ANSWER` on one connection. A line without an arrow must
    /// not fail.
    pub(crate) fn play(&self, script: &str) {
        let mut client = self.client();
        for line in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            if let Some(millis) = line.strip_prefix("PASS ") {
                self.pass_ms(millis.parse().expect("milliseconds"));
                continue;
            }
            let (command, answer) = match line.split_once("=>") {
                Some((command, answer)) => (command, Some(answer.trim())),
                None => (line, None),
            };
            let words: Vec<&str> = command.split_whitespace().collect();
            let got = client.ask(&words);
            match answer {
                Some(answer) => assert_eq!(got, answer, "{line}"),
                None => assert!(!got.starts_with('-'), "{line}: {got}"),
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
    taken: usize,
}

/// A command as clients write it.
pub(crate) fn encode<T: AsRef<[u8]>>(words: &[T]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        out.extend(format!("${}\r\n", word.len()).as_bytes());
        out.extend(word);
        out.extend(b"\r\n");
    }
    out
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the door listens");
        let patience = std::time::Duration::from_secs(60);
        stream.set_read_timeout(Some(patience)).expect("set");
        Self {
            stream,
            input: Vec::new(),
            taken: 0,
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    pub(crate) fn ask<T: AsRef<[u8]>>(&mut self, words: &[T]) -> String {
        self.send(&encode(words));
        self.read()
    }

    /// The next answer, written short: `+OK`, `-ERR …`, `:1`, `"bytes"`, `nil`, `[a b]`, `{a=b}`,
    /// `(a b)`.
    pub(crate) fn read(&mut self) -> String {
        let line = self.line();
        let (mark, rest) = line.split_at(1);
        let count = || rest.parse::<i64>().expect("a length");
        match mark {
            "+" | "-" | ":" | "," | "#" => line,
            "_" => "nil".to_owned(),
            "$" | "*" if count() < 0 => "nil".to_owned(),
            "$" => {
                let length = usize::try_from(count()).expect("a length");
                let bytes = self.bytes(length + 2);
                format!("\"{}\"", bytes[..length].escape_ascii())
            }
            "*" => format!("[{}]", self.items(count())),
            "~" => format!("({})", self.items(count())),
            "%" => {
                let pairs: Vec<String> = (0..count())
                    .map(|_| format!("{}={}", self.read(), self.read()))
                    .collect();
                format!("{{{}}}", pairs.join(" "))
            }
            other => panic!("no answer begins with {other:?}"),
        }
    }

    fn items(&mut self, count: i64) -> String {
        let items: Vec<String> = (0..count).map(|_| self.read()).collect();
        items.join(" ")
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.bytes(1));
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).expect("text")
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < self.taken + count {
            let mut chunk = vec![0; 64 * 1024];
            let read = self.stream.read(&mut chunk).expect("an answer");
            assert!(read > 0, "the connection ended");
            self.input.drain(..self.taken);
            self.taken = 0;
            self.input.extend(&chunk[..read]);
        }
        let bytes = self.input[self.taken..self.taken + count].to_vec();
        self.taken += count;
        bytes
    }

    /// Whether the door closes the connection, with nothing more to say.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = [0; 1];
        self.taken == self.input.len() && matches!(self.stream.read(&mut rest), Ok(0) | Err(_))
    }
}
