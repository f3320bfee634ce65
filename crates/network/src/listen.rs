//! Listening, and refusing to share a port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};

use crate::addresses::is_dialable;
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::config::StartError;
use crate::event_loop::adopt;

/// Listens on every address, and returns when each has said where; with what else happened
/// meanwhile, for whoever runs the swarm from then on.
pub(crate) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[Multiaddr],
) -> Result<Vec<Event>, StartError> {
    let mut early = Vec::new();
    for address in addresses {
        probe(address)?;
    }
    let mut silent = Vec::new();
    for address in addresses {
        let id = swarm.listen_on(address.clone()).map_err(|error| match error {
            TransportError::Other(source) => failed(address, source),
            unsupported => failed(address, io::Error::other(unsupported)),
        })?;
        silent.push((id, address));
    }
    while !silent.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                adopt(swarm, address);
                silent.retain(|(id, _)| *id != listener_id);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some((_, address)) = silent.iter().find(|(id, _)| *id == listener_id) {
                    let ended = || io::Error::other("the listener closed");
                    return Err(failed(address, reason.err().unwrap_or_else(ended)));
                }
            }
            other => early.push(other),
        }
    }
    if addresses.iter().any(|address| !is_dialable(address)) {
        settle(swarm, &mut early).await;
    }
    Ok(early)
}

/// What a swarm says.
pub(crate) type Event = SwarmEvent<BehaviourEvent>;

/// The interfaces of an unspecified address are told one after the other.
async fn settle(swarm: &mut Swarm<Behaviour>, early: &mut Vec<Event>) {
    while early.len() < MAX_EARLY
        && let Ok(event) = tokio::time::timeout(SETTLE_TIME, swarm.select_next_some()).await
    {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => adopt(swarm, address),
            other => early.push(other),
        }
    }
}

/// Fails where another program listens. libp2p itself would share a TCP port with another process
/// of the same user without a word, and each would get some of the connections.
fn probe(address: &Multiaddr) -> Result<(), StartError> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    let bound = match parts.next() {
        Some(Protocol::Tcp(port)) if port > 0 => TcpListener::bind(SocketAddr::new(ip, port)).err(),
        Some(Protocol::Udp(port)) if port > 0 => UdpSocket::bind(SocketAddr::new(ip, port)).err(),
        _ => None,
    };
    bound.map_or(Ok(()), |error| Err(failed(address, error)))
}

fn failed(address: &Multiaddr, source: io::Error) -> StartError {
    let address = address.clone();
    if source.kind() == io::ErrorKind::AddrInUse {
        StartError::AddressInUse { address }
    } else {
        StartError::Listen { address, source }
    }
}

/// Events that may wait for the swarm's own task; then the interfaces that are known must do.
const MAX_EARLY: usize = 256;

/// Silence after which all interfaces have been told.
const SETTLE_TIME: Duration = Duration::from_millis(100);
