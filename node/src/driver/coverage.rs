//! Who hosts what of a model, as a node shows it.

use taimatsu_protocol::{Announcement, ModelId, PeerId, Span, UnixSeconds};

/// What is known of one model in the swarm, this node's own spans included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// Which model.
    pub(crate) model: ModelId,
    /// Its number of blocks, as most of its hosts say.
    pub(crate) blocks: u32,
    /// Who hosts what of it.
    pub(crate) spans: Vec<SpanState>,
    /// Blocks that another node than this one must host for an answer, and none does (inclusive).
    pub(crate) missing: Vec<[u32; 2]>,
}

/// A span somewhere in the swarm, as its host announces it. Of a span of this node only the place
/// is known here; its figures are the worker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpanState {
    pub(crate) host: PeerId,
    pub(crate) span: Span,
    /// Microseconds for one position in decode; 0 where it has not computed yet.
    pub(crate) decode_micros: u32,
    /// Positions per second in prefill; 0 where it has not computed yet.
    pub(crate) prefill_rate: u32,
    pub(crate) sessions: u32,
    pub(crate) free_positions: u32,
    /// When the announcement ends; none for a span of this node.
    pub(crate) expires: Option<UnixSeconds>,
    /// It failed or refused of late, and is passed over for a while.
    pub(crate) suspended: bool,
}

impl SpanState {
    pub(super) const fn announced(said: &Announcement, suspended: bool) -> Self {
        Self {
            host: said.host,
            span: said.span,
            decode_micros: said.decode_micros,
            prefill_rate: said.prefill_rate,
            sessions: said.sessions,
            free_positions: said.free_positions,
            expires: Some(said.expires),
            suspended,
        }
    }

    pub(super) const fn own(me: PeerId, span: Span) -> Self {
        Self {
            host: me,
            span,
            decode_micros: 0,
            prefill_rate: 0,
            sessions: 0,
            free_positions: 0,
            expires: None,
            suspended: false,
        }
    }
}
