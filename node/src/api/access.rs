//! Who may ask: keys, and what a browser on this machine may be made to do by a page of somebody
//! else's.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use taimatsu_protocol::Digest;

use super::error::ApiError;
use crate::api_keys::ApiKeys;
use crate::failure::{Code, Failure};

/// The one path that needs no key: whoever watches a node is not who asks it.
const HEALTH: &str = "/health";

/// Who may ask.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// The keys' digests; none: nobody needs one.
    keys: Arc<[Digest]>,
    /// Only this machine reaches the API, by the names that a machine has for itself.
    loopback: bool,
}

impl Access {
    /// The access to an API at this address.
    ///
    /// # Errors
    /// Other machines would reach it, and there is no key.
    pub(crate) fn new(address: SocketAddr, keys: &ApiKeys) -> Result<Self, Failure> {
        let keys: Arc<[Digest]> = keys.iter().map(|key| Digest::of(key.as_bytes())).collect();
        let loopback = address.ip().is_loopback();
        if !loopback && keys.is_empty() {
            let what = "the API would answer whoever reaches this machine, without a key";
            return Err(Failure::new(Code::Usage, what)
                .because(format!("--api {address} is not an address of loopback"))
                .try_this(
                    "--api-key FILE (a key on each line, chmod 600), or --api 127.0.0.1:4810",
                ));
        }
        Ok(Self { keys, loopback })
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let headers = request.headers();
        if self.loopback && !names_this_machine(headers, request.uri()) {
            let text =
                "this API answers to localhost, 127.0.0.1 and [::1] only; see the header Host";
            return Err(ApiError::forbidden("foreign_host", text));
        }
        // Nothing takes OPTIONS, so a browser's question whether it may go on is answered with 405.
        if request.method() == Method::OPTIONS {
            return Ok(());
        }
        let keyed = bearer(headers).is_some_and(|key| self.knows(key));
        let foreign = headers.get_all(header::ORIGIN).iter().any(|origin| {
            let text = origin.to_str().unwrap_or("");
            let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            !host.is_some_and(is_this_machine)
        });
        if self.loopback && foreign && !keyed {
            let text = "a page of another origin may not ask without a key; see the header Origin";
            return Err(ApiError::forbidden("foreign_origin", text));
        }
        if !self.keys.is_empty() && !keyed && request.uri().path() != HEALTH {
            return Err(ApiError::unauthorized());
        }
        Ok(())
    }

    /// Whether this is one of the keys. Takes the same time for every wrong one: what is compared
    /// are digests, whole, and with all of the keys.
    fn knows(&self, key: &str) -> bool {
        let digest = Digest::of(key.as_bytes());
        let differ = |known: &Digest| {
            let bytes = known.as_bytes().iter().zip(digest.as_bytes());
            black_box(bytes.fold(0, |differ, (a, b)| differ | (a ^ b)))
        };
        self.keys.iter().fold(false, |found, known| found | (differ(known) == 0))
    }
}

/// In front of every handler.
pub(super) async fn guard(access: Access, request: Request, next: Next) -> Response {
    match access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Whether the request was meant for this machine, and not for a name that somebody has pointed at
/// it: such a page would pass for one of ours. Every HTTP/1.1 client says which host it means.
fn names_this_machine(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter().peekable();
    let there = hosts.peek().is_some();
    there
        && hosts.all(|host| host.to_str().is_ok_and(is_this_machine))
        && uri.authority().is_none_or(|authority| is_this_machine(authority.as_str()))
}

/// Whether `host`, with or without its port, is a name or number of this machine for itself.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(name, _)| name),
        None => host.split(':').next(),
    };
    let number = |name: &str| name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    name.is_some_and(|name| name.eq_ignore_ascii_case("localhost") || number(name))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
impl Access {
    /// For tests that are about something else: everybody may ask.
    pub(crate) fn everybody() -> Self {
        Self { keys: Arc::default(), loopback: false }
    }

