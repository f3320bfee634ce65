//! What a host says it hosts, signed; and the two questions that nodes ask each other.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{BoundedBytes, BoundedVec};
use crate::ids::{Digest, ModelId, PeerId, SwarmId};
use crate::opening::Prekey;
use crate::signed::{Record, SignedBytes};
use crate::span::Span;
use crate::time::UnixSeconds;

/// The longest life of an announcement, in seconds (design.md section 8).
pub const MAX_ANNOUNCEMENT_LIFE: u64 = 600;

/// The most blocks that a model may have. A signature makes no number sensible, and whoever shows or
/// plans a model counts its blocks.
pub const MAX_BLOCKS: u32 = 4_096;

/// The longest query, in bytes.
pub const MAX_QUERY: usize = 4096;

/// The longest answer to a query, in bytes: a tokenizer of a quarter million tokens fits.
pub const MAX_ANSWER: usize = 32 << 20;

/// The arithmetic that a host computes with. Hosts of one chain must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Numerics {
    /// The arithmetic of `docs/numerics.md`: the same bits on every CPU.
    K1,
    /// The fake executor of tests.
    Echo,
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::K1 => "k1",
            Self::Echo => "echo",
        })
    }
}

/// One span of one model on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Who hosts, and signs.
    pub host: PeerId,
    /// In which swarm this is said.
    pub swarm: SwarmId,
    /// Which model.
    pub model: ModelId,
    /// How many blocks that model has; at most [`MAX_BLOCKS`].
    pub blocks: u32,
    /// Which of them are hosted.
    pub span: Span,
    /// The host's prekey of the hour.
    pub prekey: Prekey,
    /// What it computes with.
    pub numerics: Numerics,
    /// Measured microseconds for one position in decode, over the span; 0 before the first.
    pub decode_micros: u32,
    /// Measured positions per second in prefill, over the span; 0 before the first.
    pub prefill_rate: u32,
    /// Positions of KV that are free.
    pub free_positions: u32,
    /// Sessions running now.
    pub sessions: u32,
    /// It takes no session any more: its last word.
    pub leaving: bool,
    /// Round trips to its best neighbours, in microseconds.
    pub rtts: BoundedVec<(PeerId, u32), 16>,
    /// Grows with every announcement of this host.
    pub sequence: u64,
    /// When to forget it.
    pub expires: UnixSeconds,
}

impl Announcement {
    /// Whether it is in force at `now`: not expired, and not claiming a longer life than allowed
    /// (with two minutes for clocks that differ).
    #[must_use]
    pub const fn in_force(&self, now: UnixSeconds) -> bool {
        now.0 < self.expires.0 && self.expires.0 <= now.0 + MAX_ANNOUNCEMENT_LIFE + 120
    }
}

impl Record for Announcement {
    const DOMAIN: &'static str = "taimatsu 2026 announcement 1";

    fn signer(&self) -> PeerId {
        self.host
    }
}

/// A question to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// All signed announcements you hold, of this model or of any.
    Announcements {
        /// Only this model's.
        model: Option<ModelId>,
    },
    /// The manifest, tokenizer or template of this digest.
    Blob {
        /// BLAKE3 of the blob.
        digest: Digest,
    },
    /// An announcement of the asker's own that is not to wait until it is asked for: it is leaving.
    Announce(SignedBytes),
}

/// The answer to a [`Query`]; nothing in it is believed before it is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Signed announcements; none where one was told.
    Announcements(BoundedVec<SignedBytes, 256>),
    /// The blob, if it is held.
    Blob(Option<BoundedBytes<MAX_ANSWER>>),
    /// The question was not understood.
    NotUnderstood,
}

impl Answer {
    /// A blob's answer; one that is too long counts as not held.
    #[must_use]
    pub fn blob(bytes: Option<Bytes>) -> Self {
        Self::Blob(bytes.and_then(|bytes| BoundedBytes::try_from(bytes).ok()))
    }
}
