//! What a peer is told, and what it says.

use std::collections::BTreeSet;
use std::time::Duration;

use taimatsu_protocol::control::HopStats;
use taimatsu_protocol::opening::{Prekey, Refusal};
use taimatsu_protocol::signed::Verified;
use taimatsu_protocol::{
    Announcement, ModelId, Numerics, PeerId, SessionId, Span, SwarmId, UnixSeconds,
};
use taimatsu_reputation::Standing;
use taimatsu_routing::{Chain, Hop, HopSpeed, Part, PlanError, Wish};

use crate::blame::AnswerReport;

/// What a peer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub me: PeerId,
    /// Its swarm.
    pub swarm: SwarmId,
    /// The first announcement's sequence. Unix time in milliseconds at the start serves: it
    /// exceeds whatever an earlier run reached, at less than a thousand announcements a second.
    pub sequence: u64,
    /// Sessions that the owner lets run at once.
    pub max_sessions: usize,
    /// Decides between hosts that are equally good; any random number.
    pub seed: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// An announcement came from anybody; its signature holds. Of another swarm, not in force, or
    /// of this node: ignored and counted.
    Announced(Box<Verified<Announcement>>),
    /// What [`Output::Announce`] asked for is signed: it is given to whoever queries.
    Signed(Box<Verified<Announcement>>),
    /// This node hosts a span from now on, or hosts it differently.
    Hosting(Hosting),
    /// It does not any more.
    Unhosting {
        /// Of which model.
        model: ModelId,
        /// Which span.
        span: Span,
    },
    /// How a hosted span is doing.
    Load(Load),
    /// A round trip to a peer was measured.
    Rtt {
        /// To whom.
        peer: PeerId,
        /// In microseconds.
        micros: u32,
    },
    /// The prekey to announce from now on.
    Prekey(Prekey),
    /// Somebody at this node wants an inference. Answered exactly once, by [`Output::Routed`] or
    /// [`Output::Unroutable`] with its id.
    Ask(Ask),
    /// An inference of this node's asking has lost hosts, and wants others in their places.
    /// Answered exactly once, by [`Output::Mended`] or [`Output::Unroutable`] with its id.
    Mend {
        /// The inference.
        ask: Ask,
        /// What is to be taken.
        part: Box<Part>,
    },
    /// A host that was routed to failed or refused: it is passed over for a while.
    HostFailed {
        /// Which.
        host: PeerId,
    },
    /// An answer of this node's asking is over, or has lost a hop and goes on.
    Answered(AnswerReport),
    /// The hosts that the owner trusts, in place of those named before.
    Trust(BTreeSet<PeerId>),
    /// What an earlier run remembered of a peer.
    Remembered {
        /// Whom.
        peer: PeerId,
        /// With which model.
        model: ModelId,
        /// What.
        standing: Box<Standing>,
    },
    /// An answer is over, and this is how fast it was.
    Observed(Box<Observed>),
    /// The lookup that was asked for is over, and what it found was handed in.
    LookupDone {
        /// Of which model.
        model: ModelId,
    },
    /// A client opens a session here. Answered exactly once, by [`Output::Admit`] or
    /// [`Output::Refuse`] with its id.
    Opening(OpeningSummary),
    /// An admitted session is over, or did not begin.
    SessionEnded {
        /// Which.
        session: SessionId,
    },
    /// The node is leaving: it serves nobody new, and says so.
    Drain,
}

/// A span that this node hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hosting {
    /// Of which model.
    pub model: ModelId,
    /// How many blocks that model has.
    pub blocks: u32,
    /// Which of them are hosted.
    pub span: Span,
    /// What it is computed with.
    pub numerics: Numerics,
    /// Positions that one session may have.
    pub context: u32,
    /// Positions of KV in all, free as yet.
    pub free_positions: u32,
}

/// How a hosted span is doing, as its executor measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Of which model.
    pub model: ModelId,
    /// Which span.
    pub span: Span,
    /// Positions of KV that are free.
    pub free_positions: u32,
    /// Microseconds for one position in decode; 0 before the first.
    pub decode_micros: u32,
    /// Positions per second in prefill; 0 before the first.
    pub prefill_rate: u32,
}

