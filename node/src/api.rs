//! The node's HTTP face: the OpenAI-compatible endpoints, and what our own command line asks of a
//! running node.
//!
//! Every path answers in JSON and in one error shape, also where nothing is found, a body is too
//! big or a handler panics: clients show the message of a JSON error and swallow anything else.
//! Nothing here decides anything about the swarm; it reads requests, asks the [`Engine`] and
//! writes what it says.
//!
//! [`Engine`]: crate::engine::Engine

pub(crate) mod access;
mod answers;
mod asking;
mod chat_request;
mod choice;
pub(crate) mod control;
mod error;
pub(crate) mod failures;
mod fields;
mod local;
mod logprobs;
mod models;
mod opening;
mod order;
mod reading;
mod replies;
mod sampling;
pub(crate) mod scoring;
mod server;
mod sse;
mod text_request;
mod unique;
mod unsupported;
mod wire_events;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt;

use self::access::Access;
use self::error::ApiError;
pub(crate) use self::server::serve;
use crate::engine::SharedEngine;

/// The largest request body. A prompt that fills a long context is far below it.
const MAX_BODY: usize = 8 << 20;

/// How long a request's body may take to come.
const BODY: Duration = Duration::from_secs(60);

/// What every handler shares.
#[derive(Clone)]
struct Api {
    /// Whoever makes answers.
    engine: SharedEngine,
    /// A random number: request ids, and seeds where the request has none.
    draw: fn() -> u64,
    /// When this router was made, in Unix seconds: the `created` of the models, whose true age
    /// nobody knows.
    since: u64,
}

/// All endpoints over this engine. `draw` gives random numbers: ids, and seeds that a request
/// leaves open.
pub(crate) fn router(engine: SharedEngine, draw: fn() -> u64, access: Access) -> Router {
    let api = Api { engine, draw, since: unix_now() };
    Router::new()
        .route("/v1/chat/completions", post(answers::chat))
        .route("/v1/completions", post(answers::text))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/health", get(models::health))
        .route("/version", get(models::version))
        .route("/taimatsu/v1/run", post(local::run))
        .route("/taimatsu/v1/score", post(local::score))
        .route("/taimatsu/v1/status", get(local::status))
        .route("/taimatsu/v1/map", get(local::map))
        .route("/taimatsu/v1/try-dht", post(local::try_dht))
        .route("/taimatsu/v1/reputation", get(local::reputation))
        .route("/taimatsu/v1/receipts", get(local::receipts))
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(move |request, next| {
            access::guard(access.clone(), request, next)
        }))
        .layer(middleware::from_fn(move |request, next| envelope(draw, request, next)))
        .with_state(api)
}

/// Around every handler: an id on every reply, and a panic becomes a reply like any other.
async fn envelope(draw: fn() -> u64, request: Request, next: Next) -> Response {
    let id = format!("req_{:016x}", draw());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let reply = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut reply = reply.unwrap_or_else(|_panic| {
        ApiError::internal(format!("the request met a bug; please report it with {id}"))
            .into_response()
    });
    if reply.status().is_server_error() {
        tracing::warn!(id, %method, path, status = reply.status().as_u16(), "a request failed");
    }
    let id = HeaderValue::from_str(&id).expect("hexadecimal digits are a header value");
    reply.headers_mut().insert("x-request-id", id);
    reply
}

async fn unknown_url(method: Method, uri: Uri) -> ApiError {
    if method == Method::OPTIONS {
        return ApiError::wrong_method(&method, uri.path());
    }
    ApiError::unknown_url(&format!("{method} {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    // The router itself adds `Allow`.
    ApiError::wrong_method(&method, uri.path())
}

/// The request's whole body, whatever it calls itself: real clients leave content-type out.
async fn body_of(request: Request) -> Result<Bytes, ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(ApiError::too_large(MAX_BODY));
    }
    tokio::time::timeout(BODY, read_bounded(request.into_body()))
        .await
        .unwrap_or_else(|_| Err(ApiError::broken_body("it did not come in time")))
}

