//! The one task that owns the swarm.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, identify, mdns, ping};
use taimatsu_protocol as protocol;
use tokio::sync::{mpsc, oneshot, watch};

use crate::addresses::{is_dialable, nearness, ours, worth_keeping};
use crate::asks::Answered;
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::discovery::{Discovery, Found};
use crate::entry::Entry;
use crate::errors::{AskError, DiscoveryError};
use crate::frames::{FrameReader, FrameWriter, StreamKind};
use crate::handle::{NetworkStatus, PeerStatus};
use crate::keys::ProviderKey;
use crate::listen::Event;
use crate::neighbour::{Link, Neighbour};
use crate::pace::Pace;
use crate::reach::{Reach, Wish};

/// What a peer began of its own accord. `peer` is who the handshake proved it to be.
#[derive(Debug)]
pub enum Incoming {
    /// The peer opened a stream.
    Stream {
        /// Who opened it.
        peer: protocol::PeerId,
        /// What for.
        kind: StreamKind,
        /// Its frames.
        reader: Box<FrameReader>,
        /// The way back.
        writer: FrameWriter,
    },
    /// The peer asks something; dropping `reply` refuses.
    Query {
        /// Who asks.
        peer: protocol::PeerId,
        /// The question, at most 4 KiB.
        bytes: Vec<u8>,
        /// Where the answer goes, at most 32 MiB.
        reply: oneshot::Sender<Vec<u8>>,
    },
}

/// What a [`Network`](crate::Network) handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Reach { peer: PeerId, wish: Wish },
    Provide { key: ProviderKey, reply: oneshot::Sender<Result<(), DiscoveryError>> },
    StopProviding { key: ProviderKey },
    Providers { key: ProviderKey, reply: oneshot::Sender<Found> },
    Addresses { reply: oneshot::Sender<Vec<Multiaddr>> },
    Status { reply: oneshot::Sender<NetworkStatus> },
    Shutdown { done: oneshot::Sender<()> },
}

/// The task's state. Parts of its behaviour stand in `reach` and `discovery`.
pub(crate) struct EventLoop {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) entry: Entry,
    pub(crate) reach: Reach,
    pub(crate) discovery: Discovery,
    pub(crate) asks: HashMap<OutboundRequestId, oneshot::Sender<Result<Vec<u8>, AskError>>>,
    pub(crate) dht_peers: watch::Sender<usize>,
    pub(crate) incoming: mpsc::Sender<Incoming>,
    pub(crate) answers: FuturesUnordered<BoxFuture<'static, Answered>>,
    commands: mpsc::Receiver<Command>,
    version: String,
    kad_name: StreamProtocol,
    pace: Pace,
    early: Vec<Event>,
    neighbours: HashMap<PeerId, Neighbour>,
}

/// What the loop is made of at the start.
pub(crate) struct Parts {
    pub(crate) swarm: Swarm<Behaviour>,
    /// What happened before the loop ran.
    pub(crate) early: Vec<Event>,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) remembered: Vec<Multiaddr>,
    pub(crate) pace: Pace,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) incoming: mpsc::Sender<Incoming>,
    pub(crate) dht_peers: watch::Sender<usize>,
    pub(crate) version: String,
    pub(crate) kad_name: StreamProtocol,
}

