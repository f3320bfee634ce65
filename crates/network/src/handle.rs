//! The handle that the rest of the node holds, and the start of the task behind it.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use taimatsu_protocol::PeerId;
use taimatsu_protocol::announcement::MAX_QUERY;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use zeroize::Zeroize;

use crate::addresses::{ours, theirs};
use crate::behaviour::{ASK_DEADLINE, build, kad_name, swarm_version};
use crate::config::{NetworkConfig, StartError};
use crate::errors::{AskError, DiscoveryError, OpenError};
use crate::event_loop::{Command, EventLoop, Incoming, Parts};
use crate::frames::{FrameReader, FrameWriter, StreamKind};
use crate::keys::ProviderKey;
use crate::listen::listen;
use crate::pace::Pace;
use crate::reach::Wish;
use crate::streams::Order;

/// Starts a node's network and waits until it listens. It runs until [`Network::shutdown`], or
/// until the last [`Network`] is dropped.
///
/// Must be called within a tokio runtime with IO and time enabled.
///
/// # Errors
/// See [`StartError`].
pub async fn start(
    mut config: NetworkConfig,
) -> Result<(Network, mpsc::Receiver<Incoming>), StartError> {
    let seed = zeroize::Zeroizing::new(config.secret);
    config.secret.zeroize();
    let key = Keypair::ed25519_from_bytes(*seed).expect("any 32 bytes are an ed25519 seed");
    let peer = ours(key.public().to_peer_id()).expect("the key is ed25519");
    let (incoming, arrivals) = mpsc::channel(config.limits.waiting.max(1));
    let pace = Pace::new(config.limits.upload_per_second);
    let mut swarm = build(key, &config, incoming.clone(), pace.clone())?;
    let early = listen(&mut swarm, &config.listen).await?;

    let (sender, commands) = mpsc::channel(COMMANDS);
    let (dht_peers, joined) = watch::channel(0);
    let event_loop = EventLoop::new(Parts {
        swarm,
        early,
        bootstrap: std::mem::take(&mut config.bootstrap),
        remembered: std::mem::take(&mut config.remembered),
        pace,
        commands,
        incoming,
        dht_peers,
        version: swarm_version(config.swarm),
        kad_name: kad_name(config.swarm),
    });
    tokio::spawn(event_loop.run());
    Ok((Network { peer, commands: sender, dht_peers: joined }, arrivals))
}

/// A handle to the task that owns the swarm; cloned freely.
#[derive(Clone)]
pub struct Network {
    peer: PeerId,
    commands: mpsc::Sender<Command>,
    dht_peers: watch::Receiver<usize>,
}

