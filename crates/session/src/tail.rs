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
    /// Released, those included that this tail was told when it took a lost one's place.
    ids: Vec<u32>,
    /// It took a lost one's place: others may have computed what it has not chosen yet.
    heir: bool,
    end_ids: Vec<u32>,
    /// Sampled, and over the grant.
    held: Option<Token>,
    ended: bool,
}

/// A token for the client.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) index: u32,
    pub(crate) token: Token,
    pub(crate) end: bool,
}

impl Tail {
    /// A tail that may release `credit` tokens, and never more than `limit`.
    pub(crate) fn new(credit: u32, limit: u32, end_ids: Vec<u32>) -> Self {
        let (grant, ids) = (credit.min(limit), Vec::new());
        Self { grant, limit, ids, heir: false, end_ids, held: None, ended: false }
    }

    /// The same in a lost one's place, who had released these.
    pub(crate) fn after(self, ids: Vec<u32>) -> Self {
        Self { ids, heir: true, ..self }
    }

    /// The index in the answer of the next token to be sampled.
    pub(crate) fn next_index(&self) -> u32 {
        self.ids.len() as u32
    }

    /// Answer ids that the leader may compute. What follows the last granted one is over the
    /// grant, and nothing follows the end.
    pub(crate) fn passed(&self) -> u32 {
        let after = u32::from(self.ended);
        (self.next_index() - after).min(self.grant.saturating_sub(1))
    }

    /// The ids from this index of the answer on that the leader may compute.
    pub(crate) fn ids_from(&self, index: u32) -> &[u32] {
        self.ids.get(index as usize..self.passed() as usize).unwrap_or_default()
    }

    /// The answer's id at this index, if it was told or chosen.
    pub(crate) fn id_at(&self, index: u32) -> Option<u32> {
        self.ids.get(index as usize).copied()
    }

    /// Whether positions may come that were computed for the tail before this one.
    pub(crate) const fn is_heir(&self) -> bool {
        self.heir
    }

    /// A token was sampled for [`Self::next_index`].
    pub(crate) fn sampled(&mut self, token: Token) -> Option<Verdict> {
        self.held = Some(token);
        self.release()
    }

    /// The client allows `until` tokens in all.
    pub(crate) fn grant(&mut self, until: u32) -> Option<Verdict> {
        self.grant = self.grant.max(until.min(self.limit));
        self.release()
    }

    fn release(&mut self) -> Option<Verdict> {
        if self.ended || self.next_index() >= self.grant {
            return None;
        }
        let token = self.held.take()?;
        let index = self.next_index();
        self.ids.push(token.id);
        self.ended = self.end_ids.contains(&token.id);
        Some(Verdict { index, token, end: self.ended })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_protocol::codec::BoundedVec;

    fn token(id: u32) -> Token {
        Token { id, logprob: None, top: BoundedVec::new() }
    }

    fn verdict(index: u32, id: u32) -> Option<Verdict> {
        Some(Verdict { index, token: token(id), end: id == 0 })
    }

    #[test]
    fn nothing_is_computed_past_the_credit() {
        let mut tail = Tail::new(2, 10, vec![0]);
        assert_eq!((tail.sampled(token(5)), tail.passed()), (verdict(0, 5), 1));
        assert_eq!((tail.sampled(token(6)), tail.passed()), (verdict(1, 6), 1));
        assert_eq!((tail.grant(2), tail.passed()), (None, 1));
        assert_eq!((tail.grant(3), tail.ids_from(1)), (None, &[6][..]));
    }

    #[test]
    fn an_end_id_ends_and_goes_no_further() {
        let mut tail = Tail::new(8, 10, vec![0]);
        assert_eq!((tail.sampled(token(0)), tail.passed()), (verdict(0, 0), 0));
        assert_eq!((tail.grant(9), tail.passed()), (None, 0));
    }

    #[test]
    fn without_credit_a_sampled_token_waits() {
        let mut tail = Tail::new(0, 10, vec![]);
        assert_eq!(tail.sampled(token(7)), None);
        assert_eq!(tail.grant(2).map(|verdict| verdict.token.id), Some(7));
        assert_eq!(tail.ids_from(0), [7]);
    }

    #[test]
    fn no_grant_goes_beyond_the_limit() {
        let mut tail = Tail::new(99, 1, vec![]);
        assert!(tail.sampled(token(7)).is_some());
        assert_eq!(tail.grant(u32::MAX), None);
        assert_eq!(tail.passed(), 0);
    }

    #[test]
    fn an_heir_goes_on_where_the_lost_one_was() {
        let mut tail = Tail::new(3, 10, vec![0]).after(vec![5, 6, 7]);
        assert_eq!((tail.next_index(), tail.passed(), tail.is_heir()), (3, 2, true));
        assert_eq!((tail.grant(5), tail.ids_from(2)), (None, &[7][..]));
        assert_eq!(tail.sampled(token(8)), verdict(3, 8));
    }
}
