//! What goes into a hop and what comes out of it.

use bytes::Bytes;
use taimatsu_protocol::control::{HopFailure, Score, ToClient, ToHop, Token, Violation};
use taimatsu_protocol::link::{Downstream, LinkAck};
use taimatsu_protocol::opening::{LaneOpening, Opening, TailTask};
use taimatsu_protocol::receipt::Receipt;
use taimatsu_protocol::sealed::Mark;
use taimatsu_protocol::signed::SignedBytes;
use taimatsu_protocol::{PeerId, SessionId};

use crate::tail::{ReceiptTerms, TailConfig};

/// What a hop knows from its opening.
#[derive(Debug, Clone)]
pub struct HopConfig {
    /// Its number in the session.
    pub hop: u8,
    /// Width of a hidden state, in f32.
    pub hidden: u32,
    /// Tokens of the prompt.
    pub prompt_len: u32,
    /// Positions in all.
    pub positions: u32,
    /// The prompt, for the leader; empty elsewhere.
    pub prompt: Vec<u32>,
    /// The answer's ids so far, for a leader or a tail in a lost one's place.
    pub answer: Vec<u32>,
    /// Its lanes; none where it is alone in its ring.
    pub lanes: Option<Lanes>,
    /// The tail's task.
    pub tail: Option<TailConfig>,
    /// What receipts are signed as; none in scoring sessions, and where nobody else computes.
    pub receipts: Option<ReceiptTerms>,
}

/// A hop's two lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// From the previous hop.
    pub inward: LaneTerms,
    /// To the next hop.
    pub out: LaneTerms,
}

/// A lane as a hop's opening has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneTerms {
    /// Its number: that of the hop that it leads from.
    pub number: u8,
    /// Its generation.
    pub generation: u32,
    /// Its receiver is new to the session.
    pub fresh: bool,
}

impl LaneTerms {
    const fn of(lane: &LaneOpening) -> Self {
        Self { number: lane.lane, generation: lane.generation, fresh: lane.fresh }
    }
}

impl HopConfig {
    /// What `opening` asks of `host`; takes prompt and answer out of it. `hidden` is the model's width.
    #[must_use]
    pub fn of(
        host: PeerId,
        session: SessionId,
        hop: u8,
        opening: &mut Opening,
        hidden: u32,
    ) -> Self {
        let tail = opening.tail.as_ref().map(|tail| match &tail.task {
            TailTask::Generate { end_ids, credit, .. } => {
                TailConfig::Generate { credit: *credit, end_ids: end_ids.to_vec() }
            }
            TailTask::Score { .. } => TailConfig::Score,
        });
        let both = opening.inward.as_ref().zip(opening.out.as_ref());
        let lanes = both
            .map(|(inward, out)| Lanes { inward: LaneTerms::of(inward), out: LaneTerms::of(out) });
        let upstream = opening.inward.as_ref().filter(|_| !opening.span.embed);
        let upstream = upstream.map(|lane| lane.peer);
        let prompt = std::mem::take(&mut opening.prompt).into_vec();
        let answer = std::mem::take(&mut opening.answer).into_vec();
        let Opening { model, span, numerics, prompt_len, positions, receipts, .. } = *opening;
        let terms = ReceiptTerms { host, session, model, span, numerics, upstream };
        let receipts = receipts.then_some(terms);
        Self { hop, hidden, prompt_len, positions, prompt, answer, lanes, tail, receipts }
    }
}

/// One of the hop's two lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// From the previous hop.
    In,
    /// To the next hop.
    Out,
}

/// What happens to a hop.
#[derive(Debug)]
pub enum HopInput {
    /// A lane stands.
    LaneUp(End, u32),
    /// A lane could not be made, or broke.
    LaneLost(End, u32),
    /// A frame from upstream: its epoch, first position, message and tensor.
    FromUpstream {
        /// Epoch and first position.
        mark: Mark,
        /// The message.
        message: Downstream,
        /// `count × hidden` f32, little endian.
        tensor: Option<Bytes>,
    },
    /// An acknowledgement from downstream.
    FromDownstream(LinkAck),
    /// From the client; forwarded frames go past the machine.
    FromClient(ToHop),
    /// A neighbour's or the client's frame did not open.
    Broken(Violation),
    /// The client's stream ended.
    ClientLost,
    /// The job is done; `micros` is what it took.
    Executed {
        /// What came out.
        result: Result<Executed, HopFailure>,
        /// Microseconds in the executor.
        micros: u64,
    },
    /// What [`HopOutput::Sign`] asked for.
    Signed(SignedBytes),
    /// The host takes nobody new, and will end what runs.
    Leaving,
    /// The host is leaving.
    Drain,
}

/// What the executor made of a job.
#[derive(Debug)]
pub enum Executed {
    /// Hidden states, as the job's `count × hidden` f32.
    Hidden(Bytes),
    /// The token that follows.
    Sampled(Token),
    /// Per position of the job, what may follow it.
    Scored(Vec<Score>),
    /// Nothing was asked for.
    Nothing,
}

/// What a hop wants done.
#[derive(Debug)]
pub enum HopOutput {
    /// Dial the next hop, with this generation; `relayed`: through the client.
    Dial {
        /// The lane's generation.
        generation: u32,
        /// Through the client.
        relayed: bool,
    },
    /// Expect the previous hop with this generation; `relayed`: through the client.
    Expect {
        /// The lane's generation.
        generation: u32,
        /// Through the client.
        relayed: bool,
    },
    /// From now on this is who is at that end, and with which secret; what stood there is fenced.
    Neighbour {
        /// Which end.
        end: End,
        /// Who.
        lane: Box<LaneOpening>,
    },
    /// Seal and send to the client.
    ToClient(ToClient),
    /// Seal and send to the next hop.
    Down {
        /// Epoch and first position.
        mark: Mark,
        /// The message.
        message: Downstream,
        /// The tensor behind it.
        tensor: Option<Bytes>,
    },
    /// Seal and send to the previous hop.
    Up(LinkAck),
    /// Sign this with the host's key; exactly one [`HopInput::Signed`] answers, at once.
    Sign(Box<Receipt>),
    /// Compute; exactly one [`HopInput::Executed`] answers.
    Execute(Job),
    /// Free everything; nothing follows.
    End,
}

/// One step for the executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// First position. The KV is cut back to it where it is longer.
    pub start: u32,
    /// Positions.
    pub count: u32,
    /// What goes in.
    pub input: JobInput,
    /// What shall come out.
    pub want: Want,
}

/// What goes into a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobInput {
    /// Token ids, at the leader.
    Ids(Vec<u32>),
    /// `count × hidden` f32, little endian.
    Hidden(Bytes),
}

/// What shall come out of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Hidden states for the next hop.
    Hidden,
    /// The token at this index of the answer.
    Sample {
        /// Index in the answer.
        index: u32,
    },
    /// The best continuations of every position.
    Scores,
    /// Nothing but the KV.
    Nothing,
}
