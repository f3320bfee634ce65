//! The host's prekeys: a new one every hour, the last one accepted for as long again, in memory
//! only (design.md section 3).

use std::sync::Arc;

use taimatsu_protocol::UnixSeconds;
use taimatsu_protocol::opening::{Prekey, PrekeyId, PrekeySecret};
use tokio::sync::watch;

/// A prekey stands in announcements for this many seconds.
const PREKEY_LIFE: u64 = 3_600;

/// After which an opening that was already on its way is still accepted.
const PREKEY_GRACE: u64 = 900;

/// The prekeys that are accepted now. Readers hold what they opened with; the ring only ever
/// changes as a whole.
#[derive(Debug, Clone)]
pub(crate) struct PrekeyRing(watch::Sender<Arc<Vec<Arc<PrekeySecret>>>>);

impl PrekeyRing {
    /// A ring with its first prekey.
    pub(crate) fn new(now: UnixSeconds) -> Self {
        let ring = Self(watch::Sender::new(Arc::default()));
        ring.rotate(now);
        ring
    }

    /// The prekey to announce.
    pub(crate) fn current(&self) -> Prekey {
        self.0.borrow().last().expect("a ring has a prekey from its start").public()
    }

    /// The prekey of this id, if it is still accepted.
    pub(crate) fn find(&self, id: &PrekeyId, now: UnixSeconds) -> Option<Arc<PrekeySecret>> {
        let ring = self.0.borrow();
        let found = ring.iter().find(|secret| secret.public().id == *id)?;
        (now < accepted_until(found)).then(|| found.clone())
    }

    /// Draws a new prekey where the current one is in its last half: true if it did.
    pub(crate) fn rotate(&self, now: UnixSeconds) -> bool {
        let fresh =
            |secret: &Arc<PrekeySecret>| now.plus(PREKEY_LIFE / 2) < secret.public().not_after;
        if self.0.borrow().last().is_some_and(fresh) {
            return false;
        }
        let mut ring: Vec<_> =
            self.0.borrow().iter().filter(|secret| now < accepted_until(secret)).cloned().collect();
        let new = PrekeySecret::generate(&mut crate::entropy::rng(), now.plus(PREKEY_LIFE));
        ring.push(Arc::new(new));
        self.0.send_replace(Arc::new(ring));
        true
    }
}

/// When an opening to this prekey stops being accepted.
pub(crate) fn accepted_until(secret: &PrekeySecret) -> UnixSeconds {
    secret.public().not_after.plus(PREKEY_GRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_turns_and_forgets() {
        let ring = PrekeyRing::new(UnixSeconds(0));
        let first = ring.current();
        assert!(!ring.rotate(UnixSeconds(1)));
        assert!(ring.rotate(UnixSeconds(PREKEY_LIFE / 2)));
        assert_ne!(ring.current().id, first.id);
        assert!(ring.find(&first.id, UnixSeconds(PREKEY_LIFE)).is_some());
        assert!(ring.find(&first.id, UnixSeconds(PREKEY_LIFE + PREKEY_GRACE)).is_none());
        assert!(ring.find(&[0; 8], UnixSeconds(0)).is_none());
    }
}
