//! What a guest prints: cut into lines and handed to the call that it prints for.

use bytes::Bytes;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream as P2Stream, Pollable, StreamResult};

/// The longest line; longer ones are cut into several.
const LINE_BYTES_MAX: usize = 32 << 10;
/// What a guest may print at once.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Which of its outputs a guest prints to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// `stdout`
    Stdout,
    /// `stderr`
    Stderr,
}

/// Takes lines.
pub trait Lines: Send + Sync {
    /// One line without its end.
    fn line(&self, stream: OutputStream, text: String);
}

/// One output of an instance. What is printed outside of any call is dropped.
#[derive(Clone)]
pub(crate) struct Output(Arc<Mutex<Inner>>);

struct Inner {
    stream: OutputStream,
    sink: Option<Arc<dyn Lines>>,
    line: Vec<u8>,
}

impl Output {
    pub(crate) fn new(stream: OutputStream) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            sink: None,
            line: Vec::new(),
        })))
    }

    /// Lines go there from now on.
    pub(crate) fn open(&self, sink: Arc<dyn Lines>) {
        self.0.lock().sink = Some(sink);
    }

    /// Hands over what has no end yet, and forgets where lines went.
    pub(crate) fn close(&self) {
        let mut inner = self.0.lock();
        inner.flush();
        inner.sink = None;
    }

    fn take(&self, bytes: &[u8]) {
        let mut inner = self.0.lock();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            for piece in text.chunks(LINE_BYTES_MAX) {
                if inner.line.len() + piece.len() > LINE_BYTES_MAX {
                    inner.flush();
                }
                inner.line.extend_from_slice(piece);
            }
            if ends {
                inner.end();
            }
        }
    }
}

impl Inner {
    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.end();
        }
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.line);
        if let Some(sink) = &self.sink {
            let text = String::from_utf8_lossy(&line).into_owned();
            sink.line(self.stream, text);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn P2Stream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl P2Stream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Lines for Kept {
        fn line(&self, _: OutputStream, text: String) {
            self.0.lock().push(text);
        }
    }

    fn printed(writes: &[&[u8]]) -> Vec<String> {
        let kept = Arc::new(Kept::default());
        let output = Output::new(OutputStream::Stdout);
        output.open(Arc::clone(&kept) as Arc<dyn Lines>);
        for write in writes {
            output.take(write);
        }
        output.close();
        output.take(b"after\n");
        std::mem::take(&mut *kept.0.lock())
    }

    #[test]
    fn writes_become_lines_whatever_their_cuts() {
        assert_eq!(printed(&[b"a\nb", b"c\n\nd"]), ["a", "bc", "", "d"]);
        assert_eq!(printed(&[b"\xff\n"]), ["\u{fffd}"]);
        assert_eq!(printed(&[]), [""; 0]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let long = vec![b'x'; LINE_BYTES_MAX * 2 + 5];
        let lengths: Vec<usize> = printed(&[&long[..7], &long[7..]])
            .iter()
            .map(String::len)
            .collect();
        assert!(lengths.iter().all(|length| *length <= LINE_BYTES_MAX));
        assert_eq!(lengths.iter().sum::<usize>(), long.len());
    }
}
