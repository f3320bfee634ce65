//! A host's session, performed: one task around one [`Hop`] machine.

use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use taimatsu_network::{FrameReader, FrameWriter, Network};
use taimatsu_peer::session::{End, Hop, HopConfig, HopInput, HopOutput};
use taimatsu_protocol::control::{Forward, HopFailure, ToClient, ToHop, Violation};
use taimatsu_protocol::link::LinkHello;
use taimatsu_protocol::opening::Opening;
use taimatsu_protocol::receipt::Receipt;
use taimatsu_protocol::sealed::{Channel, Mark};
use taimatsu_protocol::signed::Verified;
use taimatsu_protocol::{PeerId, SessionId};
use tokio::sync::{mpsc, oneshot};

use super::clock::Clock;
use super::lane::{Lane, LaneEvent, LaneFrame};
use super::streams::FrameQueue;
use crate::worker::{Done, Seat};

/// Events that may wait for a session's task; its streams' readers wait with theirs.
pub(crate) const WAITING_EVENTS: usize = 64;

/// What reaches a session's task.
#[derive(Debug)]
pub(crate) enum HopEvent {
    /// A frame of the client, or the end of its stream.
    Control(Option<Bytes>),
    /// The previous hop is here.
    Arrived(Box<Arrival>),
    /// Something of a lane.
    Lane(LaneEvent),
    /// The host takes nobody new.
    Leaving,
    /// The host is leaving.
    Drain,
}

/// A neighbour's stream and its hello.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Who is at the other end, as the transport has proven.
    pub(crate) peer: PeerId,
    /// What it said.
    pub(crate) hello: LinkHello,
    /// What it says next.
    pub(crate) reader: FrameReader,
    /// The way back.
    pub(crate) writer: FrameWriter,
}

/// Everything that a session's task begins with.
pub(crate) struct HopTask {
    /// The node's streams.
    pub(crate) network: Network,
    /// The node's clock.
    pub(crate) clock: Clock,
    /// Which session.
    pub(crate) session: SessionId,
    /// The hop's number.
    pub(crate) hop: u8,
    /// What was asked for.
    pub(crate) opening: Opening,
    /// Width of a hidden state, in f32.
    pub(crate) hidden: u32,
    /// The control stream, sealed.
    pub(crate) control: Channel,
    /// Its sending side.
    pub(crate) to_client: FrameQueue,
    /// The session's KV.
    pub(crate) seat: Seat,
    /// This host, and the key that it signs with.
    pub(crate) me: PeerId,
    /// See above.
    pub(crate) key: Arc<SigningKey>,
    /// Events, and where the lanes' readers send theirs.
    pub(crate) events: (mpsc::Sender<HopEvent>, mpsc::Receiver<HopEvent>),
}

/// The task's state.
struct Running {
    machine: Hop,
    clock: Clock,
    control: Channel,
    to_client: FrameQueue,
    lane_in: Lane,
    lane_out: Lane,
    seat: Seat,
    key: Arc<SigningKey>,
    job: Option<oneshot::Receiver<Done>>,
    over: bool,
}

impl HopTask {
    /// Performs the session to its end. KV is free when this returns.
    pub(crate) async fn run(self) {
        let Self { network, clock, session, hop, mut opening, hidden, events, .. } = self;
        let config = HopConfig::of(self.me, session, hop, &mut opening, hidden);
        let machine = Hop::new(clock.now(), config);
        let (sender, mut inbox) = events;
        let lane = |end, opening| Lane::new(end, session, opening, network.clone(), sender.clone());
        let mut running = Running {
            lane_in: lane(End::In, opening.inward.take()),
            lane_out: lane(End::Out, opening.out.take()),
            machine,
            clock,
            control: self.control,
            to_client: self.to_client,
            seat: self.seat,
            key: self.key,
            job: None,
            over: false,
        };
        drop(sender);
        running.perform();
        while !running.over {
            running.next(&mut inbox).await;
        }
    }
}

impl Running {
    async fn next(&mut self, inbox: &mut mpsc::Receiver<HopEvent>) {
        let timeout = self.machine.poll_timeout();
        tokio::select! {
            event = inbox.recv() => match event {
                Some(event) => self.on_event(event),
                None => self.input(HopInput::ClientLost),
            },
            done = wait(&mut self.job) => {
                self.job = None;
                let (result, micros) = done;
                self.input(HopInput::Executed { result, micros });
            }
            () = self.clock.sleep_until(timeout) => {
                let now = self.clock.now();
                self.machine.handle_timeout(now);
                self.perform();
            }
        }
    }

    fn on_event(&mut self, event: HopEvent) {
        match event {
            HopEvent::Control(None) => self.input(HopInput::ClientLost),
            HopEvent::Control(Some(frame)) => self.on_control(frame),
            HopEvent::Arrived(arrival) => {
                if let Some(generation) = self.lane_in.arrived(*arrival) {
                    self.input(HopInput::LaneUp(End::In, generation));
                }
            }
            HopEvent::Lane(event) => self.on_lane(event),
            HopEvent::Leaving => self.input(HopInput::Leaving),
            HopEvent::Drain => self.input(HopInput::Drain),
        }
    }

