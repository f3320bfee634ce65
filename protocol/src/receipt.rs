//! Receipts: what a hop signs of the positions it computed, so that its answer can be held against
//! it (docs/protocol.md 3.6).
//!
//! A position's *leaf* is the digest of the bytes that went into a span, or came out of it. A hop
//! signs a receipt for every 32 committed positions: the digests of its leaves, and the receipt
//! before. What goes out of one hop goes into the next, so neighbours' receipts must agree; each
//! embeds the digest of its upstream neighbour's, which it has checked. A receipt says nothing of
//! whether the numbers are right: it fixes what was said, and whoever computes the span again can
//! tell.
//!
//! Every hop hands the client its own receipts. So a hop answers for what contradicts itself or
//! what the client itself told it or heard from it, and for nothing else: where two hops do not
//! agree, either may have lied to the other.

use serde::{Deserialize, Serialize};

use crate::announcement::Numerics;
use crate::ids::{Digest, ModelId, PeerId, SessionId};
use crate::signed::{Record, RecordError, SignedBytes};
use crate::span::Span;

/// Positions of one receipt; only the last of an answer may have fewer.
pub const RECEIPT_EVERY: u32 = 32;

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
    /// The upstream hop's receipt of the same positions; none at the leader, and in receipts that
    /// were signed at the answer's end without it.
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
    /// It took the place of one that was lost, whose receipts others may have embedded.
    pub replaced: bool,
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
    /// The ids that came after it had closed, as the chain was ahead.
    pub late: &'a [u32],
}

/// Why an answer's receipts do not hold together, and which hop answers for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("receipts of hop {hop}: {flaw}")]
pub struct BrokenReceipts {
    /// The hop at fault; where two disagree, the downstream one.
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
    /// What went in is not what the client gave it, or not what the receipt that it embedded says.
    #[error("its input from position {from} is not what it was given")]
    Input {
        /// Its first position.
        from: u32,
    },
    /// What the tail says came out is not what it told the client.
    #[error("its output from position {from} is not what it told the client")]
    Output {
        /// Its first position.
        from: u32,
    },
    /// It says otherwise than the hop before it (before the leader: the tail). Nobody can tell
    /// which of the two is wrong.
    #[error("from position {from} on it and the hop before it say different things")]
    Disagree {
        /// Its first position.
        from: u32,
    },
}

/// A receipt whose signature holds, and its digest.
type Said = (Receipt, Digest);

/// Checks all receipts of an answer: `receipts[hop]` in the order of their positions, as that hop
/// handed them in. They must cover every position that was needed for the answer.
///
/// # Errors
/// The first flaw that one hop answers for alone; or else the first between two.
pub fn check(claim: &Claim<'_>, receipts: &[Vec<SignedBytes>]) -> Result<(), BrokenReceipts> {
    let known = Known::of(claim);
    let mut all: Vec<Vec<Said>> = Vec::new();
    for (hop, expected) in claim.hops.iter().enumerate() {
        let signed = receipts.get(hop).map_or(&[][..], Vec::as_slice);
        let said = read(claim, expected, signed).map_err(|flaw| BrokenReceipts { hop, flaw })?;
        all.push(said);
    }
    let tail = all.len().saturating_sub(1);
    for (hop, said) in all.iter().enumerate() {
        let above = hop.checked_sub(1).map(|above| all[above].as_slice());
        known.own_flaw(said, above, hop == tail).map_err(|flaw| BrokenReceipts { hop, flaw })?;
    }
    for (hop, said) in all.iter().enumerate() {
        let above = hop.checked_sub(1).map(|above| Above {
            said: all[above].as_slice(),
            replaced: claim.hops[above].replaced,
        });
        if let Some(from) = known.first_disagreement(said, above) {
            return Err(BrokenReceipts { hop, flaw: Flaw::Disagree { from } });
        }
    }
    Ok(())
}

/// What the hop before one has signed.
struct Above<'a> {
    said: &'a [Said],
    /// Its place was another's before.
    replaced: bool,
}