    fn with(keys: &[&str], loopback: bool) -> Self {
        Self { keys: keys.iter().map(|key| Digest::of(key.as_bytes())).collect(), loopback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{self, Fake};
    use axum::body::Body;
    use serde_json::Value;

    /// What a request with these headers gets from an API with this access.
    async fn ask(
        access: Access,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let fake = Arc::new(Fake::knowing(&[("m", true)]));
        let router = crate::api::router(fake, || 7, access);
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let (status, headers, body) = fake::json_reply(router, request).await;
        assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control-")));
        (status.as_u16(), body)
    }

    #[tokio::test]
    async fn a_key_is_needed_for_everything_but_health() {
        let access = || Access::with(&["one", "two"], false);
        for path in ["/v1/models", "/version", "/taimatsu/v1/status", "/nothing"] {
            for header in
                [None, Some("Bearer three"), Some("Bearer on"), Some("Basic one"), Some("one")]
            {
                let headers: Vec<_> =
                    header.map(|value| ("authorization", value)).into_iter().collect();
                let (status, body) = ask(access(), "GET", path, &headers).await;
                assert_eq!(
                    (status, &body["error"]["code"]),
                    (401, &"invalid_api_key".into()),
                    "{path}"
                );
                assert_eq!(body["error"]["type"], "authentication_error");
            }
            for key in ["Bearer one", "bearer  two"] {
                let (status, _) = ask(access(), "GET", path, &[("authorization", key)]).await;
                assert_ne!(status, 401, "{path} {key}");
            }
        }
        assert_eq!(ask(access(), "GET", "/health", &[]).await.0, 200);
    }

    #[tokio::test]
    async fn on_loopback_only_this_machines_names_are_answered() {
        let host = |host: &'static str| async move {
            let access = Access::with(&[], true);
            let (status, body) = ask(access, "GET", "/version", &[("host", host)]).await;
            assert!(status == 200 || body["error"]["code"] == "foreign_host", "{body}");
            status
        };
        for good in
            ["localhost", "LocalHost:4810", "127.0.0.1:1", "127.0.0.1", "[::1]:4810", "[::1]"]
        {
            assert_eq!(host(good).await, 200, "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example:4810",
            "192.0.2.1",
            "",
            "[::2]",
            "[::1",
            "0.0.0.0",
        ] {
            assert_eq!(host(bad).await, 403, "{bad}");
        }
        assert_eq!(ask(Access::with(&[], true), "GET", "/version", &[]).await.0, 403);
        let elsewhere = [("host", "node.example"), ("authorization", "Bearer k")];
        assert_eq!(ask(Access::with(&["k"], false), "GET", "/version", &elsewhere).await.0, 200);
    }

    #[tokio::test]
    async fn a_foreign_page_needs_a_key() {
        let with = |keys: &'static [&'static str], origin: &'static str, key: &'static str| async move {
            let headers = [("host", "127.0.0.1:4810"), ("origin", origin), ("authorization", key)];
            ask(Access::with(keys, true), "GET", "/version", &headers).await.0
        };
        for origin in
            ["https://evil.example", "null", "http://localhost.evil.example", "file://", ""]
        {
            assert_eq!(with(&[], origin, "Bearer any").await, 403, "{origin}");
            assert_eq!(with(&["k"], origin, "Bearer k").await, 200, "{origin}");
            assert_eq!(with(&["k"], origin, "Bearer x").await, 403, "{origin}");
        }
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080"] {
            assert_eq!(with(&[], origin, "").await, 200, "{origin}");
        }
    }

    #[tokio::test]
    async fn a_browser_that_asks_whether_it_may_is_refused() {
        let headers = [("host", "localhost"), ("origin", "https://evil.example")];
        for path in ["/v1/chat/completions", "/health", "/nowhere"] {
            for keys in [&[][..], &["k"]] {
                let (status, body) = ask(Access::with(keys, true), "OPTIONS", path, &headers).await;
                assert_eq!((status, &body["error"]["code"]), (405, &"method_not_allowed".into()));
            }
        }
    }

    #[test]
    fn an_address_that_others_reach_needs_a_key() {
        let none = ApiKeys::default();
        for address in ["127.0.0.1:4810", "[::1]:0"] {
            assert!(Access::new(address.parse().unwrap(), &none).unwrap().loopback);
        }
        for address in ["0.0.0.0:4810", "192.0.2.1:4810", "[::]:4810"] {
            let told = Access::new(address.parse().unwrap(), &none).unwrap_err().to_string();
            assert!(told.contains(address) && told.contains("--api-key"), "{told}");
            assert_eq!(told.lines().count(), 3);
        }
    }
}
