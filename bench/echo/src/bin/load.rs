//! `bench-load ADDRESS REQUEST_FILE WARM COUNT [CONNECTIONS]`: sends one HTTP/1.1 request,
//! given as raw bytes, again and again on one kept-alive connection or on several at once,
//! each after the answer to the one before. Prints one line of JSON with the percentiles
//! of COUNT latencies a connection in nanoseconds, after WARM calls that do not count, and
//! the time of all divided by their number. Blocking sockets and next to no parsing: what
//! it measures is the server. It must not know which one that is.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (address, file, warm, count, connections) = match words.as_slice() {
        [address, file, warm, count] => (address, file, warm, count, "1"),
        [address, file, warm, count, connections] => (address, file, warm, count, &**connections),
        _ => {
            return Err(io::Error::other(
                "usage: bench-load ADDRESS REQUEST_FILE WARM COUNT [CONNECTIONS]",
            ));
        }
    };
    let request = std::fs::read(file)?;
    let warm = warm.parse::<usize>().map_err(io::Error::other)?;
    let count = count.parse::<usize>().map_err(io::Error::other)?.max(1);
    let connections = connections
        .parse::<usize>()
        .map_err(io::Error::other)?
        .max(1);
    let begin = Barrier::new(connections + 1);
    let (mut latencies_ns, elapsed) = std::thread::scope(|scope| {
        let on_one = || -> io::Result<Vec<u128>> {
            let opened = Connection::open(address).and_then(|mut connection| {
                for _ in 0..warm {
                    connection.call(&request)?;
                }
                Ok(connection)
            });
            begin.wait();
            opened?.latencies_ns(&request, count)
        };
        let running: Vec<_> = (0..connections).map(|_| scope.spawn(on_one)).collect();
        begin.wait();
        let begun = now();
        let mut all = Vec::with_capacity(connections * count);
        for one in running {
            let ended = one
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(ended?);
        }
        io::Result::Ok((all, begun.elapsed()))
    })?;
    latencies_ns.sort_unstable();
    let total = latencies_ns.len();
    let at = |percent: usize| latencies_ns[(total - 1) * percent / 100];
    println!(
        r#"{{"count":{total},"p50_ns":{},"p90_ns":{},"p99_ns":{},"ns_a_call":{}}}"#,
        at(50),
        at(90),
        at(99),
        elapsed.as_nanos() / total as u128
    );
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a load client measures time")]
fn now() -> Instant {
    Instant::now()
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream,
            buffer: vec![0; 1 << 20],
        })
    }

    /// So many calls, one after the other.
    fn latencies_ns(&mut self, request: &[u8], count: usize) -> io::Result<Vec<u128>> {
        let mut latencies_ns = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = now();
            self.call(request)?;
            latencies_ns.push(begun.elapsed().as_nanos());
        }
        Ok(latencies_ns)
    }

    /// One call. Anything but status 200 is an error, and so is an answer without a
    /// length or longer than the buffer.
    fn call(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)?;
        let mut have = 0;
        let mut need = usize::MAX;
        while have < need {
            let free = self.buffer.get_mut(have..).unwrap_or_default();
            let count = self.stream.read(free)?;
            if count == 0 {
                return Err(io::Error::other("the answer was cut short"));
            }
            have += count;
            let received = self.buffer.get(..have).unwrap_or_default();
            if need == usize::MAX
                && let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n")
            {
                need = end + 4 + body_length(received.get(..end).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

/// The length of the body that follows this head.
fn body_length(head: &[u8]) -> io::Result<usize> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("the server answered {status:?}")));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the answer has no content-length"))
}

#[cfg(test)]
mod tests {
    use super::body_length;

    #[test]
    fn an_answer_s_length_is_read_and_a_failure_is_one() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nDate: x";
        assert_eq!(body_length(good).expect("a good head"), 12);
        assert!(body_length(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 1").is_err());
        assert!(body_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked").is_err());
    }
}
