//! The sessions that run here, by id, so that a neighbour's stream finds its session, even when
//! it arrives before the opening does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use taimatsu_peer::session::policy::{EARLY, EARLY_HELLOS};
use taimatsu_protocol::SessionId;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::hop_task::{Arrival, HopEvent};

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
        let session = arrival.hello.session;
        // Only who waits takes a place: strangers' hellos do not keep neighbours out.
        let known = self.lock().get(&session).cloned();
        let events = match known {
            Some(events) => events,
            None => {
                let Ok(_waiting) = self.early.try_acquire() else { return };
                let Ok(events) = tokio::time::timeout(EARLY, self.entered(session)).await else {
                    return;
                };
                events
            }
        };
        let _ = events.send(HopEvent::Arrived(Box::new(arrival))).await;
    }

    /// The session's events, once it is entered.
    async fn entered(&self, session: SessionId) -> mpsc::Sender<HopEvent> {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            if let Some(events) = self.lock().get(&session) {
                return events.clone();
            }
            added.await;
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
