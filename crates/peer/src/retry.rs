//! What a failed attempt at an answer means: who is to blame, and whether another way may do
//! better.

use std::collections::BTreeSet;

use taimatsu_protocol::PeerId;
use taimatsu_protocol::control::HopFailure;
use taimatsu_routing::{Chain, Hop};
use taimatsu_session::Failure;

/// Attempts at one answer before it is given up, the first included. Each may cost the time in
/// which a host is found silent; a caller bears three of these.
pub const ATTEMPTS: u32 = 3;

/// The attempts at one answer. Only an answer of which nothing was handed on may begin again:
/// that is the caller's to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    failed: BTreeSet<PeerId>,
    made: u32,
}

/// Whose fault a failed attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The hop that failed. The peer is told by [`crate::Input::HostFailed`].
    pub hop: Hop,
    /// Whether another chain may do better.
    pub again: bool,
}

impl Attempts {
    /// No attempt as yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether this chain is another way than those that failed.
    #[must_use]
    pub fn may_use(&self, chain: &Chain) -> bool {
        !chain.hops().iter().any(|hop| self.failed.contains(&hop.peer))
    }

    /// An attempt on this chain has failed.
    pub fn failed(&mut self, chain: &Chain, failure: &Failure) -> Fault {
        let hops = chain.hops();
        let hop = hops[guilty(failure, hops.len()).min(hops.len() - 1)];
        self.failed.insert(hop.peer);
        self.made += 1;
        Fault { hop, again: self.made < ATTEMPTS && !follows_the_question(failure) }
    }
}

/// Whether every host would fail in the same way.
const fn follows_the_question(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::HopFailed {
            failure: HopFailure::NonFinite { .. } | HopFailure::UnknownToken { .. },
            ..
        }
    )
}

/// The hop that a failure is about. A hop that lost its neighbour speaks of the next one.
fn guilty(failure: &Failure, hops: usize) -> usize {
    match failure {
        Failure::HopFailed { failure: HopFailure::NeighbourLost { lane }, hop } => {
            let lane = usize::from(*lane);
            // Lane i leads from hop i to the next: whichever end did not complain.
            if lane == usize::from(*hop) { (lane + 1) % hops } else { lane }
        }
        Failure::Refused { hop, .. }
        | Failure::OpenTimeout { hop }
        | Failure::HopLost { hop }
        | Failure::HopFailed { hop, .. }
        | Failure::Stalled { hop }
        | Failure::Violation { hop } => usize::from(*hop),
        Failure::Unlinkable { lane } => (usize::from(*lane) + 1) % hops,
    }
}

#[cfg(test)]
mod tests {
    use taimatsu_protocol::opening::{Prekey, Refusal};
    use taimatsu_protocol::{Numerics, Span, UnixSeconds};

    use super::*;

    fn chain() -> Chain {
        let hop = |host: u8, span: &str| Hop {
            peer: PeerId::from_public_key([host; 32]),
            span: Span::parse_inclusive(span, 30).unwrap(),
            prekey: Prekey { id: [0; 8], public: [0; 32], not_after: UnixSeconds(0) },
        };
        let hops = vec![hop(1, "0-9"), hop(2, "10-19"), hop(3, "20-29")];
        Chain::new(30, Numerics::Echo, hops).unwrap()
    }

    fn blamed(failure: &Failure) -> u8 {
        Attempts::new().failed(&chain(), failure).hop.peer.public_key()[0]
    }

    #[test]
    fn who_lost_a_neighbour_names_it() {
        let lost = |hop, lane| {
            blamed(&Failure::HopFailed { hop, failure: HopFailure::NeighbourLost { lane } })
        };
        assert_eq!((lost(0, 0), lost(1, 0), lost(2, 2), lost(0, 2)), (2, 1, 1, 3));
        assert_eq!(blamed(&Failure::Unlinkable { lane: 2 }), 1);
        assert_eq!(blamed(&Failure::HopLost { hop: 2 }), 3);
    }

    #[test]
    fn a_few_attempts_are_made_each_another_way() {
        let mut attempts = Attempts::new();
        let busy = Failure::Refused { hop: 1, refusal: Refusal::Busy { retry_ms: 1 } };
        assert!(attempts.may_use(&chain()));
        assert!(attempts.failed(&chain(), &busy).again);
        assert!(!attempts.may_use(&chain()));
        assert!(attempts.failed(&chain(), &busy).again);
        assert!(!attempts.failed(&chain(), &busy).again);
        let failure = HopFailure::UnknownToken { id: 9 };
        let unknown = Failure::HopFailed { hop: 0, failure };
        assert!(!Attempts::new().failed(&chain(), &unknown).again);
    }
}
