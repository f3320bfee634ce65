//! Who takes the places of hosts that an answer has lost.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use taimatsu_peer::routing::{Hop, Part};
use taimatsu_peer::session::Failure;
use taimatsu_peer::{AnswerEnd, AnswerReport, Ask, Input};
use taimatsu_protocol::opening::Refusal;
use taimatsu_protocol::{Moment, Numerics, PeerId};

use crate::driver::judge::Judge;

/// A host that was lost is asked again after this, and after twice as long each time it is lost
/// again.
const COOLS: Duration = Duration::from_secs(1);

/// At most.
const COOLS_MOST: Duration = Duration::from_secs(8);

/// How an answer finds hosts.
#[derive(Debug, Clone)]
pub(crate) struct Mender {
    /// The judgement.
    pub(crate) judge: Judge,
    /// The question as it was asked.
    pub(crate) ask: Ask,
    /// How long a place may stay vacant.
    pub(crate) patience: Duration,
}

/// Hosts that this answer has lost, and from when on they may be asked again.
#[derive(Debug, Default)]
pub(super) struct Cooling(BTreeMap<PeerId, (Moment, Duration)>);

impl Mender {
    /// Hosts for these blocks, beside those that stay; none where there is nobody.
    pub(super) async fn seek(
        self,
        blocks: Range<u32>,
        without: BTreeSet<PeerId>,
        numerics: Numerics,
    ) -> Vec<Hop> {
        let part = Part { blocks, without, numerics };
        self.judge.mend(self.ask, part).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "nobody takes a lost host's place yet");
            Vec::new()
        })
    }

    /// Tells the judgement of a loss.
    pub(super) fn report(&self, failure: Failure, hosts: Vec<PeerId>) {
        let (judge, model) = (self.judge.clone(), self.ask.model);
        tokio::spawn(async move {
            let end = AnswerEnd::Failed(failure);
            judge.tell(Input::Answered(AnswerReport { model, hosts, end })).await;
        });
    }
}

impl Cooling {
    /// A host is let go.
    pub(super) fn lost(&mut self, now: Moment, peer: PeerId) {
        let pause = self.0.get(&peer).map_or(COOLS, |(_, pause)| (*pause * 2).min(COOLS_MOST));
        self.0.insert(peer, (now + pause, pause));
    }

    /// A host has said when to ask it again.
    pub(super) fn refused(&mut self, now: Moment, peer: PeerId, failure: &Failure) {
        if let Failure::Refused { refusal: Refusal::Busy { retry_ms }, .. } = failure {
            let pause = Duration::from_millis((*retry_ms).into()).min(COOLS_MOST);
            self.0.insert(peer, (now + pause, pause / 2));
        }
    }

    /// Whom not to ask now.
    pub(super) fn all(&self, now: Moment) -> impl Iterator<Item = PeerId> + '_ {
        self.0.iter().filter(move |(_, (until, _))| *until > now).map(|(peer, _)| *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_lost_again_cools_longer() {
        let (mut cooling, peer) = (Cooling::default(), PeerId::from_public_key([1; 32]));
        let at = |seconds| Moment::default() + Duration::from_secs(seconds);
        let cools = |cooling: &Cooling, seconds| cooling.all(at(seconds)).next().is_some();
        cooling.lost(at(0), peer);
        assert!(cools(&cooling, 0) && !cools(&cooling, 1));
        cooling.lost(at(1), peer);
        assert!(cools(&cooling, 2) && !cools(&cooling, 3));
        (3..9).for_each(|second| cooling.lost(at(second), peer));
        assert!(cools(&cooling, 15) && !cools(&cooling, 16));
    }
}