async fn read_bounded(body: Body) -> Result<Bytes, ApiError> {
    use futures::StreamExt;
    let mut stream = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| ApiError::broken_body(&error.to_string()))?;
        if whole.len() + piece.len() > MAX_BODY {
            return Err(ApiError::too_large(MAX_BODY));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// Seconds since 1970; 0 before.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests {
    use super::server::{GRACE, HEAD};
    use super::*;
    use crate::api::fake::{self, Fake};
    use axum::http::StatusCode;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    fn head(method: &str, path: &str) -> Request {
        Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn an_unknown_address_is_a_json_404() {
        for path in ["/", "/v1", "/v1/chat", "/v1/models/", "/taimatsu/v1/nothing"] {
            let (status, _, body) =
                fake::json_reply(Fake::default().router(), head("GET", path)).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(body["error"]["code"], "unknown_url");
            assert_eq!(body["error"]["type"], "invalid_request_error");
            assert_eq!(body["error"]["param"], Value::Null);
            assert!(body["error"]["message"].as_str().unwrap().contains(path));
        }
    }

    #[tokio::test]
    async fn a_wrong_method_is_a_json_405_that_names_the_right_one() {
        for (method, path, allow) in [
            ("GET", "/v1/chat/completions", "POST"),
            ("DELETE", "/v1/models", "GET,HEAD"),
            ("POST", "/v1/models/a/b:c", "GET,HEAD"),
            ("PUT", "/taimatsu/v1/run", "POST"),
        ] {
            let (status, headers, body) =
                fake::json_reply(Fake::default().router(), head(method, path)).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(headers["allow"], allow, "{method} {path}");
            assert_eq!(body["error"]["code"], "method_not_allowed");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_a_json_413_announced_or_not() {
        let post = || Request::builder().method("POST").uri("/v1/chat/completions");
        let announced = post().header("content-length", MAX_BODY + 1).body(Body::empty()).unwrap();
        let pieces = (0..9).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20])));
        let endless = post().body(Body::from_stream(futures::stream::iter(pieces))).unwrap();
        for request in [announced, endless] {
            let (status, _, body) = fake::json_reply(Fake::default().router(), request).await;
            assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(body["error"]["code"], "request_too_large");
            assert!(body["error"]["message"].as_str().unwrap().contains("8 MiB"));
        }
        let full = post().body(Body::from(vec![b' '; MAX_BODY])).unwrap();
        let (status, _, body) = fake::json_reply(Fake::default().router(), full).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_json"))
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_a_json_400() {
        let pieces = [Ok(Bytes::from("{")), Err(std::io::Error::other("cut"))];
        let body = Body::from_stream(futures::stream::iter(pieces));
        let request =
            Request::builder().method("POST").uri("/v1/chat/completions").body(body).unwrap();
        let (status, _, body) = fake::json_reply(Fake::default().router(), request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body["error"]["message"].as_str().unwrap().contains("cut"), "{body}");
    }

    #[tokio::test]
    async fn any_content_type_is_read_as_json() {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
            let mut request = fake::chat(json!({}));
            request.headers_mut().insert("content-type", kind.parse().unwrap());
            let router =
                Fake::saying(vec![fake::started(), fake::finished("hi", Default::default())]);
            let (status, _, _) = fake::json_reply(router.router(), request).await;
            assert_eq!(status, StatusCode::OK, "{kind}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_json_500_with_the_id_to_quote() {
        // Nobody told this engine what to say: it panics.
        let router = Fake::default().router();
        let (status, headers, body) = fake::json_reply(router, fake::chat(json!({}))).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["error"]["code"], "internal");
        assert_eq!(body["error"]["type"], "server_error");
        let id = headers["x-request-id"].to_str().unwrap();
        assert!(body["error"]["message"].as_str().unwrap().contains(id), "{body}");
    }

    /// A server on loopback; it ends when the sender is dropped.
    async fn listen(
        fake: Fake,
    ) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        (address, stop, tokio::spawn(serve(listener, fake.router(), shutdown)))
    }

    async fn post(address: std::net::SocketAddr, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = body.to_string();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(wanted) {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).await.unwrap();
            assert_ne!(length, 0, "closed after {:?}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&piece[..length]);
        }
        String::from_utf8(text).unwrap()
    }

    fn question(stream: bool) -> Value {
        let messages = json!([{"role": "user", "content": "hi"}]);
        json!({"model": "m", "messages": messages, "stream": stream})
    }

    #[tokio::test]
    async fn tokens_reach_the_client_one_by_one_and_its_going_away_cancels() {
        let (fake, mut hand) = Fake::in_hand();
        let (address, _stop, _server) = listen(fake).await;
        let mut client = post(address, "/v1/chat/completions", &question(true)).await;
        hand.events.send(fake::started()).await.unwrap();
        hand.events.send(fake::token(1, "one")).await.unwrap();
        // The second token is not there yet, and the first is.
        let first = read_until(&mut client, "one").await;
        assert!(first.starts_with("HTTP/1.1 200 OK"), "{first}");
        hand.consumed.wait_for(|taken| *taken == 1).await.unwrap();
        hand.events.send(fake::token(2, "two")).await.unwrap();
        read_until(&mut client, "two").await;
        drop(client);
        hand.events.closed().await;
    }

    #[tokio::test]
    async fn going_away_cancels_an_unstreamed_answer_and_a_run_too() {
        for (path, body) in [
            ("/v1/chat/completions", question(false)),
            ("/taimatsu/v1/run", json!({"model": "m", "prompt": "hi"})),
        ] {
            let (fake, mut hand) = Fake::in_hand();
            let (address, _stop, _server) = listen(fake).await;
            let client = post(address, path, &body).await;
            hand.events.send(fake::started()).await.unwrap();
            hand.events.send(fake::token(1, "one")).await.unwrap();
            hand.consumed.wait_for(|taken| *taken == 1).await.unwrap();
            drop(client);
            hand.events.closed().await;
        }
    }

    #[tokio::test]
    async fn a_shutdown_lets_answers_under_way_finish() {
        let (fake, mut hand) = Fake::in_hand();
        let (address, stop, server) = listen(fake).await;
        let mut client = post(address, "/v1/chat/completions", &question(true)).await;
        hand.events.send(fake::started()).await.unwrap();
        hand.events.send(fake::token(1, "one")).await.unwrap();
        read_until(&mut client, "one").await;
        stop.send(()).unwrap();
        hand.consumed.wait_for(|taken| *taken == 1).await.unwrap();
        hand.events.send(fake::finished("", Default::default())).await.unwrap();
        read_until(&mut client, "[DONE]").await;
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_shutdown_does_not_wait_for_ever() {
        let (fake, mut hand) = Fake::in_hand();
        let (address, stop, server) = listen(fake).await;
        let mut client = post(address, "/v1/chat/completions", &question(true)).await;
        hand.events.send(fake::started()).await.unwrap();
        hand.events.send(fake::token(1, "one")).await.unwrap();
        read_until(&mut client, "one").await;
        hand.consumed.wait_for(|taken| *taken == 1).await.unwrap();
        // From here on only timers move: the answer never ends.
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(before.elapsed() >= GRACE);
    }
    #[tokio::test]
    async fn who_never_ends_a_request_is_cut_off() {
        let (fake, _hand) = Fake::in_hand();
        let (address, _stop, _server) = listen(fake).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nx: ").await.unwrap();
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(before.elapsed() >= HEAD, "it ended by its deadline");
        assert!(!String::from_utf8_lossy(&rest).contains("200"));
    }
}
