//! Reaching a peer: over the connection there is, else by a dial, else by a look-up and a dial.

use std::collections::{BTreeMap, HashMap};

use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::addresses::{MAX_ADDRESSES, worth_keeping};
use crate::errors::{AskError, OpenError};
use crate::event_loop::EventLoop;
use crate::streams::Order;

/// What somebody wants of a peer that may have to be dialled first.
#[derive(Debug)]
pub(crate) enum Wish {
    Open(Order),
    Ask { query: Vec<u8>, reply: oneshot::Sender<Result<Vec<u8>, AskError>> },
}

impl Wish {
    fn deny(self, error: OpenError) {
        match self {
            Self::Open(order) => drop(order.reply.send(Err(error))),
            Self::Ask { reply, .. } => drop(reply.send(Err(error.into()))),
        }
    }

    /// Whoever waited no longer does: the deadline passed.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Open(order) => order.reply.is_closed(),
            Self::Ask { reply, .. } => reply.is_closed(),
        }
    }
}

/// The wishes that wait for a connection, by peer.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    waiting: HashMap<PeerId, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wishes: Vec<Wish>,
    /// The DHT was asked where the peer is; the next failure is the last.
    looked_up: bool,
}

impl EventLoop {
    /// Grants a wish at once where there is a connection, else after a dial.
    pub(crate) fn reach(&mut self, peer: PeerId, wish: Wish) {
        if self.swarm.is_connected(&peer) {
            return self.grant(peer, wish);
        }
        let waiting = &mut self.reach.waiting;
        waiting.retain(|_, waiting| {
            waiting.wishes.retain(|wish| !wish.is_abandoned());
            !waiting.wishes.is_empty()
        });
        let known = waiting.contains_key(&peer);
        if !known && waiting.len() >= MAX_PEERS {
            return wish.deny(OpenError::Busy);
        }
        let wishes = &mut waiting.entry(peer).or_default().wishes;
        if wishes.len() >= MAX_WISHES {
            return wish.deny(OpenError::Busy);
        }
        wishes.push(wish);
        if !known {
            self.dial(peer, Vec::new());
        }
    }

    /// Nodes of the local network told where they are. Of other swarms some may be: they are
    /// dialled and, once they have said so, left.
    pub(crate) fn on_nearby(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut nearby: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for (peer, address) in found {
            // Multicast comes from this very network: so may an address on it.
            if nearby.len() < MAX_NEARBY || nearby.contains_key(&peer) {
                nearby.entry(peer).or_default().push(address);
            }
        }
        for (peer, addresses) in nearby {
            let addresses = worth_keeping(&addresses, None);
            if peer != *self.swarm.local_peer_id() && !addresses.is_empty() {
                tracing::debug!(%peer, "found nearby");
                self.dial(peer, addresses);
            }
        }
    }

    /// A connection to the peer exists now.
    pub(crate) fn reached(&mut self, peer: PeerId) {
        let waiting = self.reach.waiting.remove(&peer);
        for wish in waiting.into_iter().flat_map(|waiting| waiting.wishes) {
            self.grant(peer, wish);
        }
    }

    /// A dial of the peer failed.
    pub(crate) fn unreached(&mut self, peer: PeerId, error: &DialError) {
        let Some(waiting) = self.reach.waiting.get_mut(&peer) else { return };
        if waiting.looked_up || !self.discovery.may_ask() {
            let cause = describe(error);
            let waiting = self.reach.waiting.remove(&peer);
            for wish in waiting.into_iter().flat_map(|waiting| waiting.wishes) {
                wish.deny(OpenError::Unreachable { cause: cause.clone() });
            }
        } else {
            waiting.looked_up = true;
            self.look_up(peer);
        }
    }

    /// The DHT said where the peer is, or knew nothing.
    pub(crate) fn looked_up(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) {
        if self.reach.waiting.contains_key(&peer) {
            addresses.truncate(MAX_ADDRESSES);
            self.dial(peer, addresses);
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            // A dial under way, of ours or Kademlia's, ends in an event as well.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.unreached(peer, &error),
        }
    }

    fn grant(&mut self, peer: PeerId, wish: Wish) {
        match wish {
            Wish::Open(order) => self.swarm.behaviour_mut().streams.open(peer, order),
            Wish::Ask { query, reply } => {
                self.asks.retain(|_, reply| !reply.is_closed());
                if self.asks.len() >= MAX_ASKS {
                    drop(reply.send(Err(OpenError::Busy.into())));
                } else {
                    let id = self.swarm.behaviour_mut().asks.send_request(&peer, query);
                    self.asks.insert(id, reply);
                }
            }
        }
    }
}

/// The cause in one line; libp2p's own has a line per address.
fn describe(error: &DialError) -> String {
    match error {
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::WrongPeerId { address, .. } => format!("another peer answers at {address}"),
        DialError::Transport(attempts) => match attempts.as_slice() {
            [] => "no address could be dialled".to_owned(),
            [(address, _)] => format!("nothing answers at {address}"),
            [(address, _), rest @ ..] => {
                format!("nothing answers at {address} and {} more addresses", rest.len())
            }
        },
        other => other.to_string(),
    }
}

/// Nodes of the local network that are dialled for one round of news.
const MAX_NEARBY: usize = 32;

/// Peers that may be dialled for somebody at once.
const MAX_PEERS: usize = 128;

/// Wishes that may wait for one peer.
const MAX_WISHES: usize = 64;

/// Questions that may wait for their answers.
const MAX_ASKS: usize = 256;
