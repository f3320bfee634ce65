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

    /// Draws a new prekey where the current one is in its last half, or was drawn by a clock that
    /// ran ahead and would stand too long: true if it did.
    pub(crate) fn rotate(&self, now: UnixSeconds) -> bool {
        let ends = |secret: &Arc<PrekeySecret>| secret.public().not_after;
        let ahead = |secret: &Arc<PrekeySecret>| now.plus(PREKEY_LIFE) < ends(secret);
        let fresh = |secret| now.plus(PREKEY_LIFE / 2) < ends(secret) && !ahead(secret);
        if self.0.borrow().last().is_some_and(fresh) {
            return false;
        }
        let old = self.0.borrow().clone();
        // The current one stays for what is on its way, also where it is from ahead.
        let stays = |secret: &&Arc<PrekeySecret>| {
            let current = old.last().is_some_and(|last| Arc::ptr_eq(last, secret));
            now < accepted_until(secret) && (current || !ahead(secret))
        };
        let mut ring: Vec<_> = old.iter().filter(stays).cloned().collect();
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

    #[test]
    fn a_clock_that_jumps_leaves_no_prekey_for_long() {
        let noon = UnixSeconds(1_000_000);
        let ring = PrekeyRing::new(noon);
        let ahead = noon.plus(86_400);
        assert!(ring.rotate(ahead), "a day ahead");
        let far = ring.current();
        assert!(ring.rotate(noon), "and back: a day's life is too long");
        assert!(ring.current().not_after <= noon.plus(PREKEY_LIFE));
        assert!(ring.find(&far.id, noon).is_some(), "openings are on their way");
        assert!(!ring.rotate(noon));
        assert!(ring.rotate(noon.plus(PREKEY_LIFE / 2)));
        assert!(ring.find(&far.id, noon.plus(PREKEY_LIFE / 2)).is_none());
        let hour_ago = UnixSeconds(noon.0 - 3_600);
        assert!(ring.rotate(hour_ago));
        assert!(ring.current().not_after <= hour_ago.plus(PREKEY_LIFE));
        assert!(ring.0.borrow().len() <= 3);
    }
}
