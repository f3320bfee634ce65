//! The driver: performs what the pure machines decide, on real streams, clocks and executors.
//!
//! [`judge`] runs the node's one [`Peer`](taimatsu_peer::Peer); [`serving`] takes strangers'
//! openings and gives each session a task ([`hop_task`]); [`chain_run`] is a client's session on
//! hosts. [`directory`] finds who hosts what, [`blobs`] fetches what a client needs of a model,
//! [`hosting`] brings spans into memory.

pub(crate) mod blobs;
pub(crate) mod chain_run;
pub(crate) mod clock;
pub(crate) mod coverage;
pub(crate) mod directory;
pub(crate) mod hop_task;
pub(crate) mod hosting;
pub(crate) mod judge;
mod lane;
pub(crate) mod prekeys;
pub(crate) mod registry;
pub(crate) mod serving;
mod streams;
