//! A node's whole judgement: [`Input`] in, [`Output`] out.
//!
//! A [`Peer`] decides what a node says of itself, which hosts an inference runs on, and whom it
//! serves. It is told what happened (an announcement came, somebody asks, the executor has this
//! much room) and says what to do (publish this, look that up, open this chain, refuse that). The
//! node performs it; the simulator performs the same on links of its own.
//!
//! After every [`Peer::handle`] the caller takes outputs with [`Peer::poll_output`] until there
//! are none, then sleeps until the next input or [`Peer::poll_timeout`], whichever is first, and
//! reports the latter by [`Peer::handle_timeout`]. Time is an argument. A running inference does
//! not pass through here: each has its own machine ([`session`]), made from a
//! [`routing::Chain`] or an admitted opening.
//!
//! ```
//! use taimatsu_peer::routing::{PlanError, Wish};
//! use taimatsu_peer::{Ask, Config, Input, Output, Peer, RouteError};
//! use taimatsu_protocol::{ModelId, Moment, PeerId, SwarmId, UnixSeconds};
//!
//! let mut peer = Peer::new(Config {
//!     me: PeerId::from_public_key([1; 32]),
//!     swarm: SwarmId::public(),
//!     sequence: 1_000_000,
//!     max_sessions: 4,
//!     seed: 7,
//! });
//! let (now, wall) = (Moment::default(), UnixSeconds(1_000));
//! let model = ModelId::of(b"manifest");
//! // Nobody is known: it looks before it gives up.
//! let ask = Ask { id: 1, model, blocks: 30, wish: Wish::Any, positions: 256 };
//! peer.handle(now, wall, Input::Ask(ask));
//! assert!(matches!(peer.poll_output(), Some(Output::Lookup { .. })));
//! assert!(peer.poll_output().is_none());
//! peer.handle(now, wall, Input::LookupDone { model });
//! let missing = vec![[0, 29]];
//! let error = RouteError::Plan(PlanError::Uncovered { missing });
//! assert_eq!(peer.poll_output(), Some(Output::Unroutable { id: 1, error }));
//! ```

pub use taimatsu_routing as routing;
pub use taimatsu_session as session;

mod admission;
mod asks;
mod hosting;
mod io;
pub mod pace;
mod peer;
pub mod policy;
pub mod retry;
mod voice;

pub use io::{
    Ask, Config, Hosting, Ignored, Input, Load, Observed, OpeningSummary, Output, RouteError,
};
pub use peer::Peer;
