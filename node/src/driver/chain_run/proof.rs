//! What an answer leaves behind: its receipts, and all that is needed to check them.

use taimatsu_peer::routing::Chain;
use taimatsu_protocol::receipt::{self, BrokenReceipts, Claim, Expected};
use taimatsu_protocol::signed::SignedBytes;
use taimatsu_protocol::{ModelId, SessionId};

use super::ChainRun;

/// See the module's page.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) session: SessionId,
    pub(crate) model: ModelId,
    /// Who computed at the end.
    pub(crate) chain: Chain,
    /// Of each hop, whether it took a lost one's place.
    pub(crate) replaced: Vec<bool>,
    pub(crate) prompt: Vec<u32>,
    pub(crate) answer: Vec<u32>,
    /// Ids that came after the end.
    pub(crate) late: Vec<u32>,
    /// Of each hop, in the order of positions; none where none were wanted, or a hop was cut off
    /// before it had said all.
    pub(crate) receipts: Option<Vec<Vec<SignedBytes>>>,
}

impl Proof {
    /// Whether the receipts hold together. Checks every signature: some 70 microseconds each.
    pub(crate) fn check(&self) -> Option<Result<(), BrokenReceipts>> {
        let hops = self.chain.hops().iter().zip(&self.replaced);
        let hops: Vec<Expected> = hops
            .map(|(hop, replaced)| Expected { host: hop.peer, span: hop.span, replaced: *replaced })
            .collect();
        let claim = Claim {
            session: self.session,
            model: self.model,
            numerics: self.chain.numerics(),
            hops: &hops,
            prompt: &self.prompt,
            answer: &self.answer,
            late: &self.late,
        };
        self.receipts.as_ref().map(|receipts| receipt::check(&claim, receipts))
    }
}

impl ChainRun {
    /// What the answer leaves behind, once it has ended well.
    pub(crate) fn proof(&self) -> Option<Proof> {
        // A cancelled answer may end with a place vacant, or taken by a host that stands elsewhere.
        let chain = Chain::new(self.blocks, self.numerics, self.hops()).ok()?;
        let complete = !self.task.is_score() && self.machine.is_told_all();
        let ring = self.machine.ring().iter();
        Some(Proof {
            session: self.session,
            model: self.model,
            chain,
            replaced: ring.map(|hop| self.machine.is_newcomer(*hop)).collect(),
            prompt: self.task.prompt.clone(),
            answer: self.answer.clone(),
            late: self.machine.late().to_vec(),
            receipts: complete.then(|| self.machine.receipts()),
        })
    }
}
