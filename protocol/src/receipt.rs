//! Receipts: what a hop signs of the positions it computed, so that its answer can be held against
//! it (docs/protocol.md 3.6).
//!
//! A position's *leaf* is the digest of the bytes that went into a span, or came out of it. A hop
//! signs a receipt for every 32 committed positions: the digests of its leaves, and the receipt
//! before. What goes out of one hop goes into the next, so neighbours' receipts must agree; each
//! embeds its upstream neighbour's, which it has checked. A receipt says nothing of whether the
//! numbers are right: it fixes what was said, and whoever computes the span again can tell.

use serde::{Deserialize, Serialize};

use crate::announcement::Numerics;
use crate::codec::BoundedVec;
use crate::ids::{Digest, ModelId, PeerId, SessionId};
use crate::opening::MAX_HOPS;
use crate::signed::{Record, RecordError, SignedBytes};
use crate::span::Span;

/// Positions of one receipt; only the last of an answer may have fewer.
pub const RECEIPT_EVERY: u32 = 32;

/// Receipts of the same positions, from the leader to whoever sends them.
pub type Receipts = BoundedVec<SignedBytes, MAX_HOPS>;

/// What one hop says of some consecutive positions of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Who computed, and signs.
    pub host: PeerId,
    /// In which session.
    pub session: SessionId,
    /// Of which model.
    pub model: ModelId,
    /// What of it.
    pub span: Span,
    /// With which arithmetic.
    pub numerics: Numerics,
    /// The first position.
    pub from: u32,
    /// The end of the positions, exclusive.
    pub until: u32,
    /// Digest of the leaves of what went in.
    pub input: Digest,
    /// Digest of the leaves of what came out.
    pub output: Digest,
    /// This hop's receipt before; all zeros for the first.
    pub previous: Digest,
    /// The upstream hop's receipt of the same positions; none at the leader, and in the last
    /// receipt of an answer, which goes straight to the client.
    pub upstream: Option<Digest>,
}

impl Record for Receipt {
    const DOMAIN: &'static str = "taimatsu 2026 receipt 1";

    fn signer(&self) -> PeerId {
        self.host
    }
}

/// The first receipt's predecessor.
pub const NO_RECEIPT: Digest = Digest::from_bytes([0; 32]);

/// The leaf of a hidden state (little-endian f32), or of whatever bytes stand for a position.
#[must_use]
pub fn leaf(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}

/// The leaf of a token id.
#[must_use]
pub fn id_leaf(id: u32) -> Digest {
    Digest::of(&id.to_le_bytes())
}

/// The tail's leaf of a position after which no token was sampled.
#[must_use]
pub fn no_leaf() -> Digest {
    Digest::of(&[])
}

/// The digest of consecutive leaves.
#[must_use]
pub fn digest_of<'a>(leaves: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let bytes: Vec<u8> = leaves.into_iter().flat_map(|leaf| *leaf.as_bytes()).collect();
    Digest::of(&bytes)
}

/// What a client knows of one hop before it reads the hop's receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Who.
    pub host: PeerId,
    /// What it was asked to compute.
    pub span: Span,
}

/// What a client knows of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The session.
    pub session: SessionId,
    /// The model.
    pub model: ModelId,
    /// The chain's arithmetic.
    pub numerics: Numerics,
    /// The hops, leader first.
    pub hops: &'a [Expected],
    /// The prompt's ids.
    pub prompt: &'a [u32],
    /// The ids of the answer, as the client got them.
    pub answer: &'a [u32],
}

