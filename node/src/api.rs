//! stub
use crate::engine::SharedEngine;
pub(crate) fn router(_engine: SharedEngine) -> axum::Router {
    axum::Router::new()
}
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let _ = axum::serve(listener, router).with_graceful_shutdown(shutdown).await;
}
