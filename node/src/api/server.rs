//! The API's connections: a bounded number, each with deadlines, so that who sends nothing, or a
//! byte a second, holds neither a place nor a file descriptor for long.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at a time. Beyond it newcomers wait until one ends, which its deadline sees to.
const CONNECTIONS: usize = 256;

/// How long the head of a request may take to come, and a connection to be idle.
pub(super) const HEAD: Duration = Duration::from_secs(20);

/// How long answers under way may go on once the node is told to stop. Supervisors kill after ten.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// After this the listener is tried again where the system gives no connection (no descriptors).
const PAUSE: Duration = Duration::from_millis(100);

/// Answers requests until `shutdown` comes true, and then finishes what is under way, for a few
/// seconds at most.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropped with this future: then what is still under way is cut off.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, watcher) = (router.clone(), graceful.watcher());
                connections.spawn(async move {
                    connection(stream, router, watcher).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "no connection was accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("answers under way were cut off by the shutdown");
    }
}

async fn connection(stream: TcpStream, router: Router, watcher: Watcher) {
    // A token is a small packet, and must not wait for the next one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection stays without TCP_NODELAY");
    }
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended badly");
    }
}
