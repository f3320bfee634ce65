//! Swarms in virtual time: many nodes, one seed, links that misbehave.
//!
//! The world drives the very machines that ship: every node has a [`taimatsu_peer::Peer`], every
//! served session a `session::Hop`, every answer a `session::Origin`, each told what the node's
//! driver would tell it. Made up are time, links, the directory's records and how long a host
//! computes; left out is sealing. The executor is the echo, which knows what the right answer is.
//!
//! A run is a [`Scenario`] and a seed. What must hold in all of them is in `invariants`; what a
//! scenario promises besides, it judges itself.

mod asking;
mod campaign;
mod directory;
mod events;
mod hand;
mod hop;
mod invariants;
mod links;
mod luck;
mod neighbours;
mod node;
mod openings;
mod relayed;
mod run;
pub mod scenarios;
mod serving;
mod streams;
mod trace;
mod worker;
mod world;

pub use asking::{Asking, Outcome, Question, Reader};
pub use campaign::{Report, campaign, play, replay_command};
pub use events::{Action, Model};
pub use links::{Links, Weather};
pub use luck::Luck;
pub use node::Node;
pub use scenarios::{SCENARIOS, Scenario};
pub use trace::Trace;
pub use worker::Speed;
pub use world::{AskId, NodeId, World};
