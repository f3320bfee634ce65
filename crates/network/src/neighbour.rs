//! A connected peer, as the event loop knows it.

use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::addresses::has_name;

/// A connected peer.
#[derive(Default)]
pub(crate) struct Neighbour {
    pub(crate) links: Vec<Link>,
    /// It proved to be of this swarm.
    pub(crate) identified: bool,
    /// Where it says that it listens.
    pub(crate) claims: Vec<Multiaddr>,
}

/// One connection.
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) address: Multiaddr,
    /// This node dialled, so the address is one that leads to the peer.
    pub(crate) dialled: bool,
    pub(crate) rtt: Option<Duration>,
    pub(crate) failed_pings: u32,
}

impl Neighbour {
    /// Where it can be dialled: where it was, then where it says. Names are left out: who starts
    /// with them needs a resolver.
    pub(crate) fn dialable(&self, peer: PeerId) -> Vec<Multiaddr> {
        if !self.identified {
            return Vec::new();
        }
        let dialled = self.links.iter().filter(|link| link.dialled).map(|link| &link.address);
        let known = dialled.chain(&self.claims).filter(|address| !has_name(address));
        let mut all: Vec<Multiaddr> = Vec::new();
        for address in known.filter_map(|address| address.clone().with_p2p(peer).ok()) {
            if !all.contains(&address) && all.len() < DIALABLE {
                all.push(address);
            }
        }
        all
    }
}

/// Addresses told of a peer: one for each transport, and one to spare.
const DIALABLE: usize = 3;
