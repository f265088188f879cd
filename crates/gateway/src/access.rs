//! Who may come in: the bearer token, and the host asked for.
//!
//! The token keeps other users of the machine out. The check of the host keeps
//! web pages out that make a browser resolve their own name to this node (DNS
//! rebinding). Pure: headers in, verdict out.

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, Uri};
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;
use tidemill_problem::{Code, Problem};

/// What is asked of every request but those for the node's health.
#[derive(Clone)]
pub struct Access {
    token: Option<Box<str>>,
    listen: IpAddr,
    hosts: Vec<String>,
}

impl Access {
    /// Asks for `token` (without one, everybody may come in), on the address
    /// `listen`, under the loopback names, the address itself or one of `hosts`.
    #[must_use]
    pub fn new(token: Option<&str>, listen: SocketAddr, hosts: &[String]) -> Self {
        Self {
            token: token.map(Box::from),
            listen: listen.ip(),
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a request with this target and these headers may come in.
    ///
    /// # Errors
    /// `forbidden-host` or `unauthorized`.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        self.check_host(uri, headers)?;
        self.check_token(headers)
    }

    /// Whether a request for something public may come in.
    ///
    /// # Errors
    /// `forbidden-host`.
    pub(crate) fn check_public(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        self.check_host(uri, headers)
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        // An absolute target overrides the header (RFC 9112, section 3.2.2).
        let header = || headers.get(HOST).and_then(|value| value.to_str().ok());
        let authority = match uri.authority() {
            Some(authority) => authority.as_str(),
            None => header().unwrap_or_default(),
        };
        let host = host_of(authority);
        if self.serves(host) {
            return Ok(());
        }
        Err(Problem::new(
            Code::ForbiddenHost,
            format!(
                "the host {host:?} is not served here: use localhost or the address that the \
                 node listens on, or add the name to the setting `hosts`"
            ),
        ))
    }

    fn serves(&self, host: &str) -> bool {
        if host.eq_ignore_ascii_case("localhost") {
            return true;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            // A literal address cannot be rebound, so a node that listens on every
            // address takes each of them.
            return address.is_loopback()
                || address == self.listen
                || self.listen.is_unspecified()
                || self.hosts.iter().any(|name| name == host);
        }
        self.hosts
            .iter()
            .any(|name| name.eq_ignore_ascii_case(host))
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Err(Problem::new(
                Code::Unauthorized,
                "send `Authorization: Bearer <token>`; the token is in the file `token` of the \
                 node's data directory",
            ));
        };
        let given = bearer(value.as_bytes()).unwrap_or_default();
        // The length is no secret; the bytes are compared in constant time.
        if bool::from(given.ct_eq(token.as_bytes())) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Unauthorized,
            "the token is wrong; the right one is in the file `token` of the node's data directory",
        ))
    }
}

/// The token of `Bearer <token>` (RFC 6750); the scheme's case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// The host of `host[:port]`, an IPv6 address without its brackets.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((address, "")) => address,
            Some((address, port)) if port.starts_with(':') => address,
            _ => "",
        };
    }
    match authority.split_once(':') {
        Some((host, _)) => host,
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn access(listen: &str) -> Access {
        let listen = format!("{listen}:7070").parse().expect("an address");
        Access::new(Some("secret"), listen, &["Mill.example".to_owned()])
    }

    fn headers(host: &str, authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(host).expect("a header value");
        headers.insert(HOST, host);
        if !authorization.is_empty() {
            let value = HeaderValue::from_str(authorization).expect("a header value");
            headers.insert(AUTHORIZATION, value);
        }
        headers
    }

    fn verdict(access: &Access, host: &str, authorization: &str) -> Option<Code> {
        let uri = Uri::from_static("/v1/apps");
        let outcome = access.check(&uri, &headers(host, authorization));
        outcome.err().map(|problem| problem.code)
    }

    #[test]
    fn only_the_right_token_opens() {
        let access = access("127.0.0.1");
        for good in ["Bearer secret", "bearer secret", "BEARER  secret "] {
            assert_eq!(verdict(&access, "localhost", good), None, "{good:?}");
        }
        let bad = [
            "",
            "secret",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secrets",
            "Basic secret",
            "Bearersecret",
        ];
        for bad in bad {
            let code = verdict(&access, "localhost", bad);
            assert_eq!(code, Some(Code::Unauthorized), "{bad:?}");
        }
    }

    #[test]
    fn without_a_token_everybody_may_come_in() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 1));
        let open = Access::new(None, listen, &[]);
        assert_eq!(verdict(&open, "localhost", ""), None);
        assert_eq!(
            verdict(&open, "evil.example", ""),
            Some(Code::ForbiddenHost)
        );
    }

    #[test]
    fn only_known_hosts_are_served() {
        let local = access("127.0.0.1");
        let token = "Bearer secret";
        let good = [
            "localhost",
            "LOCALHOST:7070",
            "127.0.0.1",
            "127.0.0.9:80",
            "[::1]",
            "[::1]:7070",
            "mill.EXAMPLE",
        ];
        for host in good {
            assert_eq!(verdict(&local, host, token), None, "{host:?}");
        }
        let bad = [
            "",
            "evil.example",
            "localhost.evil.example",
            "192.168.0.9",
            "[::1",
            "[::1]x",
            "127.0.0.1.evil.example",
        ];
        for host in bad {
            let code = verdict(&local, host, token);
            assert_eq!(code, Some(Code::ForbiddenHost), "{host:?}");
        }
        let lan = access("192.168.0.9");
        assert_eq!(verdict(&lan, "192.168.0.9:7070", token), None);
        let any = access("0.0.0.0");
        assert_eq!(verdict(&any, "10.1.2.3", token), None);
        assert_eq!(
            verdict(&any, "evil.example", token),
            Some(Code::ForbiddenHost)
        );
    }

    #[test]
    fn an_absolute_target_overrides_the_header() {
        let access = access("127.0.0.1");
        let uri = Uri::from_static("http://evil.example/v1/apps");
        let refused = access.check(&uri, &headers("localhost", "Bearer secret"));
        let code = refused.err().map(|problem| problem.code);
        assert_eq!(code, Some(Code::ForbiddenHost));
    }
}
