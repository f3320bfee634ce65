//! The sessions that run here, by id, so that a neighbour's stream finds its session, even when
//! it arrives before the opening does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use taimatsu_protocol::SessionId;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::hop_task::{Arrival, HopEvent};

/// How long a neighbour's hello waits for the client's opening (docs/protocol.md 3.5).
const EARLY: Duration = Duration::from_secs(5);

/// Hellos that may wait. Beyond it they are refused: whoever opens so many without openings is no
/// neighbour.
const EARLY_HELLOS: usize = 128;

/// Sessions by id. Cloned freely; the lock is never held across an await.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    sessions: Arc<Mutex<BTreeMap<SessionId, mpsc::Sender<HopEvent>>>>,
    added: Arc<Notify>,
    early: Arc<Semaphore>,
}

/// A session's entry; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: Registry,
    session: SessionId,
}

impl Registry {
    /// An empty registry.
    pub(crate) fn new() -> Self {
        Self {
            sessions: Arc::default(),
            added: Arc::new(Notify::new()),
            early: Arc::new(Semaphore::new(EARLY_HELLOS)),
        }
    }

    /// Enters a session. Its number is bounded by admission.
    pub(crate) fn enter(&self, session: SessionId, events: mpsc::Sender<HopEvent>) -> Entry {
        self.lock().insert(session, events);
        self.added.notify_waiters();
        Entry { registry: self.clone(), session }
    }

    /// Sessions that run now.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tells every session.
    pub(crate) fn tell_all(&self, event: impl Fn() -> HopEvent) {
        for events in self.lock().values() {
            let _ = events.try_send(event());
        }
    }

    /// Hands a neighbour's stream to its session, waiting a while for the session to be opened.
    /// Dropped (and so refused) where there is none.
    pub(crate) async fn deliver(&self, arrival: Arrival) {
        let Ok(_waiting) = self.early.try_acquire() else { return };
        let session = arrival.hello.session;
        let found = tokio::time::timeout(EARLY, async {
            loop {
                let added = self.added.notified();
                tokio::pin!(added);
                added.as_mut().enable();
                if let Some(events) = self.lock().get(&session) {
                    return events.clone();
                }
                added.await;
            }
        });
        if let Ok(events) = found.await {
            let _ = events.send(HopEvent::Arrived(Box::new(arrival))).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, mpsc::Sender<HopEvent>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.session);
    }
}
