//! What the end of an answer says of its hosts.

use taimatsu_protocol::control::HopFailure;
use taimatsu_protocol::receipt::BrokenReceipts;
use taimatsu_protocol::{ModelId, PeerId};
use taimatsu_reputation::{Evidence, Fault, Miss};
use taimatsu_session::Failure;

/// An answer that has ended, as its asker saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerReport {
    /// Of which model.
    pub model: ModelId,
    /// Its hosts, leader first.
    pub hosts: Vec<PeerId>,
    /// How it ended.
    pub end: AnswerEnd,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerEnd {
    /// Well: with all that was wanted, or as much as its asker wanted.
    Well {
        /// Whether its receipts hold together; none where none were wanted.
        receipts: Option<Result<(), BrokenReceipts>>,
    },
    /// Badly.
    Failed(Failure),
}

/// What a failure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blame {
    /// The hop that it is about.
    pub hop: usize,
    /// What it is evidence of, if anything: a refusal is an answer, not an absence.
    pub evidence: Option<Evidence>,
    /// The hops that did not agree, where nobody knows who is wrong.
    pub apart: Option<(usize, usize)>,
    /// Whether another way may do better.
    pub again: bool,
}

impl Blame {
    /// What `failure` of a chain of `hops` says.
    #[must_use]
    pub fn of(failure: &Failure, hops: usize) -> Self {
        let hops = hops.max(1);
        let next = |hop: usize| (hop + 1) % hops;
        let before = |hop: usize| (hop + hops - 1) % hops;
        let missed = |hop: u8, miss| Self::evidence(hop.into(), Evidence::Missed(miss));
        match failure {
            Failure::Refused { hop, .. } => Self::nothing((*hop).into()),
            Failure::OpenTimeout { hop } => missed(*hop, Miss::Opening),
            Failure::HopLost { hop } => missed(*hop, Miss::Lost),
            Failure::Stalled { hop } => missed(*hop, Miss::Stalled),
            Failure::Violation { hop } => {
                Self::evidence((*hop).into(), Evidence::Fault(Fault::Protocol))
            }
            Failure::Unlinkable { lane } => Self::nothing(next((*lane).into())),
            Failure::Leaves { hop } => Self::nothing((*hop).into()),
            Failure::HopFailed { hop, failure } => {
                let hop = usize::from(*hop);
                match failure {
                    HopFailure::BadFrame(_) | HopFailure::Disputed { .. } => {
                        Self { apart: Some((before(hop), hop)), ..Self::nothing(hop) }
                    }
                    // Nobody but these two saw what came in, and what is finite may overflow here.
                    HopFailure::NonFinite { .. } if hop > 0 => {
                        Self { apart: Some((before(hop), hop)), ..Self::nothing(hop) }
                    }
                    // Into the leader go ids: it cannot compute this prompt, and so say all.
                    HopFailure::NonFinite { block, .. } if *block != u32::MAX => {
                        let failed = Evidence::Missed(Miss::Failed);
                        Self { again: false, ..Self::evidence(hop, failed) }
                    }
                    HopFailure::NonFinite { .. } => Self::nothing(hop),
                    HopFailure::UnknownToken { .. } => Self { again: false, ..Self::nothing(hop) },
                    HopFailure::NoKv | HopFailure::Draining => Self::nothing(hop),
                    HopFailure::Internal => Self::evidence(hop, Evidence::Missed(Miss::Failed)),
                }
            }
        }
    }

    const fn nothing(hop: usize) -> Self {
        Self { hop, evidence: None, apart: None, again: true }
    }

    const fn evidence(hop: usize, evidence: Evidence) -> Self {
        Self { evidence: Some(evidence), ..Self::nothing(hop) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_protocol::control::Violation;

    fn failed(hop: u8, failure: HopFailure) -> Blame {
        Blame::of(&Failure::HopFailed { hop, failure }, 3)
    }

    #[test]
    fn a_dispute_convicts_nobody_and_parts_two() {
        for failure in
            [HopFailure::Disputed { lane: 0, from: 32 }, HopFailure::BadFrame(Violation::Seal)]
        {
            let blame = failed(1, failure);
            assert_eq!((blame.evidence, blame.apart), (None, Some((0, 1))));
        }
    }

    #[test]
    fn a_number_that_is_none_convicts_nobody() {
        for block in [12, u32::MAX] {
            let said = |hop| failed(hop, HopFailure::NonFinite { position: 3, block });
            assert_eq!((said(1).evidence, said(1).apart), (None, Some((0, 1))));
            assert_eq!(said(0).apart, None);
            assert!(!matches!(said(0).evidence, Some(Evidence::Fault(_))));
        }
    }
}