/// What a client knows without any receipt.
struct Known {
    /// The ids at positions 0, 1, ...
    ids: Vec<u32>,
    prompt: usize,
    /// The end of the positions that the answer needed.
    needed: u32,
}

impl Known {
    fn of(claim: &Claim<'_>) -> Self {
        let prompt = claim.prompt.len();
        // The last token was sampled from the position before it, and never computed.
        let needed = if claim.answer.is_empty() { 0 } else { prompt + claim.answer.len() - 1 };
        let ids = [claim.prompt, claim.answer, claim.late].concat();
        Self { ids, prompt, needed: needed as u32 }
    }

    /// What a hop answers for alone: it contradicts itself, or what passed between it and the
    /// client.
    fn own_flaw(&self, said: &[Said], above: Option<&[Said]>, tail: bool) -> Result<(), Flaw> {
        for (index, (receipt, _)) in said.iter().enumerate() {
            let from = receipt.from;
            let fits = match above {
                None if receipt.upstream.is_some() => return Err(Flaw::NotChained { from }),
                // The answer's ids came to the leader from the tail, unless it is alone.
                None if receipt.until as usize > self.prompt && !tail => true,
                None => self.went_in(receipt).is_none_or(|given| given == receipt.input),
                Some(above) => above.get(index).is_none_or(|(above, digest)| {
                    let same = (above.until, above.output) == (receipt.until, receipt.input);
                    same || receipt.upstream != Some(*digest)
                }),
            };
            if !fits {
                return Err(Flaw::Input { from });
            }
            if tail && self.came_out(receipt) != Some(receipt.output) {
                return Err(Flaw::Output { from });
            }
        }
        // The tail gave the answer, so it has computed what it needed. Others may have been left
        // behind by one that did not wait for them.
        match end_of(said) {
            from if tail && from < self.needed => Err(Flaw::Missing { from }),
            _ => Ok(()),
        }
    }

    /// Where a hop and the one before it begin to say different things.
    fn first_disagreement(&self, said: &[Said], above: Option<Above<'_>>) -> Option<u32> {
        let Some(Above { said: above, replaced }) = above else {
            let differs = |receipt: &Receipt| {
                self.went_in(receipt).is_some_and(|given| given != receipt.input)
            };
            return said.iter().find(|(said, _)| differs(said)).map(|(receipt, _)| receipt.from);
        };
        let differs = |((above, digest), (receipt, _)): &(&Said, &Said)| match receipt.upstream {
            Some(embedded) if embedded == *digest => false,
            Some(_) if !replaced => true,
            // A lost hop's is embedded, or it was signed at the end, each by itself, and perhaps
            // not as far.
            Some(_) | None => above.until == receipt.until && above.output != receipt.input,
        };
        let joint = above.iter().zip(said).find(differs).map(|(_, (receipt, _))| receipt.from);
        // Who took a lost one's place may not have come as far as that one, when the answer was
        // whole.
        let short = end_of(above);
        let left_out = !replaced && short < self.needed && short < end_of(said);
        joint.or_else(|| left_out.then_some(short))
    }

    /// What went into the leader, where the client knows it.
    fn went_in(&self, receipt: &Receipt) -> Option<Digest> {
        let ids = self.ids.get(receipt.from as usize..receipt.until as usize)?;
        let leaves: Vec<Digest> = ids.iter().map(|id| id_leaf(*id)).collect();
        Some(digest_of(&leaves))
    }

    /// What came out of the tail: after each position from the prompt's last the id that stands
    /// next.
    fn came_out(&self, receipt: &Receipt) -> Option<Digest> {
        let leaf = |position: u32| match position as usize + 1 {
            next if next < self.prompt => Some(no_leaf()),
            next => self.ids.get(next).map(|id| id_leaf(*id)),
        };
        let leaves: Vec<Digest> = (receipt.from..receipt.until).map(leaf).collect::<Option<_>>()?;
        Some(digest_of(&leaves))
    }
}

