//! What strangers ask of this host: openings on control streams, neighbours on link streams.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use taimatsu_executor::ExecutorError;
use taimatsu_network::{FrameReader, FrameWriter, Network};
use taimatsu_peer::policy::RETRY_MS;
use taimatsu_protocol::link::LinkHello;
use taimatsu_protocol::opening::{Hello, MAX_OPENING, Opening, Refusal, Reply, VERSION};
use taimatsu_protocol::sealed::{Channel, Direction, Place, Secret};
use taimatsu_protocol::{ModelId, PeerId, Span, SwarmId, codec};
use tokio::sync::{mpsc, watch};

use super::clock::Clock;
use super::hop_task::{Arrival, HopEvent, HopTask, WAITING_EVENTS};
use super::judge::Judge;
use super::prekeys::{self, PrekeyRing};
use super::registry::Registry;
use super::streams::{FrameQueue, pump};
use crate::worker::{Seat, SeatError, Tail, Worker};

/// How long a stream's first frame may take.
const FIRST_FRAME: Duration = Duration::from_secs(5);

/// A span that this node hosts.
#[derive(Debug, Clone)]
pub(crate) struct Hosted {
    /// Of which model.
    pub(crate) model: ModelId,
    /// The thread that computes it.
    pub(crate) worker: Worker,
}

/// Everything that serving needs; cloned into each stream's task.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) me: PeerId,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) swarm: SwarmId,
    pub(crate) network: Network,
    pub(crate) clock: Clock,
    pub(crate) prekeys: PrekeyRing,
    pub(crate) registry: Registry,
    pub(crate) judge: Judge,
    pub(crate) hosted: watch::Receiver<Arc<Vec<Hosted>>>,
}

impl Serving {
    /// A control stream has come.
    pub(crate) async fn control(
        self,
        client: PeerId,
        mut reader: FrameReader,
        mut writer: FrameWriter,
    ) {
        let first = tokio::time::timeout(FIRST_FRAME, reader.read()).await;
        let Ok(Ok(Some(frame))) = first else { return };
        let Ok(hello) = codec::decode::<Hello>(&frame, MAX_OPENING + 1024) else { return };
        match self.admit(client, &hello).await {
            Ok((opening, secret, seat, hidden)) => {
                let events = mpsc::channel(WAITING_EVENTS);
                let entry = self.registry.enter(hello.session, events.0.clone());
                let nonce = crate::entropy::bytes();
                let reply = codec::encode(&Reply::Accepted { nonce });
                if writer.write(reply).await.is_ok() {
                    let place = Place::Control { hop: hello.hop };
                    let back = Direction::Back;
                    let control = Channel::new(&secret, hello.session, place, back, &nonce);
                    pump(reader, events.0.clone(), HopEvent::Control);
                    let task = HopTask {
                        network: self.network.clone(),
                        clock: self.clock,
                        session: hello.session,
                        hop: hello.hop,
                        opening,
                        hidden,
                        control,
                        to_client: FrameQueue::over(writer),
                        seat,
                        me: self.me,
                        key: self.key.clone(),
                        events,
                    };
                    task.run().await;
                }
                drop(entry);
                self.judge.session_ended(hello.session);
            }
            Err(refusal) => {
                tracing::debug!(session = %hello.session, %refusal, "refused an opening");
                let _ = writer.write(codec::encode(&Reply::Refused(refusal))).await;
                let _ = writer.close().await;
            }
        }
    }

    async fn admit(
        &self,
        client: PeerId,
        hello: &Hello,
    ) -> Result<(Opening, Secret, Seat, u32), Refusal> {
        if hello.version != VERSION {
            return Err(Refusal::Version(VERSION));
        }
        let Some(prekey) = self.prekeys.find(&hello.prekey, Clock::wall()) else {
            let announcement = self.judge.own_announcement().await;
            return Err(announcement
                .map_or(Refusal::Unreadable, |signed| Refusal::StalePrekey(Box::new(signed))));
        };
        let unreadable = |_| Refusal::Unreadable;
        let (opening, secret) = prekey.open(&self.swarm, &self.me, hello).map_err(unreadable)?;
        if !opening.is_consistent(hello.hop) {
            return Err(Refusal::Unreadable);
        }
        let accepted_until = prekeys::accepted_until(&prekey);
        let within = self.judge.admit(hello.session, hello.hop, &opening, accepted_until).await?;
        let seat = self.seat(client, &opening, within).await;
        if seat.is_err() {
            self.judge.session_ended(hello.session);
        }
        let (seat, hidden) = seat?;
        Ok((opening, secret, seat, hidden))
    }

    /// A place for the opening's part of the span `within`, and the width of its hidden states.
    async fn seat(
        &self,
        client: PeerId,
        opening: &Opening,
        within: Span,
    ) -> Result<(Seat, u32), Refusal> {
        let found = self
            .hosted
            .borrow()
            .iter()
            .find(|hosted| {
                let Hosted { model, worker } = hosted;
                *model == opening.model && worker.span() == within && worker.is_sound()
            })
            .cloned();
        let worker = found.ok_or(Refusal::UnknownModel)?.worker;
        let answer = || opening.answer.to_vec();
        let tail = opening.tail_prompt().map(|(task, prompt)| Tail {
            task: task.clone(),
            prompt: prompt.to_vec(),
            answer: answer(),
        });
        let seat = worker.open(Some(client), opening.positions, opening.span, tail).await;
        let seat = seat.map_err(|error| match error {
            SeatError::Executor(ExecutorError::NoKv { free, .. }) => Refusal::NoKv { free },
            SeatError::Executor(ExecutorError::NotHere { span, .. }) => Refusal::WrongSpan(span),
            SeatError::Executor(_) | SeatError::Unavailable => Refusal::Busy { retry_ms: RETRY_MS },
        })?;
        Ok((seat, worker.shape().hidden))
    }

    /// A neighbour's stream has come.
    pub(crate) async fn link(self, peer: PeerId, mut reader: FrameReader, writer: FrameWriter) {
        let first = tokio::time::timeout(FIRST_FRAME, reader.read()).await;
        let Ok(Ok(Some(frame))) = first else { return };
        let Ok(hello) = codec::decode::<LinkHello>(&frame, 1024) else { return };
        self.registry.deliver(Arrival { peer, hello, reader, writer }).await;
    }
}
