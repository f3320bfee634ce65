//! What the client knows of a hop, and of the lane that leads from it.

use taimatsu_protocol::Moment;
use taimatsu_protocol::control::HopStats;
use taimatsu_protocol::signed::SignedBytes;

/// What the client knows of a hop.
#[derive(Debug, Clone)]
pub(super) struct HopView {
    pub(super) accepted: bool,
    pub(super) closed: bool,
    /// It said so itself, and with it everything that it had to say.
    pub(super) said_goodbye: bool,
    /// Lost, or let go: nothing is heard of it any more.
    pub(super) gone: bool,
    /// Its host takes nobody new.
    pub(super) leaving: bool,
    /// It took a lost one's place.
    pub(super) newcomer: bool,
    pub(super) asked_at: Moment,
    pub(super) heard_at: Moment,
    pub(super) received: u32,
    pub(super) kv_len: u32,
    pub(super) stats: HopStats,
    /// The credit that it knows of, at the tail.
    pub(super) credit: u32,
    /// In the order of positions.
    pub(super) receipts: Vec<SignedBytes>,
    /// The lane that leads from it.
    pub(super) lane: LaneView,
}

/// What the client knows of a lane. Without meaning where a hop is alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneView {
    /// The number of the hop that it leads to.
    pub(super) to: u8,
    pub(super) generation: u32,
    pub(super) relayed: bool,
    /// Its receiver's opening speaks of this connection.
    pub(super) fresh: bool,
    pub(super) up_at_source: bool,
    pub(super) up_at_target: bool,
    pub(super) made_at: Moment,
    /// It stood, and an end has lost it.
    pub(super) failed_at: Option<Moment>,
    /// The generations that its ends were told.
    pub(super) told: Ends<u32>,
}

/// One for each end of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends<T> {
    pub(super) source: T,
    pub(super) target: T,
}

impl HopView {
    pub(super) fn new(now: Moment, newcomer: bool) -> Self {
        Self {
            accepted: false,
            closed: false,
            said_goodbye: false,
            gone: false,
            leaving: false,
            newcomer,
            asked_at: now,
            heard_at: now,
            received: 0,
            kv_len: 0,
            stats: HopStats::default(),
            credit: 0,
            receipts: Vec::new(),
            lane: LaneView::new(now, 0, 0, false),
        }
    }

    /// It has accepted, and is not lost.
    pub(super) const fn is_here(&self) -> bool {
        self.accepted && !self.gone
    }
}

impl LaneView {
    pub(super) const fn new(now: Moment, to: u8, generation: u32, fresh: bool) -> Self {
        Self {
            to,
            generation,
            relayed: false,
            fresh,
            up_at_source: false,
            up_at_target: false,
            made_at: now,
            failed_at: None,
            told: Ends { source: 0, target: 0 },
        }
    }

    pub(super) const fn stands(&self) -> bool {
        self.up_at_source && self.up_at_target
    }
}
