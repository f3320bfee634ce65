//! The DHT: announcing under keys, finding by keys, and finding a peer's addresses.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::kad::{
    self, GetClosestPeersError, GetProvidersError, GetProvidersOk, InboundRequest, ProgressStep,
    ProviderRecord, QueryId, QueryResult,
};
use libp2p::swarm::{ConnectionId, NetworkBehaviour};
use libp2p::{Multiaddr, PeerId};
use taimatsu_protocol as protocol;
use tokio::sync::oneshot;

use crate::addresses::{ours, worth_keeping};
use crate::errors::DiscoveryError;
use crate::event_loop::EventLoop;
use crate::keys::ProviderKey;
use crate::record_store::MAX_PROVIDED;

/// Who waits for which query, and what this node announces.
#[derive(Debug)]
pub(crate) struct Discovery {
    queries: HashMap<QueryId, Query>,
    provided: BTreeSet<ProviderKey>,
    announced: Option<Instant>,
    announce_at: Instant,
    expire_at: Instant,
}

#[derive(Debug)]
enum Query {
    Provide { reply: oneshot::Sender<Result<(), DiscoveryError>> },
    Providers { found: BTreeSet<protocol::PeerId>, reply: oneshot::Sender<Found> },
    Address { peer: PeerId },
}

pub(crate) type Found = Result<Vec<protocol::PeerId>, DiscoveryError>;

impl Discovery {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            queries: HashMap::new(),
            provided: BTreeSet::new(),
            announced: None,
            announce_at: now + ANNOUNCE_EVERY,
            expire_at: now + EXPIRE_EVERY,
        }
    }

    /// Whether one more query may run.
    pub(crate) fn may_ask(&self) -> bool {
        self.queries.len() < MAX_QUERIES
    }

    /// When [`EventLoop::tend`] has something to do.
    pub(crate) fn next_due(&self) -> Instant {
        self.announce_at.min(self.expire_at)
    }

    /// How many keys are announced.
    pub(crate) fn provided(&self) -> usize {
        self.provided.len()
    }
}

impl EventLoop {
    pub(crate) fn provide(
        &mut self,
        key: ProviderKey,
        reply: oneshot::Sender<Result<(), DiscoveryError>>,
    ) {
        let known = self.discovery.provided.contains(&key);
        if !known && self.discovery.provided.len() >= MAX_PROVIDED {
            let _ = reply.send(Err(DiscoveryError::TooManyKeys { limit: MAX_PROVIDED }));
            return;
        }
        if !self.discovery.may_ask() {
            self.discovery.provided.insert(key);
            let later = Instant::now() + ANNOUNCE_PAUSE;
            self.discovery.announce_at = self.discovery.announce_at.min(later);
            let _ = reply.send(Err(DiscoveryError::Busy));
            return;
        }
        match self.swarm.behaviour_mut().kad.start_providing(key.record_key()) {
            Ok(id) => {
                self.discovery.provided.insert(key);
                self.discovery.queries.insert(id, Query::Provide { reply });
            }
            Err(_) => {
                let _ = reply.send(Err(DiscoveryError::TooManyKeys { limit: MAX_PROVIDED }));
            }
        }
    }

    pub(crate) fn stop_providing(&mut self, key: ProviderKey) {
        self.discovery.provided.remove(&key);
        self.swarm.behaviour_mut().kad.stop_providing(&key.record_key());
    }

    pub(crate) fn providers(&mut self, key: ProviderKey, reply: oneshot::Sender<Found>) {
        if !self.discovery.may_ask() {
            return drop(reply.send(Err(DiscoveryError::Busy)));
        }
        let id = self.swarm.behaviour_mut().kad.get_providers(key.record_key());
        let found = BTreeSet::new();
        self.discovery.queries.insert(id, Query::Providers { found, reply });
    }

    /// Asks the DHT for a peer's addresses; the caller checked that one more query may run.
    pub(crate) fn look_up(&mut self, peer: PeerId) {
        let id = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
        self.discovery.queries.insert(id, Query::Address { peer });
    }

    /// Announces again and forgets what has expired, where it is time.
    pub(crate) fn tend(&mut self, now: Instant) {
        let discovery = &mut self.discovery;
        let kad = &mut self.swarm.behaviour_mut().kad;
        if discovery.expire_at <= now {
            discovery.expire_at = now + EXPIRE_EVERY;
            kad.store_mut().expire(now);
        }
        if discovery.announce_at <= now {
            discovery.announced = Some(now);
            discovery.announce_at = now + ANNOUNCE_EVERY;
            for key in &discovery.provided {
                // The store has room for as many keys as are kept; nobody waits for the query.
                let _ = kad.start_providing(key.record_key());
            }
        }
    }

