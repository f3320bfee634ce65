//! What is kept of an answer that others computed: its receipts, and what was found of them. Not
//! a word of prompt or answer.

use serde::{Deserialize, Serialize};
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::receipt::Receipt;
use taimatsu_protocol::signed::SignedBytes;
use taimatsu_protocol::{ModelId, PeerId, Span, UnixSeconds};

use crate::driver::chain_run::Proof;
use crate::driver::clock::Clock;
use crate::engine::ReceiptState;

/// The longest chain's longest answer, in bytes.
pub(crate) const MAX_KEPT: usize = 16 << 20;

/// Receipts of one hop: of a context of 262,144 positions.
const MAX_RECEIPTS: usize = 8_192;

/// An answer's receipts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptAnswer {
    /// What its asker knows it by; several choices of one request have one id.
    pub(crate) id: String,
    /// The session's id, in hexadecimal.
    pub(crate) session: String,
    /// When it ended.
    pub(crate) at: UnixSeconds,
    /// The model's name.
    pub(crate) name: String,
    /// The model.
    pub(crate) model: ModelId,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: u32,
    /// Tokens of the answer.
    pub(crate) tokens: u32,
    /// Whether they hold together.
    pub(crate) state: ReceiptState,
    /// Each hop's.
    pub(crate) hops: BoundedVec<KeptHop, 64>,
}

/// One hop's receipts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptHop {
    /// Who.
    pub(crate) peer: PeerId,
    /// What it computed.
    pub(crate) span: Span,
    /// In the order of positions.
    pub(crate) receipts: BoundedVec<SignedBytes, MAX_RECEIPTS>,
}

impl KeptAnswer {
    /// What to keep of an answer that has ended now.
    pub(crate) fn of(id: Option<String>, proof: Proof, name: &str, state: &ReceiptState) -> Self {
        let session = proof.session.to_string();
        let mut receipts = proof.receipts.unwrap_or_default().into_iter();
        let hops = proof.chain.hops().iter().map(|hop| KeptHop {
            peer: hop.peer,
            span: hop.span,
            receipts: BoundedVec::truncated(receipts.next().unwrap_or_default()),
        });
        Self {
            id: id.unwrap_or_else(|| session.clone()),
            session,
            at: Clock::wall(),
            name: name.to_owned(),
            model: proof.model,
            prompt_tokens: proof.prompt.len() as u32,
            tokens: proof.answer.len() as u32,
            state: state.clone(),
            hops: BoundedVec::truncated(hops),
        }
    }

    /// Whether it is called so, or its name begins so.
    pub(crate) fn is_called(&self, id: &str) -> bool {
        self.id.starts_with(id) || self.session.starts_with(id)
    }

    /// As JSON shows it; with every receipt where `whole`.
    pub(crate) fn to_json(&self, whole: bool) -> serde_json::Value {
        let hops: Vec<_> = self.hops.iter().map(|hop| hop.to_json(whole)).collect();
        serde_json::json!({
            "id": self.id,
            "session": self.session,
            "at": self.at.0,
            "model": self.name,
            "model_id": self.model.to_string(),
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "receipts": self.state,
            "hops": hops,
        })
    }
}

impl KeptHop {
    fn to_json(&self, whole: bool) -> serde_json::Value {
        let mut json = serde_json::json!({
            "peer": self.peer.to_string(),
            "blocks": self.span.inclusive(),
            "signed": self.receipts.len(),
        });
        if whole {
            let shown = self.receipts.iter().map(|signed| {
                let digest = signed.digest().to_string();
                let Ok(verified) = signed.clone().verify::<Receipt>() else {
                    return serde_json::json!({"digest": digest, "signature": "does not hold"});
                };
                let receipt = verified.record();
                serde_json::json!({
                    "digest": digest,
                    "signature": "holds",
                    "positions": [receipt.from, receipt.until - 1],
                    "input": receipt.input.to_string(),
                    "output": receipt.output.to_string(),
                    "previous": receipt.previous.to_string(),
                    "upstream": receipt.upstream.map(|digest| digest.to_string()),
                })
            });
            json["receipts"] = shown.collect();
        }
        json
    }
}