/// The first position of which a hop has signed nothing.
fn end_of(said: &[Said]) -> u32 {
    said.last().map_or(0, |(receipt, _)| receipt.until)
}

/// One hop's receipts, each following the one before; only the last may be of fewer positions.
fn read(claim: &Claim<'_>, expected: &Expected, signed: &[SignedBytes]) -> Result<Vec<Said>, Flaw> {
    let mut said = Vec::new();
    let (mut at, mut previous) = (0_u32, NO_RECEIPT);
    for signed in signed {
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
        let follows = at.is_multiple_of(RECEIPT_EVERY)
            && (receipt.from, receipt.previous) == (at, previous)
            && receipt.until > at
            && receipt.until - at <= RECEIPT_EVERY;
        if !follows {
            return Err(Flaw::NotChained { from: at });
        }
        (at, previous) = (receipt.until, digest);
        said.push((receipt, digest));
    }
    Ok(said)
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
                replaced: false,
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
                late: &[],
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
                        input: NO_RECEIPT,
                        output: wire(hop),
                        previous: own.last().map_or(NO_RECEIPT, SignedBytes::digest),
                        upstream: all.last().map(|above| above[index].digest()),
                    };
                    receipt.input = match hop {
                        0 => Known::of(&claim).went_in(&receipt).unwrap(),
                        _ => wire(hop - 1),
                    };
                    if hop == 2 {
                        receipt.output = Known::of(&claim).came_out(&receipt).unwrap();
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
    fn a_hop_answers_for_what_it_contradicts_itself_and_two_for_what_is_between_them() {
        let made = Answer::of(40, 60);
        let other = Digest::of(b"other");
        let at = |hop: usize, change: fn(&mut Receipt, Digest)| {
            made.flaw(move |of, from, receipt| {
                if of == hop && from == 32 {
                    change(receipt, other);
                }
            })
        };
        // The output of one is the input of the next, which embedded it all the same.
        assert_eq!(at(0, |r, d| r.output = d), (1, Flaw::Input { from: 32 }));
        assert_eq!(at(1, |r, d| r.input = d), (1, Flaw::Input { from: 32 }));
        assert_eq!(at(2, |r, d| r.output = d), (2, Flaw::Output { from: 32 }));
        assert_eq!(at(1, |r, d| r.previous = d), (1, Flaw::NotChained { from: 32 }));
        assert_eq!(at(0, |r, d| r.upstream = Some(d)), (0, Flaw::NotChained { from: 32 }));
        assert_eq!(at(1, |r, _| r.until -= 1), (1, Flaw::NotChained { from: 63 }));
        assert_eq!(at(1, |r, d| r.model = ModelId::from_digest(d)), (1, Flaw::OtherTerms));
        // It may have been handed another receipt than the client was.
        assert_eq!(at(1, |r, d| r.upstream = Some(d)), (1, Flaw::Disagree { from: 32 }));
        // Signed at the end, without the other's: either may have sent what it did not sign.
        let apart = |r: &mut Receipt, d| (r.input, r.upstream) = (d, None);
        assert_eq!(at(1, apart), (1, Flaw::Disagree { from: 32 }));
        // The tail may have told the leader other ids than the client; the prompt came from here.
        assert_eq!(at(0, |r, d| r.input = d), (0, Flaw::Disagree { from: 32 }));
        let prompt = made.flaw(|hop, from, receipt| {
            if (hop, from) == (0, 0) {
                receipt.input = other;
            }
        });
        assert_eq!(prompt, (0, Flaw::Input { from: 0 }));
    }

    #[test]
    fn a_lost_hosts_receipts_may_be_embedded_and_its_heir_audits_it() {
        let mut made = Answer::of(40, 60);
        let lost = Digest::of(b"a receipt of the lost host");
        let receipts = made.receipts(|hop, from, receipt| {
            if hop == 2 && from == 32 {
                receipt.upstream = Some(lost);
            }
        });
        let broken = check(&made.claim(), &receipts).unwrap_err();
        assert_eq!((broken.hop, broken.flaw), (2, Flaw::Disagree { from: 32 }));
        made.hops[1].replaced = true;
        assert_eq!(check(&made.claim(), &receipts), Ok(()));
        let mut short = receipts;
        short[1].truncate(2);
        assert_eq!(check(&made.claim(), &short), Ok(()), "it had not come further");
        // What the lost one gave is not what comes out of these blocks.
        let lied = made.flaw(|hop, from, receipt| {
            if hop == 2 && from == 32 {
                (receipt.upstream, receipt.input) = (Some(lost), lost);
            }
        });
        assert_eq!(lied, (2, Flaw::Disagree { from: 32 }));
    }

    #[test]
    fn another_answer_or_a_missing_end_is_noticed() {
        let made = Answer::of(40, 60);
        let receipts = made.receipts(|_, _, _| {});
        let mut other = Answer::of(40, 60);
        other.answer[59] = 1;
        let broken = |claim: &Claim<'_>, receipts: &[Vec<SignedBytes>]| {
            let broken = check(claim, receipts).unwrap_err();
            (broken.hop, broken.flaw)
        };
        assert_eq!(broken(&other.claim(), &receipts), (2, Flaw::Output { from: 96 }));
        // Whoever is left behind may not have been waited for; but the tail gave the answer.
        for (short, found) in [
            (vec![0], (1, Flaw::Disagree { from: 96 })),
            (vec![1], (2, Flaw::Disagree { from: 96 })),
            (vec![0, 1], (2, Flaw::Disagree { from: 96 })),
            (vec![0, 1, 2], (2, Flaw::Missing { from: 96 })),
        ] {
            let mut receipts = receipts.clone();
            for hop in short {
                receipts[hop].pop();
            }
            assert_eq!(broken(&made.claim(), &receipts), found);
        }
        assert_eq!(broken(&made.claim(), &[]), (2, Flaw::Missing { from: 0 }));
    }

    #[test]
    fn what_ran_ahead_of_a_cancelled_answer_is_checked_by_what_came_late() {
        let ran = Answer::of(40, 60);
        let receipts = ran.receipts(|_, _, _| {});
        let claim = |answer: usize| {
            let (answer, late) = ran.answer.split_at(answer);
            Claim { answer, late, ..ran.claim() }
        };
        for answer in [0, 1, 50, 59, 60] {
            assert_eq!(check(&claim(answer), &receipts), Ok(()), "cancelled after {answer}");
        }
        assert_eq!(check(&claim(0), &[]), Ok(()), "nothing came, and nothing is owed");
        let mut late = ran.answer[50..].to_vec();
        late[0] += 1;
        let broken = check(&Claim { late: &late, ..claim(50) }, &receipts).unwrap_err();
        assert_eq!((broken.hop, broken.flaw), (2, Flaw::Output { from: 64 }));
        // What the tail signed, it has told.
        let broken = check(&Claim { late: &[], ..claim(50) }, &receipts).unwrap_err();
        assert_eq!((broken.hop, broken.flaw), (2, Flaw::Output { from: 64 }));
    }

    #[test]
    fn a_part_signed_at_the_end_is_not_held_against_all_that_its_neighbour_signed_before() {
        let whole = Answer::of(40, 60);
        let cut = Answer::of(40, 50);
        let ahead = whole.receipts(|_, _, _| {});
        let alone = cut.receipts(|_, _, receipt| receipt.upstream = None);
        let late = &whole.answer[50..];
        for first in 1..3 {
            let said = [&ahead[..first], &alone[first..]].concat();
            let claim = Claim { late, ..cut.claim() };
            assert_eq!(check(&claim, &said), Ok(()), "{first} hops were ahead");
        }
    }

    #[test]
    fn somebody_elses_signature_does_not_serve() {
        let made = Answer::of(5, 3);
        let mut receipts = made.receipts(|_, _, _| {});
        receipts[1] = receipts[0].clone();
        assert_eq!(check(&made.claim(), &receipts).unwrap_err().flaw, Flaw::OtherTerms);
    }
}