/// Why an answer's receipts do not hold together, and which hop answers for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("receipts of hop {hop}: {flaw}")]
pub struct BrokenReceipts {
    /// The hop at fault; where two disagree, the one that should have noticed.
    pub hop: usize,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong with a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The signature does not hold, or the bytes are no receipt.
    #[error("not a signed receipt: {0}")]
    NotSigned(#[from] RecordError),
    /// It speaks of another session, model, span or arithmetic.
    #[error("about something else")]
    OtherTerms,
    /// Positions are left out, or do not end where they should.
    #[error("positions from {from} on are missing")]
    Missing {
        /// The first position without a receipt.
        from: u32,
    },
    /// It does not follow the receipt before.
    #[error("does not follow the receipt before it (position {from})")]
    NotChained {
        /// Its first position.
        from: u32,
    },
    /// What went in is not what came out of the hop before (or what the client knows).
    #[error("its input from position {from} is not what its predecessor gave")]
    Input {
        /// Its first position.
        from: u32,
    },
    /// What the tail says came out is not what the client got.
    #[error("its output from position {from} is not what the client got")]
    Output {
        /// Its first position.
        from: u32,
    },
}

/// Checks all receipts of an answer: `receipts[hop]` in the order of their positions. They must
/// cover every position that was needed for the answer, each hop the same cuts.
///
/// # Errors
/// The first flaw, and whose it is.
pub fn check(claim: &Claim<'_>, receipts: &[Vec<SignedBytes>]) -> Result<(), BrokenReceipts> {
    let ids: Vec<u32> = claim.prompt.iter().chain(claim.answer).copied().collect();
    // The last token was sampled from the position before it, and never computed.
    let until = ids.len().saturating_sub(usize::from(!claim.answer.is_empty())) as u32;
    let mut upstream: Option<Vec<(Receipt, Digest)>> = None;
    for (hop, expected) in claim.hops.iter().enumerate() {
        let broken = |flaw| BrokenReceipts { hop, flaw };
        let said = receipts.get(hop).map_or(&[][..], Vec::as_slice);
        let chain = read_chain(claim, expected, said, until).map_err(broken)?;
        for (index, (receipt, _)) in chain.iter().enumerate() {
            let from = receipt.from;
            // A chain that was cut short may have signed for ids that the client never got.
            let known = receipt.until <= until;
            let given = match &upstream {
                Some(above) => above.get(index).map(|(above, _)| above.output),
                None if known => Some(ids_digest(&ids, receipt.from, receipt.until)),
                None => Some(receipt.input),
            };
            if given != Some(receipt.input) {
                return Err(broken(Flaw::Input { from }));
            }
            let embedded = upstream.as_ref().and_then(|above| above.get(index)).map(|(_, d)| *d);
            if receipt.upstream.is_some() && receipt.upstream != embedded {
                return Err(broken(Flaw::NotChained { from }));
            }
            let last = hop + 1 == claim.hops.len();
            if last && known && receipt.output != sampled_digest(claim, receipt) {
                return Err(broken(Flaw::Output { from }));
            }
        }
        upstream = Some(chain);
    }
    Ok(())
}

/// One hop's receipts, each following the one before, up to `until`.
fn read_chain(
    claim: &Claim<'_>,
    expected: &Expected,
    said: &[SignedBytes],
    until: u32,
) -> Result<Vec<(Receipt, Digest)>, Flaw> {
    let mut chain: Vec<(Receipt, Digest)> = Vec::new();
    let (mut at, mut previous) = (0, NO_RECEIPT);
    for signed in said {
        let digest = signed.digest();
        let receipt = signed.clone().verify::<Receipt>()?.record().clone();
        let terms = receipt.host == expected.host
            && receipt.session == claim.session
            && receipt.model == claim.model
            && receipt.span == expected.span
            && receipt.numerics == claim.numerics;
        if !terms {
            return Err(Flaw::OtherTerms);
        }
        let end = at + RECEIPT_EVERY;
        let whole = receipt.until == end || (receipt.until == until && until < end);
        if receipt.from != at || receipt.previous != previous || !whole {
            return Err(Flaw::NotChained { from: at });
        }
        (at, previous) = (receipt.until, digest);
        chain.push((receipt, digest));
        if at >= until {
            break;
        }
    }
    if at < until {
        return Err(Flaw::Missing { from: at });
    }
    Ok(chain)
}

fn ids_digest(ids: &[u32], from: u32, until: u32) -> Digest {
    let ids = ids.get(from as usize..until as usize).unwrap_or_default();
    let leaves: Vec<Digest> = ids.iter().map(|id| id_leaf(*id)).collect();
    digest_of(&leaves)
}

/// The tail's output as the client knows it: a token after each position from the prompt's last.
fn sampled_digest(claim: &Claim<'_>, receipt: &Receipt) -> Digest {
    let first = claim.prompt.len() as u32 - 1;
    let leaves: Vec<Digest> = (receipt.from..receipt.until)
        .map(|position| match position.checked_sub(first) {
            Some(index) => claim.answer.get(index as usize).map_or_else(no_leaf, |id| id_leaf(*id)),
            None => no_leaf(),
        })
        .collect();
    digest_of(&leaves)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::signed::Verified;

    const SESSION: SessionId = SessionId::from_bytes([7; 16]);

    struct Answer {
        keys: Vec<SigningKey>,
        hops: Vec<Expected>,
        prompt: Vec<u32>,
        answer: Vec<u32>,
    }

    impl Answer {
        fn of(prompt: u32, answer: u32) -> Self {
            let keys: Vec<_> = (1..=3).map(|seed| SigningKey::from_bytes(&[seed; 32])).collect();
            let spans = ["0-9", "10-19", "20-29"];
            let hops = keys.iter().zip(spans).map(|(key, span)| Expected {
                host: PeerId::from_public_key(key.verifying_key().to_bytes()),
                span: Span::parse_inclusive(span, 30).unwrap(),
            });
            let hops = hops.collect();
            Self { keys, hops, prompt: (0..prompt).collect(), answer: (0..answer).collect() }
        }

        fn claim(&self) -> Claim<'_> {
            Claim {
                session: SESSION,
                model: ModelId::of(b"m"),
                numerics: Numerics::Echo,
                hops: &self.hops,
                prompt: &self.prompt,
                answer: &self.answer,
            }
        }

        /// What honest hops sign; `alter` may spoil a receipt before it is signed.
        fn receipts(&self, alter: impl Fn(usize, u32, &mut Receipt)) -> Vec<Vec<SignedBytes>> {
            let claim = self.claim();
            let ids = [self.prompt.clone(), self.answer.clone()].concat();
            let until = ids.len() as u32 - 1;
            let mut all: Vec<Vec<SignedBytes>> = Vec::new();
            for (hop, key) in self.keys.iter().enumerate() {
                let mut own: Vec<SignedBytes> = Vec::new();
                for (index, from) in (0..until).step_by(32).enumerate() {
                    let end = (from + 32).min(until);
                    let wire = |hop: usize| digest_of(&[leaf(&[hop as u8]), id_leaf(from)]);
                    let mut receipt = Receipt {
                        host: self.hops[hop].host,
                        session: SESSION,
                        model: claim.model,
                        span: self.hops[hop].span,
                        numerics: claim.numerics,
                        from,
                        until: end,
                        input: if hop == 0 { ids_digest(&ids, from, end) } else { wire(hop - 1) },
                        output: wire(hop),
                        previous: own.last().map_or(NO_RECEIPT, SignedBytes::digest),
                        upstream: all.last().map(|above| above[index].digest()),
                    };
                    if hop == 2 {
                        receipt.output = sampled_digest(&claim, &receipt);
                    }
                    alter(hop, from, &mut receipt);
                    own.push(Verified::sign(receipt, key).unwrap().wire().clone());
                }
                all.push(own);
            }
            all
        }

        fn flaw(&self, alter: impl Fn(usize, u32, &mut Receipt)) -> (usize, Flaw) {
            let broken = check(&self.claim(), &self.receipts(alter)).unwrap_err();
            (broken.hop, broken.flaw)
        }
    }

