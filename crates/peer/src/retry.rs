//! What a failed attempt at an answer means: who is to blame, and whether another way may do
//! better.

use std::collections::BTreeSet;

use taimatsu_protocol::PeerId;
use taimatsu_routing::{Chain, Hop};
use taimatsu_session::Failure;

use crate::blame::Blame;

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
    /// The hop that failed. The peer is told by [`crate::Input::Answered`].
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

    /// An attempt on these hops has failed; none where there are none.
    pub fn failed(&mut self, hops: &[Hop], failure: &Failure) -> Option<Fault> {
        let blame = Blame::of(failure, hops.len());
        let hop = *hops.get(blame.hop).or_else(|| hops.last())?;
        self.failed.insert(hop.peer);
        self.made += 1;
        Some(Fault { hop, again: self.made < ATTEMPTS && blame.again })
    }
}

#[cfg(test)]
mod tests {
    use taimatsu_protocol::control::HopFailure;
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
        Attempts::new().failed(chain().hops(), failure).unwrap().hop.peer.public_key()[0]
    }

    #[test]
    fn the_hop_that_cannot_be_reached_is_named() {
        assert_eq!(blamed(&Failure::Unlinkable { lane: 2 }), 1);
        assert_eq!(blamed(&Failure::HopLost { hop: 2 }), 3);
    }

    #[test]
    fn a_few_attempts_are_made_each_another_way() {
        let mut attempts = Attempts::new();
        let busy = Failure::Refused { hop: 1, refusal: Refusal::Busy { retry_ms: 1 } };
        assert!(attempts.may_use(&chain()));
        assert!(attempts.failed(chain().hops(), &busy).unwrap().again);
        assert!(!attempts.may_use(&chain()));
        assert!(attempts.failed(chain().hops(), &busy).unwrap().again);
        assert!(!attempts.failed(chain().hops(), &busy).unwrap().again);
        let failure = HopFailure::UnknownToken { id: 9 };
        let unknown = Failure::HopFailed { hop: 0, failure };
        assert!(!Attempts::new().failed(chain().hops(), &unknown).unwrap().again);
    }
}
