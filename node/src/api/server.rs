//! The API's connections: a bounded number, each with deadlines, so that who sends nothing, or a
//! byte a second, holds neither a place nor a file descriptor for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

/// Connections at a time. Beyond it a newcomer takes the place of the one that has been silent for
/// longest; where all have asked something, it waits until one ends.
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
    let mut silent = Silent::default();
    tokio::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let accepted = listener.accept().await;
            if places.available_permits() == 0 {
                silent.end_oldest();
            }
            (places.clone().acquire_owned().await, accepted)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, watcher) = (router.clone(), graceful.watcher());
                let asked = Arc::new(AtomicBool::new(false));
                let asks = asked.clone();
                let task = connections.spawn(async move {
                    connection(stream, router, watcher, asks).await;
                    drop(place);
                });
                silent.add(asked, task);
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

/// Connections that have not sent a whole request yet, the oldest first.
#[derive(Default)]
struct Silent(VecDeque<(Arc<AtomicBool>, AbortHandle)>);

impl Silent {
    fn add(&mut self, asked: Arc<AtomicBool>, task: AbortHandle) {
        self.0.retain(|(asked, task)| !asked.load(Ordering::Relaxed) && !task.is_finished());
        self.0.push_back((asked, task));
    }

    fn end_oldest(&mut self) {
        self.0.retain(|(asked, task)| !asked.load(Ordering::Relaxed) && !task.is_finished());
        if let Some((_, task)) = self.0.pop_front() {
            task.abort();
        }
    }
}

async fn connection(stream: TcpStream, router: Router, watcher: Watcher, asked: Arc<AtomicBool>) {
    // A token is a small packet, and must not wait for the next one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection stays without TCP_NODELAY");
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        asked.store(true, Ordering::Relaxed);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_asked_nothing_gives_way() {
        let (mut silent, mut tasks) = (Silent::default(), JoinSet::new());
        for asked in [true, false, false, true] {
            let asked = Arc::new(AtomicBool::new(asked));
            silent.add(asked, tasks.spawn(std::future::pending::<()>()));
        }
        let ended: Vec<_> = silent.0.iter().map(|(_, task)| task.id()).collect();
        assert_eq!(ended.len(), 3, "who has asked is forgotten with the next newcomer");
        for oldest in &ended[..2] {
            silent.end_oldest();
            let error = tasks.join_next().await.unwrap().unwrap_err();
            assert!(error.is_cancelled() && error.id() == *oldest);
        }
        silent.end_oldest();
        assert_eq!((silent.0.len(), tasks.len()), (0, 2), "who has asked stays");
    }
}
