//! What can happen, and what a scenario may do.

use std::time::Duration;

use taimatsu_protocol::{ModelId, Moment, PeerId, SessionId, Span};

use super::directory::LookupId;
use super::streams::{Frame, StreamId};
use super::world::{AskId, NodeId};

/// Something that happens at its moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// A dialled stream's first frame is there, if there is anybody.
    Connect { stream: StreamId, frame: Box<Frame> },
    /// The dialler learns that nobody answers.
    DialFailed { stream: StreamId },
    /// The next frame towards an end is there.
    Frame { stream: StreamId, to: usize },
    /// A machine wanted to be woken.
    Wake { timer: Timer, at: Moment },
    /// A worker has ended its pass.
    Worked { node: NodeId, life: u32, worker: usize },
    /// The executor's figures are told to the judge.
    Load { node: NodeId, life: u32, worker: usize },
    /// The node looks around in the swarm.
    LookAround { node: NodeId, life: u32 },
    /// The directory has named hosts.
    Found { lookup: LookupId },
    /// A query is at a host.
    Query { lookup: LookupId, to: NodeId },
    /// The host's answer is back; none: it could not be reached.
    Answer { lookup: LookupId, from: NodeId, answered: Option<usize> },
    /// A host has had long enough to answer.
    QueryLate { lookup: LookupId, to: NodeId },
    /// A lookup has had long enough.
    LookupLate { lookup: LookupId },
    /// A hop has had long enough to reach the next one.
    LaneLate { node: NodeId, session: SessionId, generation: u32 },
    /// A neighbour's hello has waited long enough for its opening.
    EarlyLate { node: NodeId, stream: StreamId },
    /// The reader takes tokens.
    Consume { ask: AskId },
    /// The scenario's hand.
    Act(Action),
}

/// Whose timer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    Peer(NodeId),
    Hop(NodeId, SessionId),
    Run(AskId),
}

/// What a scenario may do to the world.
#[derive(Debug, Clone)]
pub enum Action {
    /// Somebody asks; the index is the world's list of asks.
    Ask(AskId),
    /// The machine is gone. Its kernel closes the streams, or it says nothing at all (`silent`).
    Crash {
        /// Which.
        node: NodeId,
        /// As when the power is cut.
        silent: bool,
    },
    /// The host of this hop of the ask's present chain crashes.
    CrashHop {
        /// Whose chain.
        ask: AskId,
        /// Which hop; beyond the last, the last.
        hop: usize,
        /// As when the power is cut.
        silent: bool,
    },
    /// The host of this hop is not heard of, and hears nobody, for so long.
    Stop {
        /// Whose chain.
        ask: AskId,
        /// Which hop; beyond the last, the last.
        hop: usize,
        /// How long.
        pause: Duration,
    },
    /// It is back among the others, and what was on its way arrives.
    Wake(NodeId),
    /// The connection from this hop of the ask's present chain to the next one breaks.
    CutLane {
        /// Whose chain.
        ask: AskId,
        /// Which hop; beyond the last, the last.
        lane: usize,
    },
    /// What this hop sends to the next one is lost, while the way back stands.
    HalfLane {
        /// Whose chain.
        ask: AskId,
        /// Which hop; beyond the last, the last.
        lane: usize,
    },
    /// The host of this hop leaves, as by [`Action::Drain`].
    DrainHop {
        /// Whose chain.
        ask: AskId,
        /// Which hop; beyond the last, the last.
        hop: usize,
        /// What it leaves to running sessions.
        patience: Duration,
    },
    /// The client and the hop of its ask do not hear each other any more, in one direction.
    HalfOpen {
        /// Whose chain.
        ask: AskId,
        /// Which hop.
        hop: usize,
        /// The client is not heard; otherwise the hop.
        outward: bool,
    },
    /// It is back, with what it hosted, and remembers nothing.
    Restart(NodeId),
    /// It hosts a span from now on.
    Host {
        /// Who.
        node: NodeId,
        /// Which span of the first model.
        span: Span,
    },
    /// It leaves: no new sessions; those that run have this long.
    Drain {
        /// Who.
        node: NodeId,
        /// What it leaves to running sessions.
        patience: Duration,
    },
    /// Sessions that still run on a draining node end.
    DrainEnds(NodeId),
    /// The map falls into two.
    Part(Vec<bool>),
    /// All cuts are mended.
    Heal,
    /// Somebody sends copies of all openings that this ask's hops have accepted.
    Replay {
        /// Whose openings.
        ask: AskId,
        /// Who sends them again.
        from: NodeId,
    },
}

impl Event {
    /// Numbers that tell events apart, for the trace's hash.
    pub(crate) fn fingerprint(&self) -> [u64; 3] {
        let n = |number: usize| number as u64;
        match self {
            Self::Connect { stream, .. } => [1, *stream, 0],
            Self::DialFailed { stream } => [2, *stream, 0],
            Self::Frame { stream, to, .. } => [3, *stream, n(*to)],
            Self::Wake { timer: Timer::Peer(node), .. } => [4, n(*node), 0],
            Self::Wake { timer: Timer::Hop(node, _), .. } => [5, n(*node), 0],
            Self::Wake { timer: Timer::Run(ask), .. } => [6, n(*ask), 0],
            Self::Worked { node, worker, .. } => [7, n(*node), n(*worker)],
            Self::Load { node, worker, .. } => [8, n(*node), n(*worker)],
            Self::LookAround { node, .. } => [9, n(*node), 0],
            Self::Found { lookup } => [10, *lookup, 0],
            Self::Query { lookup, to } => [11, *lookup, n(*to)],
            Self::Answer { lookup, from, .. } => [12, *lookup, n(*from)],
            Self::QueryLate { lookup, to } => [13, *lookup, n(*to)],
            Self::LookupLate { lookup } => [14, *lookup, 0],
            Self::LaneLate { node, generation, .. } => [15, n(*node), u64::from(*generation)],
            Self::EarlyLate { node, stream } => [16, n(*node), *stream],
            Self::Consume { ask } => [17, n(*ask), 0],
            Self::Act(_) => [18, 0, 0],
        }
    }
}

/// A model of the toy kind, as all nodes know it.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// Its dimensions.
    pub shape: taimatsu_executor::ModelShape,
}

/// Eyes want names, not keys.
pub(crate) fn name(nodes: &[PeerId], peer: &PeerId) -> String {
    let place = nodes.iter().position(|node| node == peer);
    place.map_or_else(|| peer.short(), |place| format!("n{place}"))
}