    #[test]
    fn honest_receipts_hold_for_any_length() {
        for (prompt, answer) in [(1, 1), (5, 3), (32, 1), (31, 2), (40, 60), (64, 33)] {
            let made = Answer::of(prompt, answer);
            assert_eq!(check(&made.claim(), &made.receipts(|_, _, _| {})), Ok(()));
        }
    }

    #[test]
    fn every_alteration_is_found_where_it_was_made() {
        let made = Answer::of(40, 60);
        let other = Digest::of(b"other");
        let at = |hop: usize, change: fn(&mut Receipt, Digest)| {
            made.flaw(move |of, from, receipt| {
                if of == hop && from == 32 {
                    change(receipt, other);
                }
            })
        };
        assert_eq!(at(0, |r, d| r.input = d), (0, Flaw::Input { from: 32 }));
        // The output of one is the input of the next, which had to look.
        assert_eq!(at(0, |r, d| r.output = d), (1, Flaw::Input { from: 32 }));
        assert_eq!(at(2, |r, d| r.output = d), (2, Flaw::Output { from: 32 }));
        assert_eq!(at(1, |r, d| r.previous = d), (1, Flaw::NotChained { from: 32 }));
        assert_eq!(at(1, |r, d| r.upstream = Some(d)), (1, Flaw::NotChained { from: 32 }));
        assert_eq!(at(1, |r, _| r.until -= 1), (1, Flaw::NotChained { from: 32 }));
        assert_eq!(at(1, |r, d| r.model = ModelId::from_digest(d)), (1, Flaw::OtherTerms));
    }

    #[test]
    fn another_answer_or_a_missing_end_is_noticed() {
        let made = Answer::of(40, 60);
        let mut receipts = made.receipts(|_, _, _| {});
        let mut other = Answer::of(40, 60);
        other.answer[59] = 1;
        let broken = check(&other.claim(), &receipts).unwrap_err();
        assert_eq!((broken.hop, broken.flaw), (2, Flaw::Output { from: 96 }));
        receipts[1].pop();
        let broken = check(&made.claim(), &receipts).unwrap_err();
        assert_eq!((broken.hop, broken.flaw), (1, Flaw::Missing { from: 96 }));
        let broken = check(&made.claim(), &[]).unwrap_err();
        assert_eq!((broken.hop, broken.flaw), (0, Flaw::Missing { from: 0 }));
    }

    #[test]
    fn what_ran_ahead_of_a_cancelled_answer_is_not_held_against_it() {
        let ran = Answer::of(40, 60);
        let receipts = ran.receipts(|_, _, _| {});
        let mut got = Answer::of(40, 50);
        assert_eq!(check(&got.claim(), &receipts), Ok(()), "the last 32 hold ids that never came");
        got.answer[3] = 1_000;
        assert!(check(&got.claim(), &receipts).is_err(), "what did come is");
    }

    #[test]
    fn somebody_elses_signature_does_not_serve() {
        let made = Answer::of(5, 3);
        let mut receipts = made.receipts(|_, _, _| {});
        receipts[1] = receipts[0].clone();
        assert_eq!(check(&made.claim(), &receipts).unwrap_err().flaw, Flaw::OtherTerms);
    }
}
