//! Reading bodies within a limit and in bounded time, and JSON out of them.

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName};
use bytes_mut::Gather;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tidemill_lattice::ContentType;
use tidemill_problem::{Code, Problem};

/// How long a client may be silent in the middle of a body.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How much of a body that is too large is read and thrown away, and for how long.
const DRAINED_BYTES_MAX: usize = 256 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a whole body. A body that came in one piece, as small ones do, is not
/// copied.
///
/// # Errors
/// `payload-too-large` above `limit` bytes, `bad-request` when it breaks off.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let announced = axum::body::HttpBody::size_hint(&body).lower();
    let mut stream = body.into_data_stream();
    if usize::try_from(announced).unwrap_or(usize::MAX) > limit {
        drain(stream).await;
        return Err(too_large(limit));
    }
    let mut gathered = Gather::default();
    loop {
        let next = tokio::time::timeout(SILENCE_MAX, stream.next()).await;
        match next {
            Ok(Some(Ok(chunk))) => {
                if gathered.len() + chunk.len() > limit {
                    drain(stream).await;
                    return Err(too_large(limit));
                }
                gathered.push(chunk);
            }
            Ok(None) => return Ok(gathered.finish()),
            Ok(Some(Err(error))) => {
                let detail = format!("the body broke off: {error}");
                return Err(Problem::new(Code::BadRequest, detail));
            }
            Err(_) => {
                let detail = format!("no byte of the body came for {SILENCE_MAX:?}");
                return Err(Problem::new(Code::BadRequest, detail));
            }
        }
    }
}

/// Lets a client that is still sending come to its end, within bounds: many read
/// the answer only then, and closing at once would look to them like a crash.
async fn drain(mut stream: BodyDataStream) {
    let reading = async {
        let mut drained = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            drained += chunk.len();
            if drained > DRAINED_BYTES_MAX {
                break;
            }
        }
    };
    // Either way the answer is sent next.
    drop(tokio::time::timeout(DRAIN_TIMEOUT, reading).await);
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        Code::PayloadTooLarge,
        format!("the body is larger than the limit of {limit} bytes"),
    )
}

mod bytes_mut {
    use axum::body::Bytes;

    /// Chunks of a body; the first one is kept as it is.
    #[derive(Default)]
    pub(super) struct Gather {
        first: Bytes,
        all: Option<Vec<u8>>,
    }

    impl Gather {
        pub(super) fn len(&self) -> usize {
            self.all.as_ref().map_or(self.first.len(), Vec::len)
        }

        pub(super) fn push(&mut self, chunk: Bytes) {
            if self.len() == 0 {
                self.first = chunk;
                return;
            }
            let first = &self.first;
            self.all
                .get_or_insert_with(|| first.to_vec())
                .extend_from_slice(&chunk);
        }

        pub(super) fn finish(self) -> Bytes {
            self.all.map_or(self.first, Bytes::from)
        }
    }
}

/// The content type of a body; octets when the header is missing (RFC 9110,
/// section 8.3).
///
/// # Errors
/// `bad-request` for one that is not a media type.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<ContentType, Problem> {
    let Some(text) = header(headers, &CONTENT_TYPE)? else {
        return Ok(ContentType::OctetStream);
    };
    ContentType::parse(text).map_err(|error| {
        let detail = format!("the header `Content-Type` is wrong: {error}");
        Problem::new(Code::BadRequest, detail)
    })
}

/// A header's text; `None` when it is missing.
///
/// # Errors
/// `bad-request` when it is not visible ASCII.
pub(crate) fn header<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    value.to_str().map(Some).map_err(|_| {
        let detail = format!("the header `{name}` holds characters beyond visible ASCII");
        Problem::new(Code::BadRequest, detail)
    })
}

/// Reads JSON from a body.
///
/// # Errors
/// `bad-request` with line and column.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| json_problem("the body", &error))
}

/// The deepest JSON that is taken. It is passed on as text, and whoever reads it recurses.
const DEPTH_MAX: usize = 128;

/// Checks that a JSON text is not nested too deeply for its readers. What is not JSON
/// is for the parser to say.
///
/// # Errors
/// `bad-request`, with the place.
pub(crate) fn check_depth(text: &[u8]) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            let detail = format!(
                "the body is JSON nested more than {DEPTH_MAX} deep, from byte {at} on; send it as text"
            );
            return Err(Problem::new(Code::BadRequest, detail));
        }
    }
    Ok(())
}

/// What is wrong with a piece of JSON. serde_json's messages end with line and
/// column where there is one.
pub(crate) fn json_problem(what: &str, error: &serde_json::Error) -> Problem {
    use serde_json::error::Category;
    let detail = match error.classify() {
        Category::Data => format!("{what} is JSON of another shape than expected: {error}"),
        _ => format!("{what} is not valid JSON: {error}"),
    };
    Problem::new(Code::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;

    async fn read_chunks(chunks: &'static [&'static str], limit: usize) -> Result<Bytes, Code> {
        let chunks = chunks
            .iter()
            .map(|chunk| Ok::<_, Infallible>(Bytes::from_static(chunk.as_bytes())));
        let body = Body::from_stream(stream::iter(chunks));
        read(body, limit).await.map_err(|problem| problem.code)
    }

    #[tokio::test]
    async fn bodies_are_gathered_up_to_the_limit() {
        assert_eq!(read_chunks(&[], 3).await, Ok(Bytes::new()));
        assert_eq!(read_chunks(&["abc"], 3).await, Ok(Bytes::from("abc")));
        let parts = read_chunks(&["a", "", "bc", "d"], 4).await;
        assert_eq!(parts, Ok(Bytes::from("abcd")));
        assert_eq!(
            read_chunks(&["ab", "cd"], 3).await,
            Err(Code::PayloadTooLarge)
        );
        let announced = read(Body::from("abcd"), 3).await;
        let problem = announced.expect_err("four bytes are above the limit");
        assert!(problem.detail.contains("3 bytes"), "{}", problem.detail);
    }

    #[tokio::test]
    async fn one_piece_is_not_copied() {
        let whole = Bytes::from(vec![7; 1000]);
        let address = whole.as_ptr();
        let read = read(Body::from(whole), 1000).await.unwrap_or_default();
        assert_eq!(read.as_ptr(), address);
    }

    #[test]
    fn nesting_is_bounded_outside_of_strings() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for fits in [
            nested(DEPTH_MAX),
            "[{}]".repeat(1000),
            format!("\"{}\"", nested(1000)),
            format!("[\"\\\"{}\"]", nested(1000)),
        ] {
            assert!(check_depth(fits.as_bytes()).is_ok(), "{fits}");
        }
        for deep in [nested(DEPTH_MAX + 1), "{\"a\\\"\":".repeat(200)] {
            let problem = check_depth(deep.as_bytes()).expect_err("too deep");
            assert_eq!(problem.code, Code::BadRequest);
        }
    }

    #[test]
    fn json_errors_name_line_and_column() {
        let problem = json::<Vec<u32>>(b"[1,\n 2,,3]").expect_err("two commas");
        assert_eq!(problem.code, Code::BadRequest);
        assert!(
            problem.detail.contains("line 2 column 4"),
            "{}",
            problem.detail
        );
        let shape = json::<Vec<u32>>(b"[1, \"a\"]").expect_err("a string");
        assert!(shape.detail.contains("another shape"), "{}", shape.detail);
    }
}
