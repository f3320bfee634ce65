//! Addresses: of peers between libp2p's ids and ours, and which are worth telling or trying.

use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use taimatsu_protocol::PeerId;

/// Our id of a peer; `None` where its key is not ed25519, and it is none of ours.
pub(crate) fn ours(peer: libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_multihash(&peer.to_bytes())
}

/// libp2p's id of a peer.
pub(crate) fn theirs(peer: PeerId) -> libp2p::PeerId {
    libp2p::PeerId::from_bytes(&peer.to_multihash())
        .expect("an identity multihash of 36 bytes is a peer id")
}

/// Whether others can dial it as it stands.
pub(crate) fn is_dialable(address: &Multiaddr) -> bool {
    ip(address).is_none_or(|ip| !ip.is_unspecified())
}

/// Whether nobody stands between: the address leads to the peer, and not to one that relays.
#[must_use]
pub fn is_direct(address: &Multiaddr) -> bool {
    !address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// The order in which a node tells its own: from beyond this machine first, and TCP, which more
/// networks let through, before QUIC.
pub(crate) fn nearness(address: &Multiaddr) -> (bool, bool) {
    (is_loopback(address), address.iter().any(|part| matches!(part, Protocol::QuicV1)))
}

/// Whether a name stands in it.
pub(crate) fn has_name(address: &Multiaddr) -> bool {
    address.iter().any(|part| {
        use Protocol::{Dns, Dns4, Dns6, Dnsaddr};
        matches!(part, Dns(_) | Dns4(_) | Dns6(_) | Dnsaddr(_))
    })
}

/// Of what a peer claims, the addresses worth keeping: bounded, dialable, and loopback only from
/// a peer that came over loopback (elsewhere it would be an address of our own).
pub(crate) fn worth_keeping(claimed: &[Multiaddr], seen_at: Option<&Multiaddr>) -> Vec<Multiaddr> {
    let near = seen_at.is_some_and(is_loopback);
    claimed
        .iter()
        .filter(|address| address.len() <= MAX_ADDRESS)
        .filter(|address| is_dialable(address) && (near || !is_loopback(address)))
        .take(MAX_ADDRESSES)
        .cloned()
        .collect()
}

fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Addresses kept of one peer: two transports on a handful of interfaces.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Bytes of one address; a name of 60 letters fits.
const MAX_ADDRESS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn ids_agree() {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([9; 32]).unwrap();
        let peer = key.public().to_peer_id();
        let ours = ours(peer).unwrap();
        assert_eq!(ours.to_string(), peer.to_string());
        assert_eq!(theirs(ours), peer);
    }

    #[test]
    fn what_others_can_dial_comes_first() {
        let wanted = [
            "/ip4/10.0.0.1/tcp/1",
            "/ip4/10.0.0.1/udp/1/quic-v1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
        ]
        .map(address);
        let mut told = [3, 1, 2, 0].map(|at: usize| wanted[at].clone());
        told.sort_by_key(nearness);
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_far_peer_cannot_give_us_our_own_loopback() {
        let claimed = ["/ip4/127.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1", "/ip4/10.0.0.1/tcp/1"];
        let claimed = claimed.map(address);
        let far = worth_keeping(&claimed, Some(&address("/ip4/10.0.0.1/tcp/2")));
        assert_eq!(far, [address("/ip4/10.0.0.1/tcp/1")]);
        assert_eq!(worth_keeping(&claimed, None), far);
        let near = worth_keeping(&claimed, Some(&address("/ip4/127.0.0.1/tcp/2")));
        assert_eq!(near.len(), 2);
        let many = vec![address("/ip4/10.0.0.1/tcp/1"); 100];
        assert_eq!(worth_keeping(&many, None).len(), MAX_ADDRESSES);
    }
}
