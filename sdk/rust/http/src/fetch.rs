//! A request to somebody else: `url=http%3A%2F%2F…`.

use wasip2::http::{
    outgoing_handler,
    types::{Fields, OutgoingRequest, Scheme},
};

use crate::{Answer, read};

/// Gives the status and the body in a text; 502 if there were none.
pub(crate) fn fetch(query: &str) -> Result<Answer, String> {
    let url = query.strip_prefix("url=").and_then(decode);
    let Some((scheme, authority, path)) = url.as_deref().and_then(split) else {
        return Ok(Answer::text(
            400,
            "give url=, http or https, percent-encoded",
        ));
    };
    let request = OutgoingRequest::new(Fields::new());
    let refused = |()| "the URL is none".to_owned();
    request.set_scheme(Some(&scheme)).map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query(Some(path)).map_err(refused)?;
    match send(request) {
        Ok((status, body)) => {
            let body = String::from_utf8_lossy(&body);
            Ok(Answer::text(200, format!("{status}\n{body}")))
        }
        Err(message) => Ok(Answer::text(502, message)),
    }
}

fn send(request: OutgoingRequest) -> Result<(u16, Vec<u8>), String> {
    let failed = |code| format!("{code:?}");
    let future = outgoing_handler::handle(request, None).map_err(failed)?;
    future.subscribe().block();
    let answer = future.get().ok_or("not ready")?.map_err(|()| "taken")?;
    let response = answer.map_err(failed)?;
    let body = response.consume().map_err(|()| "the body is gone")?;
    Ok((response.status(), read(&body)?))
}

/// Scheme, authority and path of a URL.
fn split(url: &str) -> Option<(Scheme, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    Some((scheme, authority, if path.is_empty() { "/" } else { path }))
}

/// Resolves percent signs.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push((digit()? * 16 + digit()?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
