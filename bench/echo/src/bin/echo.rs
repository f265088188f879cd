//! The raw limits that the benchmarks measure beside.
//!
//! `bench-echo http` is an axum server that answers every POST with its body; it
//! prints the address it serves. `bench-echo unix PATH SIZE` takes one connection on
//! a Unix socket, reads frames (`u32` little endian, then so many bytes) and answers
//! each with a frame of SIZE bytes. It is one blocking thread, so there is no faster
//! partner; `bench-echo unix-tokio PATH SIZE` does the same on tokio's runtime.
//! Each ends when standard input does. It must not know what it is compared with.

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener as BlockingListener;
use std::process::ExitCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

const FRAME_BYTES_MAX: usize = 1 << 20;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["http"] => on_tokio(http()),
        ["unix", path, size] => size_of(size).and_then(|size| unix(path, size)),
        ["unix-tokio", path, size] => {
            size_of(size).and_then(|size| on_tokio(unix_tokio(path, size)))
        }
        _ => Err(io::Error::other(
            "usage: bench-echo http | unix PATH SIZE | unix-tokio PATH SIZE",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn size_of(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// The runtime that a node has too.
fn on_tokio(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn http() -> io::Result<()> {
    let echo = Router::new().fallback(post(|body: Bytes| async { body }));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&listener.local_addr()?.to_string())?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // As the node does; a client of a server without it may wait for a timer.
        let _ = stream.set_nodelay(true);
    });
    tokio::spawn(async move { axum::serve(listener, echo).await });
    tokio::task::spawn_blocking(wait_for_end).await?
}

/// Whoever started this holds the other end of standard input.
fn wait_for_end() -> io::Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(|_| ())
}

/// A frame to answer with, its length first.
fn answer_of(size: usize) -> io::Result<Vec<u8>> {
    let length = u32::try_from(size).map_err(io::Error::other)?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.resize(4 + size, b'x');
    Ok(frame)
}

/// Whether `received` begins with a whole frame; takes it off if so.
fn take(received: &mut Vec<u8>) -> io::Result<bool> {
    let Some(prefix) = received.first_chunk::<4>() else {
        return Ok(false);
    };
    let length = 4 + u32::from_le_bytes(*prefix) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("the frame is too long"));
    }
    if received.len() < length {
        return Ok(false);
    }
    received.drain(..length);
    Ok(true)
}

fn unix(path: &str, size: usize) -> io::Result<()> {
    let listener = BlockingListener::bind(path)?;
    say(path)?;
    let (mut stream, _) = listener.accept()?;
    let answer = answer_of(size)?;
    let mut buffer = vec![0; 64 << 10];
    let mut received = Vec::new();
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        received.extend_from_slice(buffer.get(..count).unwrap_or_default());
        while take(&mut received)? {
            stream.write_all(&answer)?;
        }
    }
}

async fn unix_tokio(path: &str, size: usize) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    say(path)?;
    let (mut stream, _) = listener.accept().await?;
    let answer = answer_of(size)?;
    // On a task of its own, as a node's conversations are.
    let talk = tokio::spawn(async move {
        let mut received = Vec::with_capacity(64 << 10);
        while stream.read_buf(&mut received).await? > 0 {
            while take(&mut received)? {
                stream.write_all(&answer).await?;
            }
        }
        Ok(())
    });
    talk.await?
}
