//! libp2p: the swarm, its streams, discovery.
//!
//! One task owns the libp2p swarm. Everybody else holds a [`Network`], a handle that sends that
//! task commands over a bounded channel and waits, with a deadline, for the reply. What peers begin
//! of their own accord arrives in one bounded queue of [`Incoming`].
//!
//! A node *announces* itself under [`ProviderKey`]s in the swarm's own Kademlia DHT and *finds*
//! others there by the same keys; it [`open`](Network::open)s persistent streams of bounded frames
//! to them, and [`ask`](Network::ask)s small rare questions. What the bytes mean is not known here:
//! frames are sealed before they come, and answers are checked after they leave.
//!
//! ```
//! use taimatsu_network::{Incoming, Limits, NetworkConfig, StreamKind, start};
//! use taimatsu_protocol::SwarmId;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let node = |secret: [u8; 32], bootstrap| NetworkConfig {
//!     secret,
//!     swarm: SwarmId::named("a club"),
//!     listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
//!     bootstrap,
//!     remembered: vec![],
//!     mdns: false,
//!     dht_server: true,
//!     limits: Limits::default(),
//!     tap: None,
//! };
//! let (host, mut incoming) = start(node([1; 32], vec![])).await?;
//! let (client, _) = start(node([2; 32], host.addresses().await)).await?;
//! client.joined().await?;
//!
//! let (_reader, mut writer) = client.open(host.peer_id(), StreamKind::Link).await?;
//! writer.write(b"sealed").await?;
//! if let Some(Incoming::Stream { peer, mut reader, .. }) = incoming.recv().await {
//!     assert_eq!(peer, client.peer_id());
//!     assert_eq!(reader.read().await?.as_deref(), Some(&b"sealed"[..]));
//! }
//! # Ok(()) })
//! # }
//! ```
//!
//! Peers of another swarm are turned away: every protocol name carries the swarm's tag.

// A floor only: yamux 0.14.1 mends a lost wake-up of streams whose halves live in two tasks.
use yamux as _;

mod addresses;
mod asks;
mod behaviour;
mod config;
mod discovery;
mod entry;
mod errors;
mod event_loop;
mod frames;
mod handle;
mod keys;
mod listen;
mod neighbour;
mod pace;
mod quic_second;
mod reach;
mod record_store;
mod streams;

pub use addresses::is_direct;
pub use config::{Limits, NetworkConfig, StartError};
pub use errors::{AskError, DiscoveryError, OpenError};
pub use event_loop::Incoming;
pub use frames::{Direction, FrameError, FrameReader, FrameTap, FrameWriter, StreamKind};
pub use handle::{Network, NetworkStatus, PeerStatus, start};
pub use keys::{GROUP, ProviderKey};
pub use libp2p::Multiaddr;
