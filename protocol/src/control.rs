//! Messages between the client and each hop, sealed (docs/protocol.md 3.3).

use serde::{Deserialize, Serialize};

use crate::codec::BoundedVec;
use crate::opening::{LaneOpening, MAX_TOP};
use crate::signed::SignedBytes;

/// The longest neighbour's frame that the client carries, in bytes. A relayed lane's sender cuts
/// its steps to fit.
pub const MAX_FORWARD: usize = 240 * 1024;

/// Client to hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHop {
    /// The tail may have released this many tokens in all.
    Grant {
        /// Counted from the start of the answer.
        until: u32,
    },
    /// The client is there.
    KeepAlive,
    /// Reach this lane's other end through me from now on.
    Relay {
        /// Which lane.
        lane: u8,
        /// Its new generation.
        generation: u32,
    },
    /// A neighbour's frame.
    Forward(Forward),
    /// The session is over: sign what has no receipt, free everything.
    Close {
        /// The end of the positions that the answer needed; they are final.
        through: u32,
    },
    /// Another neighbour at this end, or another connection to the same. Whose the lane's number
    /// is tells which end: a hop's own leads to the next one.
    Relink(LaneOpening),
}

/// Hop to client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToClient {
    /// This end of a lane stands.
    Linked {
        /// Which lane.
        lane: u8,
        /// Its generation.
        generation: u32,
    },
    /// The other end of a lane cannot be reached.
    LinkFailed {
        /// Which lane.
        lane: u8,
        /// The generation that failed.
        generation: u32,
    },
    /// A frame for a neighbour.
    Forward(Forward),
    /// Alive; has this much; has computed this much.
    Ack {
        /// Positions received.
        received: u32,
        /// Positions computed.
        kv_len: u32,
        /// What it cost so far.
        stats: HopStats,
    },
    /// Tokens that the tail releases.
    Verdict {
        /// Index in the answer of the first of them.
        index: u32,
        /// The tokens.
        tokens: BoundedVec<Token, 64>,
        /// The answer is over with the last of them.
        end: bool,
    },
    /// What may follow prompt positions, from the tail of a scoring session.
    Scored {
        /// First position.
        position: u32,
        /// One per position.
        rows: BoundedVec<Score, 64>,
    },
    /// This hop's next receipt, as soon as it is signed. Nobody else's word carries it.
    Receipt(SignedBytes),
    /// The session is over here, and why. Everything is freed.
    Failed(HopFailure),
    /// The answer to `Close`.
    Closed {
        /// What it cost in all.
        stats: HopStats,
    },
    /// The host takes nobody new, and ends this session before long: another one is to take its
    /// place.
    Leaving,
}

/// A frame between neighbours that cannot reach each other. The frame itself, sealed by its
/// sender, rides behind this message as a tensor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Which lane.
    pub lane: u8,
    /// In which generation.
    pub generation: u32,
}

/// One released token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its natural log probability over the whole vocabulary before any filter, where asked for.
    pub logprob: Option<f32>,
    /// The best alternatives, (id, logprob) in falling order, where asked for.
    pub top: BoundedVec<(u32, f32), MAX_TOP>,
}

/// What may follow one prompt position.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Score {
    /// The natural log probability of the prompt id that really follows; none after the last one.
    pub next: Option<f32>,
    /// The best continuations, (id, logprob) in falling order.
    pub top: BoundedVec<(u32, f32), MAX_TOP>,
}

/// What a session cost a hop so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HopStats {
    /// Positions computed in steps of more than one (prefill).
    pub prefill_positions: u32,
    /// Microseconds they took.
    pub prefill_micros: u64,
    /// Steps of one position.
    pub decode_steps: u32,
    /// Microseconds they took.
    pub decode_micros: u64,
    /// Frames to neighbours that went straight.
    pub direct_frames: u32,
    /// Frames to neighbours that went through the client.
    pub relayed_frames: u32,
}

/// Why a hop ends a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HopFailure {
    /// A frame that does not open, or does not follow.
    #[error("bad_frame: {0}")]
    BadFrame(Violation),
    /// What this hop was sent is not what its sender's receipt says, or the receipt is none.
    #[error("disputed: lane {lane}, receipt of position {from}")]
    Disputed {
        /// The lane that it came over.
        lane: u8,
        /// The receipt's first position.
        from: u32,
    },
    /// A number that is none.
    #[error("non_finite: position {position}, block {block}")]
    NonFinite {
        /// Absolute position.
        position: u32,
        /// Block, counted from the model's start.
        block: u32,
    },
    /// KV ran out mid-answer.
    #[error("no_kv: out of KV positions")]
    NoKv,
    /// A token id beyond the vocabulary.
    #[error("unknown_token: {id}")]
    UnknownToken {
        /// The id.
        id: u32,
    },
    /// The host is leaving.
    #[error("draining: the host is leaving")]
    Draining,
    /// Something broke that should not.
    #[error("internal: the host failed")]
    Internal,
}

/// What exactly was wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Violation {
    /// It does not open under its key.
    #[error("does not open")]
    Seal,
    /// It is not for this state or this hop.
    #[error("out of place")]
    OutOfPlace,
    /// It does not begin where the last one ended.
    #[error("gap")]
    Gap,
    /// It goes beyond the permission given.
    #[error("over credit")]
    OverCredit,
    /// Its tensor has not the size that it claims.
    #[error("wrong size")]
    WrongSize,
}
