//! What only the tail does: release tokens within the client's credit, and withhold the last one.

use taimatsu_protocol::control::Token;
use taimatsu_protocol::{ModelId, Numerics, PeerId, SessionId, Span};

/// The tail's task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailConfig {
    /// Make an answer.
    Generate {
        /// Tokens that may be released before the first grant.
        credit: u32,
        /// Ids that end it.
        end_ids: Vec<u32>,
    },
    /// Report the best continuations of every prompt position.
    Score,
}

/// What a hop's receipts say of it (docs/protocol.md 3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptTerms {
    /// This host.
    pub host: PeerId,
    /// The session.
    pub session: SessionId,
    /// The model.
    pub model: ModelId,
    /// What of it is computed here.
    pub span: Span,
    /// With which arithmetic.
    pub numerics: Numerics,
    /// The host before this one in the chain; none at the leader.
    pub upstream: Option<PeerId>,
}

/// Sampled tokens on their way out.
#[derive(Debug)]
pub(crate) struct Tail {
    grant: u32,
    limit: u32,
    released: u32,
    /// Of these, passed on to the leader.
    passed: u32,
    end_ids: Vec<u32>,
    /// Sampled, and over the grant.
    held: Option<Token>,
    /// Released, and kept from the leader: what follows it is over the grant.
    withheld: Option<u32>,
    ended: bool,
}

/// What a release consists of.
#[derive(Debug, PartialEq)]
pub(crate) enum Release {
    /// To the client.
    Verdict { index: u32, token: Token, end: bool },
    /// To the leader: the id that stands at answer index `index`.
    Accepted { index: u32, id: u32 },
}

impl Tail {
    /// A tail that may release `credit` tokens, and never more than `limit`.
    pub(crate) fn new(credit: u32, limit: u32, end_ids: Vec<u32>) -> Self {
        let grant = credit.min(limit);
        Self {
            grant,
            limit,
            released: 0,
            passed: 0,
            end_ids,
            held: None,
            withheld: None,
            ended: false,
        }
    }

    /// The index in the answer of the next token to be sampled.
    pub(crate) fn next_index(&self) -> u32 {
        self.released
    }

    /// Answer ids that the leader may have computed: what it was given.
    pub(crate) fn passed(&self) -> u32 {
        self.passed
    }

    /// A token was sampled for [`Self::next_index`].
    pub(crate) fn sampled(&mut self, token: Token) -> Vec<Release> {
        self.held = Some(token);
        self.release()
    }

    /// The client allows `until` tokens in all.
    pub(crate) fn grant(&mut self, until: u32) -> Vec<Release> {
        let until = until.min(self.limit);
        if until <= self.grant {
            return Vec::new();
        }
        self.grant = until;
        let mut out = Vec::new();
        if let Some(id) = self.withheld.take() {
            out.push(self.pass(self.released - 1, id));
        }
        out.extend(self.release());
        out
    }

    fn pass(&mut self, index: u32, id: u32) -> Release {
        self.passed += 1;
        Release::Accepted { index, id }
    }

    fn release(&mut self) -> Vec<Release> {
        let mut out = Vec::new();
        if self.ended || self.released >= self.grant {
            return out;
        }
        let Some(token) = self.held.take() else { return out };
        let (index, id) = (self.released, token.id);
        self.released += 1;
        self.ended = self.end_ids.contains(&id);
        out.push(Release::Verdict { index, token, end: self.ended });
        if self.ended {
            return out;
        }
        if self.released < self.grant {
            out.push(self.pass(index, id));
        } else {
            self.withheld = Some(id);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_protocol::codec::BoundedVec;

    fn token(id: u32) -> Token {
        Token { id, logprob: None, top: BoundedVec::new() }
    }

    #[test]
    fn nothing_is_computed_past_the_credit() {
        let mut tail = Tail::new(2, 10, vec![0]);
        assert_eq!(tail.sampled(token(5)).len(), 2);
        let last = tail.sampled(token(6));
        assert_eq!(last, [Release::Verdict { index: 1, token: token(6), end: false }]);
        assert_eq!(tail.grant(2), []);
        assert_eq!(tail.grant(3), [Release::Accepted { index: 1, id: 6 }]);
    }

    #[test]
    fn an_end_id_ends_and_goes_no_further() {
        let mut tail = Tail::new(8, 10, vec![0]);
        let out = tail.sampled(token(0));
        assert_eq!(out, [Release::Verdict { index: 0, token: token(0), end: true }]);
        assert_eq!(tail.grant(9), []);
    }

    #[test]
    fn without_credit_a_sampled_token_waits() {
        let mut tail = Tail::new(0, 10, vec![]);
        assert_eq!(tail.sampled(token(7)), []);
        let out = tail.grant(2);
        assert_eq!(out.len(), 2);
        assert_eq!(out[1], Release::Accepted { index: 0, id: 7 });
    }

    #[test]
    fn no_grant_goes_beyond_the_limit() {
        let mut tail = Tail::new(99, 1, vec![]);
        assert_eq!(tail.sampled(token(7)).len(), 1);
        assert_eq!(tail.grant(u32::MAX), []);
    }
}
