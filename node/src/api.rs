//! The node's HTTP face: the OpenAI-compatible endpoints, and what our own command line asks of a
//! running node.
//!
//! Every path answers in JSON and in one error shape, also where nothing is found, a body is too
//! big or a handler panics: clients show the message of a JSON error and swallow anything else.
//! Nothing here decides anything about the swarm; it reads requests, asks the [`Engine`] and
//! writes what it says.
//!
//! [`Engine`]: crate::engine::Engine

mod chat;
mod chat_request;
pub(crate) mod control;
mod error;
pub(crate) mod failures;
#[cfg(test)]
mod fake;
mod fields;
mod local;
mod models;
mod reading;
mod replies;
mod sampling;
mod sse;
mod unsupported;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use self::error::ApiError;
use crate::engine::SharedEngine;

/// The largest request body. A prompt that fills a long context is far below it.
const MAX_BODY: usize = 8 << 20;

/// How long answers under way may go on once the node is told to stop. Supervisors kill after ten.
const GRACE: Duration = Duration::from_secs(5);

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
pub(crate) fn router(engine: SharedEngine, draw: fn() -> u64) -> Router {
    let api = Api { engine, draw, since: unix_now() };
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/health", get(models::health))
        .route("/version", get(models::version))
        .route("/taimatsu/v1/run", post(local::run))
        .route("/taimatsu/v1/score", post(local::score))
        .route("/taimatsu/v1/status", get(local::status))
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(move |request, next| envelope(draw, request, next)))
        .with_state(api)
}

/// Answers requests until `shutdown` comes true, and then finishes what is under way, for a few
/// seconds at most.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    // A token is a small packet, and must not wait for the next one.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays without TCP_NODELAY");
        }
    });
    let (told, stopping) = oneshot::channel();
    let signal = async move {
        shutdown.await;
        // The receiver lives as long as this server.
        let _ = told.send(());
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(signal).into_future();
    let out_of_patience = async move {
        if stopping.await.is_err() {
            // The signal is gone without having come: the server ends by itself.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::error!(%error, "the API ended");
            }
        }
        () = out_of_patience => tracing::warn!("answers under way were cut off by the shutdown"),
    }
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
    read_bounded(request.into_body()).await
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
