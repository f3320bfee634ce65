//! What holds in every world, whatever happens: checked after each event, and at rest.

use taimatsu_peer::policy::{MAX_HOSTED, MAX_REPLAY, MAX_WAITING};
use taimatsu_peer::reputation::{Evidence, Reason, Standing};
use taimatsu_peer::session::Finish;
use taimatsu_peer::session::policy::CREDIT;
use taimatsu_protocol::PeerId;

use super::asking::Outcome;
use super::events::name;
use super::world::{AskId, NodeId, World};

impl World {
    /// A node's judgement keeps its bounds.
    pub(crate) fn check_peer(&mut self, node: NodeId) {
        let this = &self.nodes[node];
        let (sessions, limit) = (this.peer.sessions(), this.max_sessions);
        let serving = this.hops.len();
        let bounded = sessions <= limit
            && serving <= limit
            && this.peer.waiting_asks() <= MAX_WAITING
            && this.peer.remembered_sessions() <= MAX_REPLAY
            && this.peer.hosting().count() <= MAX_HOSTED;
        if !bounded {
            self.fail(|| format!("n{node} serves {sessions} ({serving}) sessions of {limit}"));
        }
    }

    /// No chain makes more tokens than its client has granted.
    pub(crate) fn check_credit(&mut self, ask: AskId) {
        let this = &self.asks[ask];
        let (have, read) = (this.tokens.len() as u32, this.consumed);
        if have > read + CREDIT || have > this.question.max_tokens {
            self.fail(|| format!("ask {ask} has {have} tokens, and has read {read}"));
        }
    }

    /// Everybody here keeps the protocol, whatever else it does: nobody is convicted.
    pub(crate) fn check_standing(&mut self, of: &PeerId, standing: &Standing) {
        let fault = |reason: &&Reason| matches!(reason.evidence, Evidence::Fault(_));
        if let Some(reason) = standing.reasons().find(fault) {
            let said = format!("{} is convicted: {:?}", name(&self.names, of), reason.evidence);
            self.fail(|| said);
        }
    }

    /// Everything is over: nothing is held, and every answer is whole.
    pub(crate) fn check_rest(&self) -> Result<(), String> {
        for (node, this) in self.nodes.iter().enumerate().filter(|(_, node)| node.up) {
            let (hops, opened) = (this.hops.len(), this.opened.len());
            if hops + opened + this.peer.sessions() > 0 {
                let sessions = this.peer.sessions();
                return Err(format!(
                    "n{node} still serves {hops} + {opened} ({sessions}) sessions"
                ));
            }
            if this.peer.waiting_asks() + this.routes.len() > 0 {
                return Err(format!("asks wait at n{node}"));
            }
            for worker in &this.workers {
                let (free, all) = (worker.free_positions(), worker.capacity());
                if free != all {
                    return Err(format!("n{node} has {free} of {all} positions free"));
                }
            }
        }
        for (ask, this) in self.asks.iter().enumerate() {
            let (have, wanted) = (this.tokens.len(), this.question.max_tokens as usize);
            match &this.outcome {
                None => return Err(format!("ask {ask} has no outcome")),
                Some(Outcome::Done(Finish::Length)) if have != wanted => {
                    return Err(format!("ask {ask} ends with {have} tokens of {wanted}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