/// How fast an answer came that this node had asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Of which model.
    pub model: ModelId,
    /// Its hops, leader first, and what they said they took.
    pub hops: Vec<HopSpeed>,
    /// How long a token took by this node's own clock ([`crate::pace::Pace::lap`]).
    pub lap: Option<Duration>,
}

impl Observed {
    /// From the hops that computed and their figures, in order; a hop that computed no
    /// single position says nothing, and then the answer does not.
    #[must_use]
    pub fn of(
        model: ModelId,
        hops: &[Hop],
        stats: impl IntoIterator<Item = HopStats>,
        lap: Option<Duration>,
    ) -> Option<Self> {
        let speed = |(hop, stats): (&Hop, HopStats)| {
            let decode_micros = stats.decode_micros.checked_div(u64::from(stats.decode_steps))?;
            Some(HopSpeed { host: hop.peer, span: hop.span, decode_micros })
        };
        let hops: Option<Vec<_>> = hops.iter().zip(stats).map(speed).collect();
        Some(Self { model, hops: hops?, lap })
    }
}

/// An inference that wants hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The asker's own number for it.
    pub id: u64,
    /// Which model.
    pub model: ModelId,
    /// Its number of blocks, from its manifest.
    pub blocks: u32,
    /// How it may be spread.
    pub wish: Wish,
    /// Positions, prompt and answer.
    pub positions: u32,
    /// Who may see it.
    pub privacy: Privacy,
}

/// Who may see a request. What asks itself (a whole model hosted by the asker) is not asked of a
/// peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Privacy {
    /// Hosts that the owner has named.
    Trusted,
    /// Whoever hosts it.
    #[default]
    Anyone,
}

/// What an opening asks of this host, once it is decrypted and consistent in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpeningSummary {
    /// The caller's own number for it.
    pub id: u64,
    /// The session.
    pub session: SessionId,
    /// This hop's number in it.
    pub hop: u8,
    /// Which model.
    pub model: ModelId,
    /// What of it this host would compute.
    pub span: Span,
    /// The arithmetic that the chain computes with.
    pub numerics: Numerics,
    /// Positions that may be used in all.
    pub positions: u32,
    /// Tokens of the prompt.
    pub prompt_len: u32,
    /// Until when openings to its prekey are accepted here, any grace after the prekey's
    /// `not_after` included: the session is remembered against replay for as long.
    pub accepted_until: UnixSeconds,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Sign this, publish it, and hand it back as [`Input::Signed`].
    Announce(Box<Announcement>),
    /// Ask the swarm who hosts this model, hand in what comes as [`Input::Announced`], and say
    /// [`Input::LookupDone`].
    Lookup {
        /// Which model.
        model: ModelId,
    },
    /// Keep this for the next start; it replaces what was kept of the same peer and model.
    Remember {
        /// Of whom.
        peer: PeerId,
        /// With which model.
        model: ModelId,
        /// What.
        standing: Box<Standing>,
    },
    /// Keep nothing of this peer and model any more: others took the place.
    Forget {
        /// Of whom.
        peer: PeerId,
        /// With which model.
        model: ModelId,
    },
    /// Run the inference on this chain.
    Routed {
        /// The ask's id.
        id: u64,
        /// Where.
        chain: Chain,
    },
    /// Go on with these hops in the places of the lost ones.
    Mended {
        /// The ask's id.
        id: u64,
        /// Who, in order.
        hops: Vec<Hop>,
    },
    /// It cannot be run.
    Unroutable {
        /// The ask's id.
        id: u64,
        /// Why.
        error: RouteError,
    },
    /// Serve the session. It counts as running until [`Input::SessionEnded`].
    Admit {
        /// The opening's id.
        id: u64,
        /// The hosted span that it is a part of.
        within: Span,
    },
    /// Do not.
    Refuse {
        /// The opening's id.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
}

/// Why an ask has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// There is none.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Too many asks wait already.
    #[error("too many requests wait for hosts to be found; try again soon")]
    Busy,
}

/// Inputs that were not taken in, by reason, counted from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ignored {
    /// Announcements of another swarm.
    pub other_swarm: u64,
    /// Announcements that expired, or claim to live too long.
    pub not_in_force: u64,
    /// Announcements in this node's name that came from elsewhere.
    pub own: u64,
    /// Spans that do not fit their model.
    pub malformed: u64,
    /// Announcements that are not news.
    pub stale: u64,
    /// Announcements, or hosted spans, for which there is no room.
    pub full: u64,
}
