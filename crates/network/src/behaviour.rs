//! What a node does on each connection, and the swarm that does it.

use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::{self, BucketInserts, Mode, StoreInserts};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, identify, mdns, memory_connection_limits, noise, ping,
    quic, tcp, yamux,
};
use taimatsu_protocol::SwarmId;
use tokio::sync::mpsc;

use crate::addresses::has_name;
use crate::asks::AskCodec;
use crate::config::{NetworkConfig, StartError};
use crate::event_loop::Incoming;
use crate::frames::StreamKind;
use crate::pace::Pace;
use crate::quic_second::QuicSecond;
use crate::record_store::{ProviderStore, StoreBounds};
use crate::streams::Streams;

/// The behaviours of a node. Limits stand first: what they deny, the others never see.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) memory: memory_connection_limits::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kad: kad::Behaviour<ProviderStore>,
    pub(crate) asks: request_response::Behaviour<AskCodec>,
    pub(crate) streams: Streams,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    fn new(key: &Keypair, config: &NetworkConfig, parts: Parts) -> Self {
        let Parts { incoming, pace, mdns } = parts;
        let (limits, swarm) = (&config.limits, config.swarm);
        let me = key.public().to_peer_id();
        let connections = ConnectionLimits::default()
            .with_max_pending_incoming(Some(limits.pending_incoming))
            .with_max_pending_outgoing(Some(limits.connections))
            .with_max_established(Some(limits.connections))
            .with_max_established_per_peer(Some(limits.connections_per_peer));
        let identity = identify::Config::new(swarm_version(swarm), key.public())
            .with_agent_version(AGENT.to_owned())
            .with_push_listen_addr_updates(true)
            .with_cache_size(ADDRESS_CACHE);
        let query = name(swarm, "query");
        Self {
            limits: connection_limits::Behaviour::new(connections),
            memory: memory_connection_limits::Behaviour::with_max_percentage(limits.memory_share),
            identify: identify::Behaviour::new(identity),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_TIMEOUT),
            ),
            kad: kademlia(me, config),
            asks: request_response::Behaviour::with_codec(
                AskCodec { pace: pace.clone() },
                [(query, ProtocolSupport::Full)],
                request_response::Config::default()
                    .with_request_timeout(ASK_DEADLINE)
                    .with_max_concurrent_streams(ASKS_PER_CONNECTION),
            ),
            streams: Streams::new(
                |kind| name(swarm, stream_word(kind)),
                incoming,
                pace,
                config.tap.clone(),
            ),
            mdns: mdns.into(),
        }
    }
}

/// What the behaviours are made of, beside the configuration.
struct Parts {
    incoming: mpsc::Sender<Incoming>,
    pace: Pace,
    mdns: Option<mdns::tokio::Behaviour>,
}

/// The identity that peers of one swarm show each other.
pub(crate) fn swarm_version(swarm: SwarmId) -> String {
    format!("/taimatsu/{}/1", swarm.tag())
}

/// The name under which the DHT of a swarm is spoken.
pub(crate) fn kad_name(swarm: SwarmId) -> StreamProtocol {
    name(swarm, "kad")
}

/// Builds the swarm; it does not listen yet.
pub(crate) fn build(
    key: Keypair,
    config: &NetworkConfig,
    incoming: mpsc::Sender<Incoming>,
    pace: Pace,
) -> Result<Swarm<Behaviour>, StartError> {
    let me = key.public().to_peer_id();
    let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me));
    let parts = Parts { incoming, pace, mdns: mdns.transpose().map_err(StartError::Mdns)? };
    let muxer = || {
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(STREAMS_PER_CONNECTION);
        muxer
    };
    let transports = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, muxer)?
        .with_other_transport(|key| QuicSecond(quic::tokio::Transport::new(quic::Config::new(key))))
        .unwrap_or_else(|never| match never {});
    let behaviour = |key: &Keypair| Behaviour::new(key, config, parts);
    let tune = |swarm: libp2p::swarm::Config| {
        swarm
            .with_idle_connection_timeout(IDLE_TIMEOUT)
            .with_max_negotiating_inbound_streams(NEGOTIATING_PER_CONNECTION)
    };
    // Reading the machine's resolver fails where there is none, so only names ask for it.
    let swarm = if config.bootstrap.iter().any(has_name) {
        transports
            .with_dns()
            .map_err(|error: io::Error| StartError::Dns(error))?
            .with_behaviour(behaviour)
            .unwrap_or_else(|never| match never {})
            .with_swarm_config(tune)
            .with_connection_timeout(CONNECT_TIMEOUT)
            .build()
    } else {
        transports
            .with_behaviour(behaviour)
            .unwrap_or_else(|never| match never {})
            .with_swarm_config(tune)
            .with_connection_timeout(CONNECT_TIMEOUT)
            .build()
    };
    Ok(swarm)
}

fn kademlia(me: libp2p::PeerId, config: &NetworkConfig) -> kad::Behaviour<ProviderStore> {
    let mut settings = kad::Config::new(kad_name(config.swarm));
    settings
        .disjoint_query_paths(true)
        .set_parallelism(PARALLELISM)
        .set_query_timeout(QUERY_TIMEOUT)
        .set_max_packet_size(KAD_PACKET)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_record_ttl(Some(PROVIDER_LIFE))
        // The event loop announces again itself: also at once when it meets a new peer.
        .set_provider_publication_interval(None);
    let store = ProviderStore::new(me, StoreBounds::default());
    let mut kad = kad::Behaviour::with_config(me, store, settings);
    // Not left to automatism: on loopback and in a LAN nobody confirms an external address.
    kad.set_mode(Some(if config.dht_server { Mode::Server } else { Mode::Client }));
    kad
}

fn name(swarm: SwarmId, what: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/taimatsu/{}/{what}/1", swarm.tag()))
        .expect("begins with a slash")
}

const fn stream_word(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Control => "control",
        StreamKind::Link => "link",
    }
}

const AGENT: &str = concat!("taimatsu/", env!("CARGO_PKG_VERSION"));

/// One TCP or QUIC connection with its handshakes: far peers need four round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that carries no stream is closed after this; one that does lives on.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures round trips, and notices a peer that vanished without a word.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Generous, for a machine busy with arithmetic is not dead.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// From a question to the end of its answer.
pub(crate) const ASK_DEADLINE: Duration = Duration::from_secs(20);

/// Questions of one connection at once (libp2p allows 100).
const ASKS_PER_CONNECTION: usize = 16;

/// Sessions take a control stream and two links each.
const STREAMS_PER_CONNECTION: usize = 256;

/// Substreams that have not said their protocol yet.
const NEGOTIATING_PER_CONNECTION: usize = 32;

/// Peers whose addresses are remembered.
const ADDRESS_CACHE: usize = 512;

/// Disjoint paths of a lookup, and so how many peers must lie before it fails.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

/// Shorter than a caller's deadline, so that what was found by then is still told.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);

/// Twenty providers and twenty closer peers, with all their addresses.
const KAD_PACKET: usize = 64 << 10;

/// A host that is gone is forgotten after this; the life of an announcement (design.md 8).
pub(crate) const PROVIDER_LIFE: Duration = Duration::from_secs(600);
