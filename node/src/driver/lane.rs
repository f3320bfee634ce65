//! One end of a lane: dialled or awaited, straight or through the client, sealed either way.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use taimatsu_network::{FrameReader, Network, StreamKind};
use taimatsu_peer::session::End;
use taimatsu_peer::session::policy::DIAL;
use taimatsu_protocol::control::Forward;
use taimatsu_protocol::link::{Downstream, Greeting, LinkAck, LinkHello, LinkReply};
use taimatsu_protocol::opening::LaneOpening;
use taimatsu_protocol::sealed::{Channel, Mark};
use taimatsu_protocol::{SessionId, codec};
use tokio::sync::mpsc;

use super::hop_task::{Arrival, HopEvent};
use super::streams::{FrameQueue, pump};

/// Neighbours that wait for the client's word of them: one, and some that were lost since.
const EARLY_NEIGHBOURS: usize = 4;

/// The longest frame of a lane's handshake, in bytes.
const HANDSHAKE: usize = 1024;

/// What happens to a lane.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// The next hop has answered, or has not.
    Dialed { generation: u32, dialed: Box<Option<Dialed>> },
    /// A frame of a straight lane, or its end.
    Frame { end: End, generation: u32, frame: Option<Bytes> },
}

/// A straight lane that stands.
#[derive(Debug)]
pub(crate) struct Dialed {
    channel: Channel,
    queue: FrameQueue,
    reader: FrameReader,
}

/// What a frame meant.
#[derive(Debug)]
pub(crate) enum LaneFrame {
    /// The lane stands now.
    Up,
    /// From upstream.
    Down { mark: Mark, message: Downstream, tensor: Option<Bytes> },
    /// From downstream.
    Ack(LinkAck),
    /// It does not open.
    Broken,
}

/// A frame could not be sent.
#[derive(Debug)]
pub(crate) struct NotSent;

/// One end of a lane.
pub(crate) struct Lane {
    end: End,
    session: SessionId,
    /// None where the hop is alone in its ring.
    opening: Option<LaneOpening>,
    network: Network,
    events: mpsc::Sender<HopEvent>,
    relayed: bool,
    greeting: Option<Greeting>,
    channel: Option<Channel>,
    queue: Option<FrameQueue>,
    /// Neighbours of whom the client has not told yet.
    early: VecDeque<Arrival>,
    /// Frames on their way to the client; emptied after every call that may add one.
    to_client: VecDeque<Vec<u8>>,
}

