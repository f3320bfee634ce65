//! What this node says of itself.

use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::opening::Prekey;
use taimatsu_protocol::{Announcement, Moment, UnixSeconds};
use taimatsu_routing::HostTable;

use crate::hosting::Hosted;
use crate::io::{Config, Output};
use crate::policy::ANNOUNCEMENT_LIFE;

/// Makes announcements, each with a higher sequence than the last.
#[derive(Debug)]
pub(crate) struct Voice {
    config: Config,
    /// None until the node has drawn its first; nothing is announced before.
    prekey: Option<Prekey>,
    /// The next announcement's.
    sequence: u64,
}

/// The figures of the whole node at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) now: Moment,
    pub(crate) wall: UnixSeconds,
    pub(crate) sessions: usize,
    pub(crate) table: &'a HostTable,
    pub(crate) draining: bool,
}

impl Voice {
    pub(crate) const fn new(config: Config) -> Self {
        Self { config, prekey: None, sequence: config.sequence }
    }

    pub(crate) const fn set_prekey(&mut self, prekey: Prekey) {
        self.prekey = Some(prekey);
    }

    pub(crate) const fn can_speak(&self) -> bool {
        self.prekey.is_some()
    }

    /// Announces a span. That a node leaves lives as long as any announcement, because one that
    /// expires sooner would let the one before speak again from somebody's table.
    pub(crate) fn announce(&mut self, scene: &Scene<'_>, hosted: &mut Hosted) -> Option<Output> {
        let prekey = self.prekey?;
        let (what, free) = (hosted.what(), hosted.free());
        let (decode_micros, prefill_rate) = hosted.speeds();
        let announcement = Announcement {
            host: self.config.me,
            swarm: self.config.swarm,
            model: what.model,
            blocks: what.blocks,
            span: what.span,
            prekey,
            numerics: what.numerics,
            decode_micros,
            prefill_rate,
            free_positions: free,
            sessions: u32::try_from(scene.sessions).unwrap_or(u32::MAX),
            leaving: scene.draining,
            rtts: BoundedVec::truncated(scene.table.nearest()),
            sequence: self.sequence,
            expires: scene.wall.plus(ANNOUNCEMENT_LIFE),
        };
        hosted.said(scene.now, self.sequence);
        self.sequence = self.sequence.saturating_add(1);
        Some(Output::Announce(Box::new(announcement)))
    }
}
