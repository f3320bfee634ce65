//! The end of a session: well, badly, and what still comes of it.

use taimatsu_protocol::Moment;
use taimatsu_protocol::control::{HopStats, ToHop, Token};
use taimatsu_protocol::receipt::RECEIPT_EVERY;
use taimatsu_protocol::signed::SignedBytes;

use super::{Failure, Finish, Origin, OriginOutput, State};

impl Origin {
    /// Ends the answer well; the hops' last figures are waited for.
    pub(super) fn close(&mut self, now: Moment, finish: Finish) {
        if self.state == State::Closing {
            return;
        }
        self.finish = finish;
        self.state = State::Closing;
        self.closing_at = now;
        let through = match self.handed {
            0 => 0,
            _ if self.config.score => 0,
            // The last token needed no position of its own.
            handed => self.config.prompt_len + handed - 1,
        };
        self.close_all(through);
        self.finish_closed();
    }

    fn finish_closed(&mut self) {
        if self.ring_views().all(|hop| hop.closed || !hop.is_here()) {
            self.finish();
        }
    }

    fn close_all(&mut self, through: u32) {
        for hop in self.ring.clone() {
            if !self.hops[usize::from(hop)].gone {
                self.send(hop, ToHop::Close { through }, None);
            }
        }
    }

    /// What a hop signed is checked at the end; more than there are positions is left out.
    pub(super) fn keep_receipt(&mut self, hop: u8, own: SignedBytes) {
        let positions = self.config.prompt_len.saturating_add(self.config.max_tokens);
        let kept = &mut self.hops[usize::from(hop)].receipts;
        if kept.len() <= (positions / RECEIPT_EVERY) as usize {
            kept.push(own);
        }
    }

    /// The tail was ahead within its credit.
    pub(super) fn came_late(&mut self, hop: u8, index: u32, tokens: &[Token]) {
        let have = self.handed + self.late.len() as u32;
        let room = self.granted.saturating_sub(have) as usize;
        if index == have && hop == self.tail() {
            self.late.extend(tokens.iter().take(room).map(|token| token.id));
        }
    }

    pub(super) fn closed(&mut self, hop: u8, stats: Option<HopStats>) {
        let view = &mut self.hops[usize::from(hop)];
        view.closed = true;
        view.said_goodbye |= stats.is_some();
        view.stats = stats.unwrap_or(view.stats);
        self.finish_closed();
    }

    pub(super) fn finish(&mut self) {
        self.state = State::Done;
        self.outputs.push_back(OriginOutput::Ended(Ok(self.finish)));
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if self.state == State::Closing {
            // The answer is complete; how a hop says goodbye changes nothing.
            return;
        }
        self.state = State::Done;
        self.close_all(0);
        self.outputs.push_back(OriginOutput::Ended(Err(failure)));
    }
}
