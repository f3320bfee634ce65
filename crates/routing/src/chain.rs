//! A chain: hosts in order, whose spans are the whole model. It cannot exist wrong.

use std::collections::BTreeSet;

use taimatsu_protocol::opening::{MAX_HOPS, Prekey};
use taimatsu_protocol::{Numerics, PeerId, Span};

/// One host of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Who.
    pub peer: PeerId,
    /// The blocks that it is asked to compute: what it announced, or the end of it.
    pub span: Span,
    /// The key that its opening is sealed to.
    pub prekey: Prekey,
}

/// Hosts in order, leader first. Their spans follow each other and are the model exactly, embed
/// first and head last; all compute with the same arithmetic; none occurs twice, because a host
/// takes a second opening of one session for a copy of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    hops: Vec<Hop>,
    numerics: Numerics,
}

/// Why hops are no chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No hops, or more than the protocol has numbers for.
    #[error("{0} hops; a chain has 1 to {MAX_HOPS}")]
    Length(usize),
    /// A hop does not begin where the one before ended, or is no span of this model.
    #[error("hop {hop} must begin at block {expected} of the model's {blocks}")]
    Gap {
        /// Which hop.
        hop: usize,
        /// Where it should begin.
        expected: u32,
        /// Blocks of the model.
        blocks: u32,
    },
    /// The last hop ends before the model does.
    #[error("the chain ends at block {end} of the model's {blocks}")]
    Short {
        /// Where it ends, exclusive.
        end: u32,
        /// Blocks of the model.
        blocks: u32,
    },
    /// A host occurs twice.
    #[error("{0} occurs twice; a host serves a session once")]
    Twice(PeerId),
}

impl Chain {
    /// These hops, leader first, as a chain through a model of `blocks` blocks.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub fn new(blocks: u32, numerics: Numerics, hops: Vec<Hop>) -> Result<Self, ChainError> {
        if hops.is_empty() || hops.len() > MAX_HOPS {
            return Err(ChainError::Length(hops.len()));
        }
        let mut expected = 0;
        let mut hosts = BTreeSet::new();
        for (hop, Hop { peer, span, .. }) in hops.iter().enumerate() {
            let right = Span::new(expected..span.blocks().end, blocks);
            if right != Ok(*span) {
                return Err(ChainError::Gap { hop, expected, blocks });
            }
            if !hosts.insert(*peer) {
                return Err(ChainError::Twice(*peer));
            }
            expected = span.blocks().end;
        }
        if expected != blocks {
            return Err(ChainError::Short { end: expected, blocks });
        }
        Ok(Self { hops, numerics })
    }

    /// The hops, leader first; 1 to [`MAX_HOPS`].
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// The arithmetic that they all compute with.
    #[must_use]
    pub const fn numerics(&self) -> Numerics {
        self.numerics
    }
}

#[cfg(test)]
mod tests {
    use taimatsu_protocol::UnixSeconds;

    use super::*;

    fn hop(host: u8, span: Span) -> Hop {
        let prekey = Prekey { id: [0; 8], public: [0; 32], not_after: UnixSeconds(0) };
        Hop { peer: PeerId::from_public_key([host; 32]), span, prekey }
    }

    fn chain(spans: &[(u8, &str)]) -> Result<Chain, ChainError> {
        let hops = spans
            .iter()
            .map(|(host, text)| hop(*host, Span::parse_inclusive(text, 30).unwrap()))
            .collect();
        Chain::new(30, Numerics::Echo, hops)
    }

    #[test]
    fn what_fits_is_a_chain() {
        assert_eq!(chain(&[(1, "0-29")]).unwrap().hops().len(), 1);
        assert_eq!(chain(&[(1, "0-9"), (2, "10-19"), (3, "20-29")]).unwrap().hops().len(), 3);
    }

    #[test]
    fn what_does_not_fit_is_none() {
        let gap = |hop, expected| Err(ChainError::Gap { hop, expected, blocks: 30 });
        assert_eq!(chain(&[]), Err(ChainError::Length(0)));
        assert_eq!(chain(&[(1, "1-29")]), gap(0, 0));
        assert_eq!(chain(&[(1, "0-9"), (2, "11-29")]), gap(1, 10));
        assert_eq!(chain(&[(1, "0-9"), (2, "9-29")]), gap(1, 10));
        assert_eq!(chain(&[(1, "0-9")]), Err(ChainError::Short { end: 10, blocks: 30 }));
        let twice = chain(&[(1, "0-9"), (2, "10-19"), (1, "20-29")]);
        assert_eq!(twice, Err(ChainError::Twice(PeerId::from_public_key([1; 32]))));
    }

    #[test]
    fn the_head_comes_with_the_last_block_of_this_model() {
        let whole_of_ten = Span::whole(10).unwrap();
        let hops = vec![hop(1, whole_of_ten), hop(2, Span::new(10..30, 30).unwrap())];
        assert!(Chain::new(30, Numerics::Echo, hops).is_err());
    }
}
