//! HTTP requests that guests send: to the hosts that their manifest grants, and no others.

use crate::pool::Grants;
use http::Uri;
use http_body_util::BodyExt;
use std::future::Future;
use std::sync::Arc;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

/// Decides about the requests of one instance.
pub(crate) struct Hooks {
    grants: Arc<Grants>,
}

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<()>> + Send>,
);

impl Hooks {
    pub(crate) fn new(grants: Arc<Grants>) -> Self {
        Self { grants }
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent>> + Send> {
        let is_granted = self
            .grants
            .hosts
            .iter()
            .any(|granted| grants(granted, request.uri()));
        Box::new(async move {
            if !is_granted {
                return Err(Error::HttpRequestDenied);
            }
            let (response, rest) =
                wasmtime_wasi_http::default_send_request(request, options).await?;
            Ok((
                response.map(BodyExt::boxed_unsync),
                Box::new(rest) as Box<dyn Future<Output = _> + Send>,
            ))
        })
    }
}

/// Whether a grant, `host`, `host:port` or `*.domain`, covers an address. A host without a port
/// means the scheme's own.
fn grants(granted: &str, uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else {
        return false;
    };
    let own_port = if uri.scheme_str() == Some("http") {
        80
    } else {
        443
    };
    let port = authority.port_u16().unwrap_or(own_port);
    let (host, granted_port) = match granted.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, port.parse().unwrap_or(0))
        }
        _ => (granted, own_port),
    };
    let asked = authority.host().to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    let is_host = match host.strip_prefix("*.") {
        Some(domain) => asked
            .strip_suffix(domain)
            .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        None => asked == host,
    };
    is_host && port == granted_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_covers_its_host_and_port_and_nothing_near() {
        let cases = [
            ("api.example.com", "https://api.example.com/x", true),
            ("api.example.com", "http://API.example.com/x", true),
            ("api.example.com", "https://api.example.com:8443/", false),
            (
                "api.example.com:8443",
                "https://api.example.com:8443/",
                true,
            ),
            (
                "api.example.com",
                "https://api.example.com.evil.org/",
                false,
            ),
            (
                "api.example.com",
                "https://evil.org/?api.example.com",
                false,
            ),
            (
                "api.example.com",
                "https://api.example.com@evil.org/",
                false,
            ),
            ("*.example.com", "https://a.b.example.com/", true),
            ("*.example.com", "https://example.com/", false),
            ("*.example.com", "https://evilexample.com/", false),
            ("127.0.0.1:9", "http://127.0.0.1:9/", true),
            ("[::1]:9", "http://[::1]:9/", true),
            ("", "https://api.example.com/", false),
        ];
        for (granted, uri, expected) in cases {
            let parsed: Uri = uri.parse().unwrap();
            assert_eq!(grants(granted, &parsed), expected, "{granted} {uri}");
        }
    }
}
