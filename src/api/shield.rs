//! Protection against pages of other sites (CSRF, DNS rebinding), and security headers of answers.
//! Requests without `Origin` (curl, client libraries) are not checked: browsers send it with every
//! request that changes something.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Uri,
        header::{
            CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
            X_FRAME_OPTIONS,
        },
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{REQUEST_ID, codes::ApiError};
use crate::settings::Settings;

/// For answers and reports, which run no script and load nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// For the Swagger UI, which loads its own files, calls this server and shows its pictures.
const DOCS_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; \
    object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// For the page at `/`, which loads its own files, calls this server and shows its pictures.
const PAGE_POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The longest request id that is accepted, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The pages from which requests are accepted.
#[derive(Clone, Debug)]
pub(super) struct Shield {
    origins: Vec<String>,
    /// Names of this server, besides those of a loopback address. None for any.
    hosts: Option<Vec<String>>,
}

impl Shield {
    /// On a loopback address, a page whose host name resolves to this machine (DNS rebinding) is
    /// not of the same origin.
    pub(super) fn of(settings: &Settings) -> Self {
        let mut hosts = settings.allowed_hosts.clone();
        hosts.push(settings.listen.ip().to_string());
        let checks = settings.listen.ip().is_loopback() || !settings.allowed_hosts.is_empty();
        Self {
            origins: settings.cors_origins.clone(),
            hosts: checks.then_some(hosts),
        }
    }

    /// Refuses requests that a page of another site makes.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let (false, Some(origin)) = (method.is_safe(), headers.get(ORIGIN)) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        if self
            .origins
            .iter()
            .any(|known| known == "*" || known.eq_ignore_ascii_case(origin))
        {
            return Ok(());
        }
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .and_then(|host| host.parse().ok());
        let host: Option<Authority> = host.or_else(|| uri.authority().cloned());
        let page = origin
            .parse::<Uri>()
            .ok()
            .filter(|page| page.scheme().is_some());
        match (page.as_ref().and_then(Uri::authority), host) {
            (Some(page), Some(host)) if *page == host => match &self.hosts {
                Some(known) if !is_known(known, host.host()) => Err(ApiError::ForeignHost {
                    host: host.to_string(),
                }),
                _ => Ok(()),
            },
            _ => Err(ApiError::ForeignOrigin {
                origin: origin.to_owned(),
            }),
        }
    }
}

fn is_known(names: &[String], host: &str) -> bool {
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.');
    let lower = bare.to_ascii_lowercase();
    lower == "localhost"
        || lower.ends_with(".localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || names.iter().any(|name| name.eq_ignore_ascii_case(bare))
}

/// Refuses requests of other sites' pages, and adds security headers.
pub(super) async fn guard(State(shield): State<Shield>, request: Request, next: Next) -> Response {
    let policy = match request.uri().path() {
        "/" => PAGE_POLICY,
        path if path.starts_with("/assets/") => PAGE_POLICY,
        path if path.starts_with("/docs") => DOCS_POLICY,
        _ => POLICY,
    };
    let mut response = match shield.check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let told: [(HeaderName, &'static str); 4] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, policy),
    ];
    response
        .headers_mut()
        .extend(told.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// Drops a request id that is not 1 to [`MAX_REQUEST_ID`] visible ASCII characters; a new one is
/// made then.
pub(super) fn clean_request_id<B>(mut request: axum::http::Request<B>) -> axum::http::Request<B> {
    let is_usable = |id: &HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    if let Some(id) = request.headers_mut().remove(REQUEST_ID).filter(is_usable) {
        request.headers_mut().insert(REQUEST_ID, id);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shield(origins: &[&str], hosts: Option<&[&str]>) -> Shield {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Shield {
            origins: owned(origins),
            hosts: hosts.map(owned),
        }
    }

    fn check(shield: &Shield, host: &str, origin: Option<&str>) -> Result<(), ApiError> {
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
        headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_str(origin).unwrap())));
        shield.check(&Method::POST, &Uri::from_static("/jobs"), &headers)
    }

    #[test]
    fn a_page_may_call_its_own_server_and_a_foreign_one_may_not() {
        let open = shield(&[], None);
        for (host, origin) in [
            ("a.example", "https://a.example"),
            ("a.example:8080", "http://A.example:8080"),
            ("[::1]:1", "http://[::1]:1"),
        ] {
            assert!(check(&open, host, Some(origin)).is_ok(), "{origin}");
        }
        for origin in [
            "https://b.example",
            "http://a.example:8081",
            "null",
            "",
            "a.example",
            "https://a.example.evil",
        ] {
            assert!(
                matches!(
                    check(&open, "a.example", Some(origin)),
                    Err(ApiError::ForeignOrigin { .. })
                ),
                "{origin}"
            );
        }
        assert!(check(&open, "a.example", None).is_ok());
    }

    #[test]
    fn listed_origins_may_call_whatever_the_host() {
        let listed = shield(&["https://viewer.example"], Some(&[]));
        assert!(check(&listed, "evil.example", Some("https://viewer.example")).is_ok());
        assert!(check(&listed, "localhost", Some("https://other.example")).is_err());
        assert!(
            check(
                &shield(&["*"], Some(&[])),
                "a",
                Some("https://other.example")
            )
            .is_ok()
        );
    }

    #[test]
    fn a_name_that_was_bound_to_this_machine_is_not_this_machine() {
        let local = shield(&[], Some(&["127.0.0.1", "explaind.example"]));
        for host in [
            "localhost:8080",
            "127.0.0.1:8080",
            "127.0.0.9",
            "[::1]:8080",
            "x.localhost",
            "explaind.example",
        ] {
            assert!(
                check(&local, host, Some(&format!("http://{host}"))).is_ok(),
                "{host}"
            );
        }
        for host in ["evil.example:8080", "localhost.evil.example", "10.0.0.1"] {
            let refused = check(&local, host, Some(&format!("http://{host}")));
            assert!(
                matches!(refused, Err(ApiError::ForeignHost { .. })),
                "{host}"
            );
            assert!(check(&local, host, None).is_ok());
        }
    }

    #[test]
    fn only_short_visible_request_ids_are_kept() {
        let kept = |id: &[u8]| {
            let mut request = axum::http::Request::new(());
            request
                .headers_mut()
                .insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            clean_request_id(request).headers().contains_key(REQUEST_ID)
        };
        assert!(kept(b"req-1") && kept(&[b'x'; MAX_REQUEST_ID]));
        for id in [
            &b""[..],
            b" ",
            b"a b",
            b"caf\xe9",
            &[b'x'; MAX_REQUEST_ID + 1],
        ] {
            assert!(!kept(id), "{id:?}");
        }
    }
}
