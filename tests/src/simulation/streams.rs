//! Streams between nodes: ordered, reliable, and now and then gone.

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_peer::session::End;
use taimatsu_protocol::control::{ToClient, ToHop};
use taimatsu_protocol::link::{Downstream, LinkAck};
use taimatsu_protocol::opening::{Opening, PrekeyId, Refusal};
use taimatsu_protocol::sealed::Mark;
use taimatsu_protocol::{Moment, SessionId};

use super::world::{AskId, NodeId};

/// Frames that may be on their way in one direction, as in the node's queues.
pub(crate) const WAITING_FRAMES: usize = 640;

/// Names a stream; never reused.
pub(crate) type StreamId = u64;

/// What a stream is for. End 0 has dialled, end 1 was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From a client to a hop.
    Control { ask: AskId, session: SessionId, hop: u8 },
    /// From a hop to the next one.
    Link { session: SessionId, generation: u32 },
}

/// A client's first frame.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    pub(crate) session: SessionId,
    pub(crate) hop: u8,
    pub(crate) prekey: PrekeyId,
    pub(crate) opening: Opening,
}

/// A neighbour's first frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkHello {
    pub(crate) session: SessionId,
    pub(crate) lane: u8,
    pub(crate) generation: u32,
}

/// What travels. Sealing is left out: `tests/sealing.rs` tests it, and nobody reads here what is
/// not his.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    Hello(Box<Hello>),
    Reply(Result<(), Refusal>),
    ToHop(ToHop, Option<Bytes>),
    ToClient(ToClient, Option<Bytes>),
    Lane(LaneFrame),
    /// The sender has closed its end, or its machine says that there is none.
    Fin,
}

/// What travels on a lane, straight or through the client.
#[derive(Debug, Clone)]
pub(crate) enum LaneFrame {
    Hello(LinkHello),
    Reply(bool),
    Down { mark: Mark, message: Downstream, tensor: Option<Bytes> },
    Up(LinkAck),
}

/// A stream and both its ends.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) kind: Kind,
    pub(crate) ends: [NodeId; 2],
    /// Whether the end's owner holds it.
    pub(crate) open: [bool; 2],
    /// The end has heard that the other one is closed.
    pub(crate) finished: [bool; 2],
    /// When the last frame towards the end arrives: none overtakes it.
    pub(crate) last: [Moment; 2],
    /// Frames on their way towards the end, in order.
    pub(crate) frames: [VecDeque<Frame>; 2],
    /// How many of these have come to a cut, and wait there.
    pub(crate) stuck: [usize; 2],
}

impl Stream {
    pub(crate) const fn new(kind: Kind, ends: [NodeId; 2], now: Moment) -> Self {
        Self {
            kind,
            ends,
            open: [true; 2],
            finished: [false; 2],
            last: [now; 2],
            frames: [VecDeque::new(), VecDeque::new()],
            stuck: [0; 2],
        }
    }
}

/// The end of a lane whose hop has dialled (0) or was dialled (1).
pub(crate) const fn lane_end(stream_end: usize) -> End {
    if stream_end == 0 { End::Out } else { End::In }
}
