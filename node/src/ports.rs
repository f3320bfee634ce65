//! Whether a node could listen where it is to: asked before anything takes long.

use std::io::Error;
use std::net::{IpAddr, TcpListener, UdpSocket};

use taimatsu_network::Multiaddr;

use crate::failure::{Code, Failure};

/// What to do where it cannot.
pub(crate) const FREE_PORT: &str =
    "--listen /ip4/0.0.0.0/tcp/0 for a free port, or stop the other program";

/// The first address that cannot be listened on, and why.
pub(crate) fn taken(addresses: &[Multiaddr]) -> Option<(&Multiaddr, Error)> {
    addresses.iter().find_map(|address| Some((address, refused(address)?)))
}

/// Refuses a port that somebody else has: before a download, not after it.
///
/// # Errors
/// There is one.
pub(crate) fn need_free(addresses: &[Multiaddr]) -> Result<(), Failure> {
    let Some((address, error)) = taken(addresses) else { return Ok(()) };
    let what = format!("cannot listen on {address} for other nodes");
    Err(Failure::of(Code::Resources, what, &error).try_this(FREE_PORT))
}

fn refused(address: &Multiaddr) -> Option<Error> {
    let text = address.to_string();
    let mut parts = text.split('/').skip(1);
    let (_, ip) = (parts.next()?, parts.next()?.parse::<IpAddr>().ok()?);
    let (kind, port) = (parts.next()?, parts.next()?.parse::<u16>().ok()?);
    match kind {
        "tcp" => TcpListener::bind((ip, port)).err(),
        "udp" => UdpSocket::bind((ip, port)).err(),
        _ => None,
    }
}