impl Network {
    /// This node.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// Where this node can be dialled, each with `/p2p/<id>`; an unspecified listen address shows
    /// as those of the interfaces. Empty after a shutdown.
    pub async fn addresses(&self) -> Vec<Multiaddr> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Addresses { reply }).await;
        if sent.is_ok() { answer.await.unwrap_or_default() } else { Vec::new() }
    }

    /// Waits until some node of the swarm's DHT is known, at most 10 s.
    ///
    /// # Errors
    /// [`DiscoveryError::Alone`] after that time.
    pub async fn joined(&self) -> Result<(), DiscoveryError> {
        let mut dht_peers = self.dht_peers.clone();
        match timeout(DISCOVERY_DEADLINE, dht_peers.wait_for(|count| *count > 0)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(DiscoveryError::Closed),
            Err(_) => Err(DiscoveryError::Alone),
        }
    }

    /// Announces this node under `key` until [`stop_providing`](Self::stop_providing): now, again
    /// in regular intervals, and soon after a new neighbour is met. So it is well even while
    /// nobody is known. Returns when the nodes that answer have been told.
    ///
    /// # Errors
    /// [`DiscoveryError::TooManyKeys`], and then the key is not kept. [`DiscoveryError::Busy`], or
    /// [`DiscoveryError::Late`] after 10 s: it is kept, and announced again.
    pub async fn provide(&self, key: ProviderKey) -> Result<(), DiscoveryError> {
        self.discover(|reply| Command::Provide { key, reply }).await
    }

    /// Announces this node under `key` no longer; others forget it within ten minutes.
    pub async fn stop_providing(&self, key: ProviderKey) {
        let _ = self.commands.send(Command::StopProviding { key }).await;
    }

    /// Who announces itself under `key`, except this node; at most 256, in the order of their ids.
    /// A claim, not a fact: ask them.
    ///
    /// # Errors
    /// [`DiscoveryError::Alone`] when there is nobody to ask; [`DiscoveryError::Late`] when nothing
    /// was found within 10 s.
    pub async fn providers(&self, key: ProviderKey) -> Result<Vec<PeerId>, DiscoveryError> {
        self.discover(|reply| Command::Providers { key, reply }).await
    }

    /// Asks `peer` a question of at most 4 KiB, and waits at most 20 s for its answer of at most
    /// 32 MiB. For what is small and rare; each takes a substream of its own.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, peer: PeerId, query: Vec<u8>) -> Result<Vec<u8>, AskError> {
        if query.len() > MAX_QUERY {
            return Err(AskError::TooLong { length: query.len(), limit: MAX_QUERY });
        }
        let wish = |reply| Wish::Ask { query, reply };
        self.reach(peer, ASK_DEADLINE, wish).await?
    }

    /// Opens a stream to `peer`, dialling it if need be (addresses come from the DHT and from
    /// earlier meetings); at most 10 s.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        &self,
        peer: PeerId,
        kind: StreamKind,
    ) -> Result<(FrameReader, FrameWriter), OpenError> {
        let wish = |reply| Wish::Open(Order { kind, reply });
        self.reach(peer, OPEN_DEADLINE, wish).await?
    }

    /// How the network stands; the default after a shutdown.
    pub async fn status(&self) -> NetworkStatus {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Status { reply }).await;
        if sent.is_ok() { answer.await.unwrap_or_default() } else { NetworkStatus::default() }
    }

    /// Closes all connections in good order and stops; other handles see `Closed` from then on.
    pub async fn shutdown(self) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            let _ = stopped.await;
        }
    }

    async fn reach<T>(
        &self,
        peer: PeerId,
        deadline: Duration,
        wish: impl FnOnce(oneshot::Sender<T>) -> Wish,
    ) -> Result<T, OpenError> {
        if peer == self.peer {
            return Err(OpenError::Myself);
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Reach { peer: theirs(peer), wish: wish(reply) };
        let exchange = async {
            self.commands.send(command).await.map_err(|_| OpenError::Closed)?;
            answer.await.map_err(|_| self.lost_or(OpenError::Lost, OpenError::Closed))
        };
        within(deadline, exchange).await.unwrap_or(Err(OpenError::Late))
    }

    async fn discover<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, DiscoveryError>>) -> Command,
    ) -> Result<T, DiscoveryError> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let exchange = async {
            self.commands.send(command).await.map_err(|_| DiscoveryError::Closed)?;
            answer.await.map_err(|_| DiscoveryError::Closed)?
        };
        within(DISCOVERY_DEADLINE, exchange).await.unwrap_or(Err(DiscoveryError::Late))
    }

    /// A dropped reply means that the connection went, or that all of the network did.
    fn lost_or<E>(&self, lost: E, closed: E) -> E {
        if self.commands.is_closed() { closed } else { lost }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({})", self.peer)
    }
}

/// How the network stands at one moment.
#[derive(Debug, Clone, Default)]
pub struct NetworkStatus {
    /// Who is connected, in the order of their ids.
    pub peers: Vec<PeerStatus>,
    /// Where this node can be dialled, each with `/p2p/<id>`.
    pub listening: Vec<Multiaddr>,
    /// How many bootstrap addresses it was given.
    pub bootstrap_addresses: usize,
    /// Whether one of them was ever reached, and is of this swarm.
    pub bootstrap_reached: bool,
    /// Nodes in the DHT's routing table.
    pub dht_peers: usize,
    /// Keys under which this node announces itself.
    pub announced_keys: usize,
    /// Provider records that this node keeps for others.
    pub kept_records: usize,
    /// Bytes written to streams and in answers since the start.
    pub uploaded: u64,
    /// How often something of it waited for the owner's limit.
    pub upload_waits: u64,
}

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Who, as the handshake proved.
    pub peer: PeerId,
    /// The other end of each connection.
    pub addresses: Vec<Multiaddr>,
    /// The last ping's round trip; `None` before the first.
    pub rtt: Option<Duration>,
    /// Where it can be dialled, each with `/p2p/<id>`, likeliest first; empty until it proved to
    /// be of this swarm.
    pub dialable: Vec<Multiaddr>,
}

async fn within<T>(deadline: Duration, exchange: impl Future<Output = T>) -> Option<T> {
    timeout(deadline, exchange).await.ok()
}

/// Commands that may wait; whoever sends one more waits too.
const COMMANDS: usize = 64;

/// A look-up, a dial and a negotiation.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// A little longer than one query of the DHT takes at most.
const DISCOVERY_DEADLINE: Duration = Duration::from_secs(10);
