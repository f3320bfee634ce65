//! What this node hosts, and when it says so.

use std::collections::BTreeMap;

use taimatsu_protocol::opening::Refusal;
use taimatsu_protocol::signed::Verified;
use taimatsu_protocol::{Announcement, ModelId, Moment, Span};

use crate::io::{Hosting, Load};
use crate::policy::{ANNOUNCE_EVERY, LOAD_COALESCE, MAX_HOSTED};

/// The spans that this node hosts, by model and span.
#[derive(Debug, Default)]
pub(crate) struct HostedSpans(BTreeMap<(ModelId, Span), Hosted>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Hosted {
    what: Hosting,
    /// Positions free: as last measured, less what was admitted since.
    free: u32,
    decode_micros: u32,
    prefill_rate: u32,
    change: Change,
    /// When it was announced last, and with which sequence.
    said: Option<(Moment, u64)>,
    signed: Option<Verified<Announcement>>,
}

/// What has changed since it was last announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Nothing,
    /// Figures: they are gathered for a while.
    Load,
    /// Something that askers would trip over.
    Terms,
}

impl HostedSpans {
    /// Adds a span, or changes its terms; false if there is no room.
    pub(crate) fn host(&mut self, what: Hosting) -> bool {
        let key = (what.model, what.span);
        if let Some(hosted) = self.0.get_mut(&key) {
            (hosted.what, hosted.free) = (what, what.free_positions);
            hosted.change = Change::Terms;
            return true;
        }
        if self.0.len() >= MAX_HOSTED {
            return false;
        }
        let hosted = Hosted {
            what,
            free: what.free_positions,
            decode_micros: 0,
            prefill_rate: 0,
            change: Change::Terms,
            said: None,
            signed: None,
        };
        self.0.insert(key, hosted);
        true
    }

    pub(crate) fn unhost(&mut self, model: ModelId, span: Span) -> Option<Hosted> {
        self.0.remove(&(model, span))
    }

    pub(crate) fn load(&mut self, load: &Load) {
        let Some(hosted) = self.0.get_mut(&(load.model, load.span)) else { return };
        let now = (load.free_positions, load.decode_micros, load.prefill_rate);
        if now != (hosted.free, hosted.decode_micros, hosted.prefill_rate) {
            (hosted.free, hosted.decode_micros, hosted.prefill_rate) = now;
            hosted.change = hosted.change.max(Change::Load);
        }
    }

    /// The span that serves this part of a model: the one that is exactly it, else one around it.
    pub(crate) fn serving(&mut self, model: ModelId, span: Span) -> Result<&mut Hosted, Refusal> {
        let of_model = || self.0.keys().filter(|(hosted, _)| *hosted == model);
        let first = of_model().next().ok_or(Refusal::UnknownModel)?.1;
        let exact = of_model().find(|(_, hosted)| *hosted == span);
        let around = || of_model().find(|(_, hosted)| hosted.contains(&span));
        let key = exact.or_else(around).copied().ok_or(Refusal::WrongSpan(first))?;
        Ok(self.0.get_mut(&key).expect("its key was just found"))
    }

    pub(crate) fn find(&mut self, model: ModelId, span: Span) -> Option<&mut Hosted> {
        self.0.get_mut(&(model, span))
    }

    /// All must be announced anew at once: a new prekey, or the last word.
    pub(crate) fn terms_changed(&mut self) {
        for hosted in self.0.values_mut() {
            hosted.change = Change::Terms;
        }
    }

    /// How many sessions run has changed.
    pub(crate) fn load_changed(&mut self) {
        for hosted in self.0.values_mut() {
            hosted.change = hosted.change.max(Change::Load);
        }
    }

    /// When the next announcement is due.
    pub(crate) fn due(&self, draining: bool) -> Option<Moment> {
        self.0.values().filter_map(|hosted| hosted.due(draining)).min()
    }

    pub(crate) fn due_by(
        &mut self,
        now: Moment,
        draining: bool,
    ) -> impl Iterator<Item = &mut Hosted> {
        let due = move |hosted: &Hosted| hosted.due(draining).is_some_and(|due| due <= now);
        self.0.values_mut().filter(move |hosted| due(hosted))
    }

    /// Keeps the signed form of what was announced last; false if it is something else.
    pub(crate) fn signed(&mut self, verified: Verified<Announcement>) -> bool {
        let record = verified.record();
        let sequence = record.sequence;
        match self.0.get_mut(&(record.model, record.span)) {
            Some(hosted) if hosted.said.is_some_and(|(_, said)| said == sequence) => {
                hosted.signed = Some(verified);
                true
            }
            Some(_) | None => false,
        }
    }

    pub(crate) fn announcements(&self) -> impl Iterator<Item = &Verified<Announcement>> {
        self.0.values().filter_map(|hosted| hosted.signed.as_ref())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Hosting> {
        self.0.values().map(|hosted| &hosted.what)
    }
}

impl Hosted {
    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    pub(crate) const fn reserve(&mut self, positions: u32) {
        self.free = self.free.saturating_sub(positions);
    }

    pub(crate) fn give_back(&mut self, positions: u32) {
        self.free = self.free.saturating_add(positions).min(self.what.free_positions);
    }

    pub(crate) const fn was_announced(&self) -> bool {
        self.said.is_some()
    }

    pub(crate) const fn what(&self) -> &Hosting {
        &self.what
    }

    /// Microseconds per position in decode, positions per second in prefill.
    pub(crate) const fn speeds(&self) -> (u32, u32) {
        (self.decode_micros, self.prefill_rate)
    }

    /// Notes that it is announced now.
    pub(crate) const fn said(&mut self, now: Moment, sequence: u64) {
        self.said = Some((now, sequence));
        self.change = Change::Nothing;
    }

    /// A node that drains has its last word, and is silent then.
    fn due(&self, draining: bool) -> Option<Moment> {
        let Some((at, _)) = self.said else {
            return (!draining).then_some(Moment::default());
        };
        match self.change {
            Change::Terms => Some(Moment::default()),
            Change::Nothing | Change::Load if draining => None,
            Change::Load => Some(at + LOAD_COALESCE),
            Change::Nothing => Some(at + ANNOUNCE_EVERY),
        }
    }
}
