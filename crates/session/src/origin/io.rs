//! What goes into the client's machine and what comes out of it.

use bytes::Bytes;
use taimatsu_protocol::control::{HopFailure, Score, ToClient, ToHop, Token};
use taimatsu_protocol::opening::Refusal;

use crate::policy::CREDIT;

/// What the client is about to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginConfig {
    /// Hops of the ring.
    pub hops: u8,
    /// Tokens of the prompt.
    pub prompt_len: u32,
    /// Tokens wanted at most; 0 with `score`.
    pub max_tokens: u32,
    /// Score the prompt, and generate nothing.
    pub score: bool,
}

impl OriginConfig {
    /// The credit that the tail's opening carries.
    #[must_use]
    pub fn first_credit(&self) -> u32 {
        self.max_tokens.min(CREDIT)
    }
}

/// What happens to the client.
#[derive(Debug)]
pub enum OriginInput {
    /// A hop accepted its opening.
    Accepted {
        /// Which.
        hop: u8,
    },
    /// A hop refused it.
    Refused {
        /// Which.
        hop: u8,
        /// Why.
        refusal: Refusal,
    },
    /// A message of a hop; a forwarded frame comes with its bytes.
    FromHop {
        /// Which.
        hop: u8,
        /// The message.
        message: ToClient,
        /// The frame behind a `Forward`.
        frame: Option<Bytes>,
    },
    /// A frame of a hop did not open.
    Broken {
        /// Which.
        hop: u8,
    },
    /// A hop's stream ended, or could not be made.
    Lost {
        /// Which.
        hop: u8,
    },
    /// The caller has taken this many tokens in all.
    Consumed(u32),
    /// The caller has enough (a stop string, a closed socket).
    Cancel,
}

/// What the client wants done.
#[derive(Debug)]
pub enum OriginOutput {
    /// Seal and send to a hop; a forwarded frame comes with its bytes.
    ToHop {
        /// Which.
        hop: u8,
        /// The message.
        message: ToHop,
        /// The frame behind a `Forward`.
        frame: Option<Bytes>,
    },
    /// All lanes stand.
    Open,
    /// A token of the answer, in order.
    Token(Token),
    /// What may follow the next prompt position, in order.
    Scored(Score),
    /// The answer is over; nothing follows.
    Ended(Result<Finish, Failure>),
}

/// How an answer ends well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// With an end token.
    End,
    /// With as many tokens as were wanted, or all positions scored.
    Length,
    /// The caller had enough.
    Cancelled,
}

/// How an answer fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A hop refused the opening.
    #[error("hop {hop} refused: {refusal}")]
    Refused {
        /// Which.
        hop: u8,
        /// Why.
        refusal: Refusal,
    },
    /// Not everything stood in time.
    #[error("hop {hop} did not open in time")]
    OpenTimeout {
        /// The first that did not.
        hop: u8,
    },
    /// Two neighbours reach each other neither straight nor through the client.
    #[error("lane {lane} cannot be made")]
    Unlinkable {
        /// Which lane.
        lane: u8,
    },
    /// A hop is gone or silent.
    #[error("hop {hop} was lost")]
    HopLost {
        /// Which.
        hop: u8,
    },
    /// A hop gave up.
    #[error("hop {hop} failed: {failure}")]
    HopFailed {
        /// Which.
        hop: u8,
        /// Why.
        failure: HopFailure,
    },
    /// Nothing moved for a minute.
    #[error("hop {hop} is stalled")]
    Stalled {
        /// The hop that is furthest behind.
        hop: u8,
    },
    /// A hop said what it may not.
    #[error("hop {hop} broke the protocol")]
    Violation {
        /// Which.
        hop: u8,
    },
}