impl EventLoop {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let Parts { mut swarm, early, bootstrap, remembered, pace, .. } = parts;
        for address in bootstrap.iter().chain(&remembered) {
            // Whoever opens a stream to a bootstrap node need not wait for the DHT.
            if let Some(Protocol::P2p(peer)) = address.iter().last() {
                swarm.add_peer_address(peer, address.clone());
            }
        }
        Self {
            swarm,
            entry: Entry::new(&bootstrap, &remembered, now),
            reach: Reach::default(),
            discovery: Discovery::new(now),
            asks: HashMap::new(),
            dht_peers: parts.dht_peers,
            commands: parts.commands,
            incoming: parts.incoming,
            version: parts.version,
            kad_name: parts.kad_name,
            pace,
            early,
            neighbours: HashMap::new(),
            answers: FuturesUnordered::new(),
        }
    }

    /// Runs until it is told to stop, or the last handle is dropped.
    pub(crate) async fn run(mut self) {
        for event in std::mem::take(&mut self.early) {
            self.on_event(event);
        }
        let done = loop {
            let due = self.entry.next_due().into_iter().chain([self.discovery.next_due()]).min();
            let due = due.unwrap_or_else(Instant::now);
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown { done }) => break Some(done),
                    Some(command) => self.on_command(command),
                },
                Some((channel, answer)) = self.answers.next() => {
                    if let Some(answer) = answer {
                        // A peer that has left needs no answer.
                        let _ = self.swarm.behaviour_mut().asks.send_response(channel, answer);
                    }
                }
                () = tokio::time::sleep_until(due.into()) => self.on_due(Instant::now()),
            }
        };
        self.take_leave().await;
        drop(self);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Closes connections in good order, so that what was written last still arrives.
    async fn take_leave(&mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIME, closed).await;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Reach { peer, wish } => self.reach(peer, wish),
            Command::Provide { key, reply } => self.provide(key, reply),
            Command::StopProviding { key } => self.stop_providing(key),
            Command::Providers { key, reply } => self.providers(key, reply),
            Command::Addresses { reply } => drop(reply.send(self.addresses())),
            Command::Status { reply } => drop(reply.send(self.status())),
            Command::Shutdown { done } => drop(done),
        }
    }

    fn on_due(&mut self, now: Instant) {
        self.tend(now);
        while let Some((at, address)) = self.entry.due(now) {
            let options = DialOpts::from(address.clone());
            let (connection, peer) = (options.connection_id(), options.get_peer_id());
            match self.swarm.dial(options) {
                Ok(()) => self.entry.dialling(at, connection),
                Err(DialError::LocalPeerId { .. }) => self.entry.is_myself(at),
                Err(error) => {
                    tracing::debug!(%error, "a bootstrap address was not dialled");
                    // It may have dialled us first.
                    let known = peer.and_then(|peer| Some((peer, self.neighbours.get(&peer)?)));
                    let Some((peer, neighbour)) = known else {
                        self.entry.refused(at, now);
                        continue;
                    };
                    self.entry.dialling(at, connection);
                    self.entry.connected(connection, peer);
                    if neighbour.identified {
                        self.entry.identified(peer);
                    }
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::NewListenAddr { address, .. } => adopt(&mut self.swarm, address),
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed"),
            SwarmEvent::ListenerClosed { addresses, .. } => {
                tracing::warn!(?addresses, "no longer listening");
            }
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            }) => {
                self.on_identified(peer_id, connection_id, &info);
            }
            BehaviourEvent::Ping(event) => self.on_ping(&event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Asks(event) => self.on_ask(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_nearby(found),
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) | BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Limits(never)
            | BehaviourEvent::Memory(never)
            | BehaviourEvent::Streams(never) => match never {},
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let address = endpoint.get_remote_address().clone();
        let dialled = endpoint.is_dialer();
        let link = Link { id, address, dialled, rtt: None, failed_pings: 0 };
        self.neighbours.entry(peer).or_default().links.push(link);
        self.entry.connected(id, peer);
        self.reached(peer);
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, left: u32) {
        if left > 0 {
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.links.retain(|link| link.id != id);
            }
            return;
        }
        let now = Instant::now();
        self.neighbours.remove(&peer);
        self.entry.disconnected(peer, now);
        if self.neighbours.is_empty() {
            self.entry.alone(now);
        }
    }

    fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let myself = matches!(error, DialError::LocalPeerId { .. });
        self.entry.failed(id, myself, Instant::now());
        let Some(peer) = peer else { return };
        let gone = matches!(error, DialError::Transport(_) | DialError::WrongPeerId { .. });
        if gone && !self.swarm.is_connected(&peer) {
            // Else every later look-up would wait for it; if it lives, it comes back by itself.
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
            self.count_dht_peers();
        }
        self.unreached(peer, error);
    }

    fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: &identify::Info) {
        if info.protocol_version != self.version {
            tracing::debug!(%peer, theirs = %info.protocol_version, "not of this swarm");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        self.entry.identified(peer);
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.identified = true;
        let link = neighbour.links.iter().find(|link| link.id == id);
        let kept = worth_keeping(&info.listen_addrs, link.map(|link| &link.address));
        neighbour.claims.clone_from(&kept);
        let serves_dht = info.protocols.contains(&self.kad_name);
        for address in kept {
            if serves_dht {
                self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
            }
            self.swarm.add_peer_address(peer, address);
        }
    }

    fn on_ping(&mut self, event: &ping::Event) {
        let Some(neighbour) = self.neighbours.get_mut(&event.peer) else { return };
        let mut links = neighbour.links.iter_mut();
        let Some(link) = links.find(|link| link.id == event.connection) else { return };
        match &event.result {
            Ok(rtt) => (link.rtt, link.failed_pings) = (Some(*rtt), 0),
            Err(ping::Failure::Unsupported) => {}
            Err(_) => {
                link.failed_pings += 1;
                if link.failed_pings >= FAILED_PINGS {
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }

    /// Where a connected peer is seen.
    pub(crate) fn address_of(&self, peer: PeerId) -> Option<&Multiaddr> {
        self.neighbours.get(&peer)?.links.first().map(|link| &link.address)
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let me = *self.swarm.local_peer_id();
        let dialable = self.swarm.listeners().filter(|address| is_dialable(address));
        let addressed = dialable.filter_map(|address| address.clone().with_p2p(me).ok());
        let mut addresses: Vec<Multiaddr> = addressed.collect();
        addresses.sort_by_key(nearness);
        addresses
    }

    fn status(&mut self) -> NetworkStatus {
        let peers = self.neighbours.iter().filter_map(|(peer, neighbour)| {
            let links = &neighbour.links;
            Some(PeerStatus {
                peer: ours(*peer)?,
                addresses: links.iter().map(|link| link.address.clone()).collect(),
                rtt: links.iter().filter_map(|link| link.rtt).min(),
                dialable: neighbour.dialable(*peer),
            })
        });
        let mut peers: Vec<_> = peers.collect();
        peers.sort_by_key(|peer| peer.peer);
        NetworkStatus {
            peers,
            listening: self.addresses(),
            bootstrap_addresses: self.entry.len(),
            bootstrap_reached: self.entry.reached(),
            dht_peers: *self.dht_peers.borrow(),
            announced_keys: self.discovery.provided(),
            kept_records: self.swarm.behaviour_mut().kad.store_mut().len(),
            uploaded: self.pace.written(),
            upload_waits: self.pace.waits(),
        }
    }
}

/// Takes up an address that this node listens on: others learn it from our announcements.
pub(crate) fn adopt(swarm: &mut Swarm<Behaviour>, address: Multiaddr) {
    if is_dialable(&address) {
        swarm.add_external_address(address);
    }
}

/// Pings that may fail in a row before the connection counts as dead.
const FAILED_PINGS: u32 = 2;

/// How long connections may take to close in good order.
const LEAVE_TIME: Duration = Duration::from_secs(1);
