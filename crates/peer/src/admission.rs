//! Whom this host serves: each session once, within what the owner allows.

use std::collections::BTreeMap;

use taimatsu_protocol::opening::Refusal;
use taimatsu_protocol::{ModelId, SessionId, Span, UnixSeconds};

use crate::hosting::HostedSpans;
use crate::io::OpeningSummary;
use crate::policy::{MAX_REPLAY, RETRY_MS};

/// Sessions that run here, and those that were opened here before.
#[derive(Debug)]
pub(crate) struct Admission {
    max_sessions: usize,
    draining: bool,
    running: BTreeMap<SessionId, Reserved>,
    /// Until when a copy of the opening of this hop of the session could still come. A host that
    /// was lost may take a place in the same session again, under another number.
    opened: BTreeMap<(SessionId, u8), UnixSeconds>,
}

/// What a running session holds.
#[derive(Debug, Clone, Copy)]
struct Reserved {
    model: ModelId,
    span: Span,
    positions: u32,
}

impl Admission {
    pub(crate) const fn new(max_sessions: usize) -> Self {
        Self { max_sessions, draining: false, running: BTreeMap::new(), opened: BTreeMap::new() }
    }

    pub(crate) const fn drain(&mut self) {
        self.draining = true;
    }

    pub(crate) const fn is_draining(&self) -> bool {
        self.draining
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn remembered(&self) -> usize {
        self.opened.len()
    }

    /// Admits a session and reserves its KV in the span that it gives, or says why not. Nothing is
    /// remembered of what is refused.
    pub(crate) fn admit(
        &mut self,
        wall: UnixSeconds,
        hosted: &mut HostedSpans,
        opening: &OpeningSummary,
    ) -> Result<Span, Refusal> {
        let OpeningSummary { session, hop, model, span, positions, .. } = *opening;
        if self.running.contains_key(&session)
            || self.opened.get(&(session, hop)).is_some_and(|until| wall < *until)
        {
            return Err(Refusal::Replayed);
        }
        // Remembered until then, it would not be remembered at all.
        if opening.accepted_until <= wall || opening.prompt_len > positions {
            return Err(Refusal::Unreadable);
        }
        let serving = hosted.serving(model, span)?;
        if serving.what().numerics != opening.numerics {
            return Err(Refusal::Numerics(serving.what().numerics));
        }
        if positions > serving.what().context {
            return Err(Refusal::TooLong { limit: serving.what().context });
        }
        if self.running.len() >= self.max_sessions || !self.has_room(wall) {
            return Err(Refusal::Busy { retry_ms: RETRY_MS });
        }
        if positions > serving.free() {
            return Err(Refusal::NoKv { free: serving.free() });
        }
        if self.draining {
            return Err(Refusal::Draining);
        }
        serving.reserve(positions);
        let span = serving.what().span;
        self.running.insert(session, Reserved { model, span, positions });
        self.opened.insert((session, hop), opening.accepted_until);
        Ok(span)
    }

    /// Gives back what the session held; false if it was not running.
    pub(crate) fn ended(&mut self, hosted: &mut HostedSpans, session: &SessionId) -> bool {
        let Some(Reserved { model, span, positions }) = self.running.remove(session) else {
            return false;
        };
        if let Some(hosted) = hosted.find(model, span) {
            hosted.give_back(positions);
        }
        true
    }

    fn has_room(&mut self, wall: UnixSeconds) -> bool {
        if self.opened.len() >= MAX_REPLAY {
            self.opened.retain(|_, until| wall < *until);
        }
        self.opened.len() < MAX_REPLAY
    }
}