impl Lane {
    pub(crate) fn new(
        end: End,
        session: SessionId,
        opening: Option<LaneOpening>,
        network: Network,
        events: mpsc::Sender<HopEvent>,
    ) -> Self {
        Self {
            end,
            session,
            opening,
            network,
            events,
            relayed: false,
            greeting: None,
            channel: None,
            queue: None,
            early: VecDeque::new(),
            to_client: VecDeque::new(),
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.opening.as_ref().map_or(0, |opening| opening.generation)
    }

    /// Of no lane where there is none.
    fn number(&self) -> u8 {
        self.opening.as_ref().map_or(u8::MAX, |opening| opening.lane)
    }

    /// Another neighbour is at the other end from now on.
    pub(crate) fn lead(&mut self, opening: LaneOpening) {
        self.opening = Some(opening);
    }

    pub(crate) fn is_direct_as(&self, generation: u32) -> bool {
        !self.relayed && self.generation() == generation
    }

    pub(crate) fn is_relayed_as(&self, number: u8, generation: u32) -> bool {
        self.relayed && self.number() == number && self.generation() == generation
    }

    /// Begins a connection to the next hop; what stood before is fenced.
    pub(crate) fn dial(&mut self, generation: u32, relayed: bool) {
        self.renew(generation, relayed);
        let Some(opening) = &self.opening else { return };
        let greeting = Greeting::new(self.session, opening, crate::entropy::bytes());
        if relayed {
            self.to_client.push_back(codec::encode(greeting.hello()));
            self.greeting = Some(greeting);
            return;
        }
        let (network, peer) = (self.network.clone(), opening.peer);
        let events = self.events.clone();
        tokio::spawn(async move {
            let dialed = tokio::time::timeout(DIAL, greet(&network, peer, greeting)).await;
            let dialed = Box::new(dialed.ok().flatten());
            let event = HopEvent::Lane(LaneEvent::Dialed { generation, dialed });
            let _ = events.send(event).await;
        });
    }

    /// Awaits the previous hop: the generation of the lane that stands now, if it was here first.
    pub(crate) fn expect(&mut self, generation: u32, relayed: bool) -> Option<u32> {
        self.renew(generation, relayed);
        std::mem::take(&mut self.early).into_iter().filter_map(|early| self.arrived(early)).last()
    }

    fn renew(&mut self, generation: u32, relayed: bool) {
        if let Some(opening) = &mut self.opening {
            opening.generation = generation;
        }
        self.relayed = relayed;
        (self.greeting, self.channel, self.queue) = (None, None, None);
    }

    /// The dial has ended: true if the lane stands.
    pub(crate) fn dialed(&mut self, generation: u32, dialed: Option<Dialed>) -> bool {
        let Some(Dialed { channel, queue, reader }) = dialed else { return false };
        if !self.is_direct_as(generation) {
            return false;
        }
        (self.channel, self.queue) = (Some(channel), Some(queue));
        self.listen(reader);
        true
    }

    /// The previous hop is here: the generation of the lane that stands now, if its hello is good.
    pub(crate) fn arrived(&mut self, arrival: Arrival) -> Option<u32> {
        let Arrival { peer, hello, reader, writer } = arrival;
        let opening = self.opening.as_ref()?;
        if hello.generation > opening.generation {
            // Of whom there are too many, the first is the oldest.
            if self.early.len() >= EARLY_NEIGHBOURS {
                self.early.pop_front();
            }
            self.early.push_back(Arrival { peer, hello, reader, writer });
            return None;
        }
        let expected = !self.relayed && peer == opening.peer && self.channel.is_none();
        if !expected || hello.lane != opening.lane {
            return None;
        }
        let (reply, channel) = hello.answer(opening, crate::entropy::bytes());
        let queue = FrameQueue::over(writer);
        queue.send(codec::encode(&reply)).ok()?;
        self.channel = Some(channel?);
        self.queue = Some(queue);
        self.listen(reader);
        Some(self.generation())
    }

    fn listen(&self, reader: FrameReader) {
        let (end, generation) = (self.end, self.generation());
        pump(reader, self.events.clone(), move |frame| {
            HopEvent::Lane(LaneEvent::Frame { end, generation, frame })
        });
    }

    /// A frame that came through the client.
    pub(crate) fn forwarded(&mut self, frame: Bytes) -> LaneFrame {
        if self.channel.is_some() {
            return self.open(frame);
        }
        match self.end {
            End::In => self.greeted(&frame),
            End::Out => self.answered(&frame),
        }
    }

    fn greeted(&mut self, frame: &[u8]) -> LaneFrame {
        let hello = codec::decode::<LinkHello>(frame, HANDSHAKE);
        let (Ok(hello), Some(opening)) = (hello, &self.opening) else { return LaneFrame::Broken };
        if hello.session != self.session || hello.lane != opening.lane {
            return LaneFrame::Broken;
        }
        let (reply, channel) = hello.answer(opening, crate::entropy::bytes());
        self.to_client.push_back(codec::encode(&reply));
        self.channel = channel;
        if self.channel.is_some() { LaneFrame::Up } else { LaneFrame::Broken }
    }

    fn answered(&mut self, frame: &[u8]) -> LaneFrame {
        let reply = codec::decode::<LinkReply>(frame, HANDSHAKE);
        let (Ok(reply), Some(greeting)) = (reply, self.greeting.take()) else {
            return LaneFrame::Broken;
        };
        self.channel = greeting.finish(&reply);
        if self.channel.is_some() { LaneFrame::Up } else { LaneFrame::Broken }
    }

    /// Opens a sealed frame.
    pub(crate) fn open(&mut self, frame: Bytes) -> LaneFrame {
        let Some(channel) = &mut self.channel else { return LaneFrame::Broken };
        match self.end {
            End::In => match channel.opener.open::<Downstream>(frame) {
                Ok(opened) => LaneFrame::Down {
                    mark: opened.mark,
                    message: opened.message,
                    tensor: opened.tensor,
                },
                Err(_) => LaneFrame::Broken,
            },
            End::Out => match channel.opener.open::<LinkAck>(frame) {
                Ok(opened) => LaneFrame::Ack(opened.message),
                Err(_) => LaneFrame::Broken,
            },
        }
    }

    /// Seals and sends a frame.
    pub(crate) fn send<M: Serialize>(
        &mut self,
        mark: Mark,
        message: &M,
        tensor: Option<&[u8]>,
    ) -> Result<(), NotSent> {
        let channel = self.channel.as_mut().ok_or(NotSent)?;
        let frame = channel.sealer.seal(mark, message, tensor).map_err(|_| NotSent)?;
        if self.relayed {
            self.to_client.push_back(frame);
            return Ok(());
        }
        self.queue.as_ref().ok_or(NotSent)?.send(frame).map_err(|_| NotSent)
    }

    /// The next frame for the client to carry.
    pub(crate) fn take_relayed(&mut self) -> Option<(Forward, Vec<u8>)> {
        let frame = self.to_client.pop_front()?;
        let (lane, generation) = (self.number(), self.generation());
        Some((Forward { lane, generation }, frame))
    }
}

/// Dials the next hop and greets it.
async fn greet(
    network: &Network,
    peer: taimatsu_protocol::PeerId,
    greeting: Greeting,
) -> Option<Dialed> {
    let (mut reader, mut writer) = network.open(peer, StreamKind::Link).await.ok()?;
    writer.write(codec::encode(greeting.hello())).await.ok()?;
    let frame = reader.read().await.ok()??;
    let reply = codec::decode::<LinkReply>(&frame, HANDSHAKE).ok()?;
    let channel = greeting.finish(&reply)?;
    Some(Dialed { channel, queue: FrameQueue::over(writer), reader })
}
