//! What nodes say to each other, and nothing else: ids, signed records, sealed frames, codec.
//!
//! A message exists here in three shapes, one inside the other. A *control message* is a small
//! struct that [`codec`] turns into bytes (the only file that names the serialiser). A *sealed
//! frame* ([`sealed`]) is such bytes, and perhaps a raw tensor behind them, encrypted for one
//! reader under a key of its own per link, direction and generation. A *signed record*
//! ([`signed`]) is bytes with an ed25519 signature over exactly those bytes.
//!
//! Nothing here does IO, waits, reads a clock or draws entropy: time and randomness are arguments.
//!
//! ```
//! use taimatsu_protocol::{Span, ids::ModelId};
//! let id = ModelId::of(b"canonical manifest bytes");
//! assert_eq!(id, id.to_string().parse().expect("its own form"));
//! let span: Span = Span::parse_inclusive("0-9", 30).expect("a span of the model");
//! assert!(span.embed && !span.head && span.blocks() == (0..10));
//! ```
//!
//! The prose form of all of it, with the session's transition table, is `docs/protocol.md`.

pub mod announcement;
pub mod codec;
pub mod control;
pub mod ids;
pub mod link;
pub mod opening;
pub mod receipt;
pub mod sampling;
pub mod sealed;
pub mod signed;
pub mod span;
pub mod time;

pub use announcement::{Announcement, Numerics};
pub use ids::{Digest, ModelId, PeerId, SessionId, SwarmId};
pub use sampling::Sampling;
pub use span::Span;
pub use time::{Moment, UnixSeconds};