    pub(crate) fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            } => self.store(record),
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_progress(id, result, &step);
            }
            kad::Event::RoutingUpdated { is_new_peer, .. } => {
                self.count_dht_peers();
                if is_new_peer {
                    self.announce_soon(Instant::now());
                }
            }
            _ => {}
        }
    }

    /// The routing table grew or shrank. With nobody left in it, the bootstrap addresses are
    /// dialled again.
    pub(crate) fn count_dht_peers(&mut self) {
        let buckets = self.swarm.behaviour_mut().kad.kbuckets();
        let count = buckets.map(|bucket| bucket.num_entries()).sum();
        self.dht_peers.send_if_modified(|known| std::mem::replace(known, count) != count);
        if count == 0 {
            self.entry.alone(Instant::now());
        }
    }

    /// A new neighbour shall know what this node provides: in a young swarm, before the first of
    /// the regular announcements. A stampede of newcomers does not become one of announcements.
    fn announce_soon(&mut self, now: Instant) {
        let rested = self.discovery.announced.map_or(now, |last| last + ANNOUNCE_PAUSE);
        let soon = rested.max(now);
        self.discovery.announce_at = self.discovery.announce_at.min(soon);
    }

    fn store(&mut self, mut record: ProviderRecord) {
        let seen_at = self.address_of(record.provider);
        record.addresses = worth_keeping(&record.addresses, seen_at);
        if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().add(record, Instant::now()) {
            tracing::debug!(%error, "a provider record was refused");
        }
    }

    fn on_progress(&mut self, id: QueryId, result: QueryResult, step: &ProgressStep) {
        if let QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) =
            &result
        {
            self.on_found(id, providers.iter().copied());
        }
        if !step.last {
            return;
        }
        match (self.discovery.queries.remove(&id), result) {
            (Some(Query::Provide { reply }), _) => {
                let _ = reply.send(Ok(()));
            }
            (Some(Query::Providers { found, reply }), result) => {
                let late = matches!(
                    result,
                    QueryResult::GetProviders(Err(GetProvidersError::Timeout { .. }))
                );
                let alone = *self.dht_peers.borrow() == 0;
                drop(reply.send(match (found.is_empty(), alone, late) {
                    (true, true, _) => Err(DiscoveryError::Alone),
                    (true, _, true) => Err(DiscoveryError::Late),
                    _ => Ok(found.into_iter().collect()),
                }));
            }
            (Some(Query::Address { peer }), QueryResult::GetClosestPeers(result)) => {
                let peers = match result {
                    Ok(ok) => ok.peers,
                    Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let found = peers.into_iter().filter(|info| info.peer_id == peer);
                self.looked_up(peer, found.flat_map(|info| info.addrs).collect());
            }
            _ => {}
        }
    }

    fn on_found(&mut self, id: QueryId, providers: impl Iterator<Item = PeerId>) {
        let me = *self.swarm.local_peer_id();
        for peer in providers.filter(|peer| *peer != me) {
            for address in self.addresses_in_queries(peer) {
                self.swarm.add_peer_address(peer, address);
            }
            let Some(Query::Providers { found, .. }) = self.discovery.queries.get_mut(&id) else {
                continue;
            };
            if found.len() < MAX_FOUND {
                found.extend(ours(peer));
            }
        }
    }

    /// The addresses that came with a provider's record. Kademlia tells them to nobody but a dial
    /// that happens while the query runs, so this asks in a dial's place.
    fn addresses_in_queries(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let no_dial = ConnectionId::new_unchecked(usize::MAX);
        let addresses =
            kad.handle_pending_outbound_connection(no_dial, Some(peer), &[], Endpoint::Dialer);
        // Loopback too: the provider may share a machine with whoever keeps its record and us.
        let near = "/ip4/127.0.0.1".parse().ok();
        worth_keeping(&addresses.unwrap_or_default(), near.as_ref())
    }
}

/// Three announcements may be lost before a record expires.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(150);

/// At least this between two rounds of announcements.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(5);

/// How often expired records are swept out (they are never told, swept or not).
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// Queries that somebody waits for, at once.
const MAX_QUERIES: usize = 128;

/// Providers that one query gathers.
const MAX_FOUND: usize = 256;
