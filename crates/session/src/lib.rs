//! One inference across hops, as two pure machines.
//!
//! [`Hop`] is a host's part of a session: it takes positions from upstream, has them computed, and
//! passes them on; as the leader it begins with the prompt, as the tail it releases tokens within
//! the client's credit. [`Origin`] is the client's part: it opens, grants, listens, and ends the
//! answer exactly once. Their tables are docs/protocol.md section 4.
//!
//! Both have one shape. After every [`Hop::handle`] the caller takes outputs with
//! [`Hop::poll_output`] until there are none, then sleeps until the next input or
//! [`Hop::poll_timeout`], whichever is first, and reports the latter by [`Hop::handle_timeout`].
//! Time is an argument; nothing here waits, sends, computes or draws randomness. Tensors pass
//! through as shared `Bytes` and are never copied.
//!
//! ```
//! use taimatsu_protocol::Moment;
//! use taimatsu_session::{Hop, HopConfig, HopOutput, TailConfig};
//! // A whole-model host, alone in its ring, prefills at once.
//! let config = HopConfig {
//!     hop: 0, hidden: 4, prompt_len: 3, positions: 16,
//!     prompt: vec![5, 6, 7], answer: Vec::new(), lanes: None,
//!     tail: Some(TailConfig::Generate { credit: 8, end_ids: vec![2] }),
//!     receipts: None,
//! };
//! let mut hop = Hop::new(Moment::default(), config);
//! assert!(matches!(hop.poll_output(), Some(HopOutput::Execute(job)) if job.start == 0));
//! ```

pub mod hop;
pub mod origin;
pub mod policy;
mod tail;

pub use hop::{
    End, Executed, Hop, HopConfig, HopInput, HopOutput, Job, JobInput, LaneTerms, Lanes, Want,
};
pub use origin::{
    Failure, Finish, LaneEnd, Newcomer, Origin, OriginConfig, OriginInput, OriginOutput,
};
pub use tail::{ReceiptTerms, TailConfig};
