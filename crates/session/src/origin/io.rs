//! What goes into the client's machine and what comes out of it.

use std::ops::Range;
use std::time::Duration;

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
    /// How long a lost hop's place may stay vacant; with none, a loss ends the answer.
    pub patience: Duration,
}

impl OriginConfig {
    /// The credit that the tail's opening carries.
    #[must_use]
    pub fn first_credit(&self) -> u32 {
        self.max_tokens.min(CREDIT)
    }
}

/// What happens to the client. Hops are named by their numbers.
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
    /// What [`OriginOutput::Seek`] asked for is found: so many hops for the places that it named.
    Found {
        /// Which question it answers.
        seek: u32,
        /// How many hops.
        hops: u8,
    },
    /// There is nobody for them.
    Nobody {
        /// Which question it answers.
        seek: u32,
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
    /// All lanes stand, for the first time or again.
    Open,
    /// A hop is lost, or is one too many from now on: its stream is let go, after what is to be
    /// sent on it.
    Drop {
        /// Which, by its number.
        hop: u8,
    },
    /// The answer has lost a hop, and goes on without.
    Lost {
        /// What.
        failure: Failure,
        /// The numbers of the hops, by their places.
        ring: Vec<u8>,
    },
    /// Find other hosts for the blocks of these places of the ring. Exactly one answer is wanted,
    /// but to a question that is not the last one none is heard.
    Seek {
        /// Which question it is.
        seek: u32,
        /// Places in the ring.
        places: Range<usize>,
    },
    /// Send an opening.
    Knock(Box<Newcomer>),
    /// Tell a hop of another neighbour, by [`ToHop::Relink`].
    Relink {
        /// Whom, by its number.
        hop: u8,
        /// The lane.
        lane: LaneEnd,
    },
    /// A token of the answer, in order.
    Token(Token),
    /// What may follow the next prompt position, in order.
    Scored(Score),
    /// The answer is over; nothing follows.
    Ended(Result<Finish, Failure>),
}

/// A hop to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Its number.
    pub hop: u8,
    /// Its place in the ring.
    pub place: usize,
    /// What it takes in; none where it is alone in the ring.
    pub inward: Option<LaneEnd>,
    /// What it gives on.
    pub out: Option<LaneEnd>,
    /// Tokens that the tail may release.
    pub credit: u32,
}

/// One end of a lane, as its hop is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneEnd {
    /// The lane.
    pub lane: u8,
    /// The number of the hop at the other end.
    pub other: u8,
    /// Its generation.
    pub generation: u32,
    /// Its receiver is new to the session.
    pub fresh: bool,
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

/// How an answer fails. Hops and lanes are named by their places in the ring.
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
    /// A hop's host takes its leave.
    #[error("hop {hop} leaves")]
    Leaves {
        /// Which.
        hop: u8,
    },
}