    fn on_control(&mut self, frame: Bytes) {
        match self.control.opener.open::<ToHop>(frame) {
            Ok(opened) => match (opened.message, opened.tensor) {
                (ToHop::Forward(forward), Some(frame)) => self.on_forward(forward, frame),
                (ToHop::Forward(_), None) => self.input(HopInput::Broken(Violation::OutOfPlace)),
                (message, _) => self.input(HopInput::FromClient(message)),
            },
            Err(_) => self.input(HopInput::Broken(Violation::Seal)),
        }
    }

    fn on_forward(&mut self, forward: Forward, frame: Bytes) {
        for end in [End::In, End::Out] {
            let lane = self.lane(end);
            if !lane.is_relayed_as(forward.lane, forward.generation) {
                continue;
            }
            let read = lane.forwarded(frame);
            self.flush_relayed(end);
            return self.on_lane_frame(end, forward.generation, read);
        }
    }

    fn on_lane(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Dialed { generation, dialed } => {
                let up = self.lane_out.dialed(generation, *dialed);
                self.input(match up {
                    true => HopInput::LaneUp(End::Out, generation),
                    false => HopInput::LaneLost(End::Out, generation),
                });
            }
            LaneEvent::Frame { end, generation, frame: Some(frame) } => {
                if self.lane(end).is_direct_as(generation) {
                    let read = self.lane(end).open(frame);
                    self.on_lane_frame(end, generation, read);
                }
            }
            LaneEvent::Frame { end, generation, frame: None } => {
                if self.lane(end).is_direct_as(generation) {
                    self.input(HopInput::LaneLost(end, generation));
                }
            }
        }
    }

    fn on_lane_frame(&mut self, end: End, generation: u32, frame: LaneFrame) {
        self.input(match frame {
            LaneFrame::Up => HopInput::LaneUp(end, generation),
            LaneFrame::Down { mark, message, tensor } => {
                HopInput::FromUpstream { mark, message, tensor }
            }
            LaneFrame::Ack(ack) => HopInput::FromDownstream(ack),
            LaneFrame::Broken => HopInput::Broken(Violation::Seal),
        });
    }

    fn lane(&mut self, end: End) -> &mut Lane {
        match end {
            End::In => &mut self.lane_in,
            End::Out => &mut self.lane_out,
        }
    }

    fn input(&mut self, input: HopInput) {
        self.machine.handle(self.clock.now(), input);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                HopOutput::Dial { generation, relayed } => {
                    self.lane_out.dial(generation, relayed);
                    self.flush_relayed(End::Out);
                }
                HopOutput::Expect { generation, relayed } => {
                    if let Some(generation) = self.lane_in.expect(generation, relayed) {
                        let up = HopInput::LaneUp(End::In, generation);
                        self.machine.handle(self.clock.now(), up);
                    }
                }
                HopOutput::Neighbour { end, lane } => self.lane(end).lead(*lane),
                HopOutput::ToClient(message) => self.tell(&message, None),
                HopOutput::Down { mark, message, tensor } => {
                    self.send(End::Out, mark, &message, tensor.as_deref());
                }
                HopOutput::Up(ack) => self.send(End::In, Mark::default(), &ack, None),
                HopOutput::Execute(job) => self.job = Some(self.seat.run(job)),
                HopOutput::Sign(receipt) => self.sign(*receipt),
                HopOutput::End => self.over = true,
            }
        }
    }

    fn sign(&mut self, receipt: Receipt) {
        let input = match Verified::sign(receipt, &self.key) {
            Ok(signed) => HopInput::Signed(signed.wire().clone()),
            Err(error) => {
                tracing::error!(%error, "a receipt was not signed");
                HopInput::ClientLost
            }
        };
        self.machine.handle(self.clock.now(), input);
    }

    fn send<M: serde::Serialize>(
        &mut self,
        end: End,
        mark: Mark,
        message: &M,
        tensor: Option<&[u8]>,
    ) {
        let lane = self.lane(end);
        let generation = lane.generation();
        let sent = lane.send(mark, message, tensor).is_ok();
        self.flush_relayed(end);
        if !sent {
            let now = self.clock.now();
            self.machine.handle(now, HopInput::LaneLost(end, generation));
        }
    }

    /// Passes a relayed lane's frames to the client.
    fn flush_relayed(&mut self, end: End) {
        while let Some((forward, frame)) = self.lane(end).take_relayed() {
            self.tell(&ToClient::Forward(forward), Some(&frame));
        }
    }

    fn tell(&mut self, message: &ToClient, tensor: Option<&[u8]>) {
        let sealed = self.control.sealer.seal(Mark::default(), message, tensor);
        let sent = sealed.is_ok_and(|frame| self.to_client.send(frame).is_ok());
        if !sent && !self.over {
            self.machine.handle(self.clock.now(), HopInput::ClientLost);
        }
    }
}

/// The running job's result; waits for ever where none runs.
async fn wait(job: &mut Option<oneshot::Receiver<Done>>) -> Done {
    match job {
        Some(job) => job.await.unwrap_or((Err(HopFailure::Internal), 0)),
        None => std::future::pending().await,
    }
}
