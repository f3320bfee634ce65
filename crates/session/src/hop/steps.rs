//! The hop's positions: taken in, computed, passed on, released.

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{HopFailure, Score, ToClient, Violation};
use taimatsu_protocol::link::{Downstream, MAX_STEP};
use taimatsu_protocol::sealed::Mark;

use super::{Book, Executed, Hop, HopOutput, Job, JobInput, Pending, Running, State, Want};
use crate::policy::{PREFILL_CHUNK, WINDOW, WINDOW_RENEWAL};
use crate::tail::Verdict;

/// The most tensor bytes of a frame that goes straight; the frame's limit is 8 MiB.
const MAX_DIRECT: usize = 4 << 20;

/// The most tensor bytes of a frame that goes through the client, below
/// [`taimatsu_protocol::control::MAX_FORWARD`] by what seal and message add.
const MAX_FORWARD: usize = taimatsu_protocol::control::MAX_FORWARD - 1024;

/// 64 alternatives of at most 10 bytes each, 64 positions: within a frame's message.
const SCORES_PER_FRAME: usize = 64;

impl Hop {
    pub(super) fn take_step(
        &mut self,
        mark: Mark,
        count: u32,
        tensor: Bytes,
    ) -> Result<(), Violation> {
        if mark.epoch < self.epoch {
            return Ok(());
        }
        let width = u64::from(self.config.hidden) * 4;
        if count == 0 || count > MAX_STEP || tensor.len() as u64 != u64::from(count) * width {
            return Err(Violation::WrongSize);
        }
        let end = mark.step.checked_add(count).ok_or(Violation::OverCredit)?;
        // What the tail has passed on is all that there is to compute; but for what the tail before
        // it had passed on.
        let first = self.tail.as_ref().filter(|tail| !tail.is_heir());
        let given = first.map(|tail| self.config.prompt_len + tail.passed());
        if end > self.permitted.min(self.config.positions).min(given.unwrap_or(u32::MAX)) {
            return Err(Violation::OverCredit);
        }
        if mark.epoch > self.epoch && (self.committed..=self.received).contains(&mark.step) {
            self.roll_back(mark.step)?;
            self.epoch = mark.epoch;
        }
        if mark.epoch != self.epoch || mark.step != self.received {
            return Err(Violation::Gap);
        }
        self.received = end;
        let input = JobInput::Hidden(tensor);
        self.book_input(&input);
        self.queue.push_back(Pending { start: mark.step, count, input });
        Ok(())
    }

    /// Positions from `to` on are undone; a step is undone as a whole.
    fn roll_back(&mut self, to: u32) -> Result<(), Violation> {
        let cut = |start: u32, count: u32| start < to && to < start + count;
        if self.queue.iter().any(|pending| cut(pending.start, pending.count))
            || self.executing.is_some_and(|running| cut(running.start, running.count))
        {
            return Err(Violation::Gap);
        }
        if let Some(running) = &mut self.executing {
            running.void |= running.start >= to;
        }
        self.queue.retain(|pending| pending.start < to);
        self.received = to;
        self.kv_len = self.kv_len.min(to);
        self.retained.truncate(to);
        self.sent = self.sent.min(to);
        if let Some(book) = &mut self.book {
            book.roll_back(to);
        }
        Ok(())
    }

    /// Positions below `through` are final, as far as they are here.
    pub(super) fn commit(&mut self, through: u32) {
        self.committed = self.committed.max(through.min(self.received));
    }

    pub(super) fn take_accepted(&mut self, mark: Mark, ids: &[u32]) -> Result<(), Violation> {
        if mark.step != self.received || ids.is_empty() {
            return Err(Violation::Gap);
        }
        if u64::from(self.received) + ids.len() as u64 > u64::from(self.config.positions) {
            return Err(Violation::OverCredit);
        }
        self.queue_ids(ids);
        Ok(())
    }

    pub(super) fn queue_ids(&mut self, ids: &[u32]) {
        let count = ids.len() as u32;
        let input = JobInput::Ids(ids.to_vec());
        self.book_input(&input);
        self.queue.push_back(Pending { start: self.received, count, input });
        self.received += count;
        self.commit(self.received);
    }

    /// Gives the executor its next job, when it is idle.
    pub(super) fn work(&mut self) {
        let closing = self.book.as_ref().is_some_and(Book::is_closing);
        let busy = self.executing.is_some() || !self.started;
        if self.state == State::Done || busy || closing {
            return;
        }
        let Some(pending) = self.queue.pop_front() else { return };
        // A tail computes what it has passed on, and chooses at its end; the rest waits.
        let given = self.tail.as_ref().map(|tail| self.config.prompt_len + tail.passed());
        let fits = given.map_or(pending.count, |given| given.saturating_sub(pending.start));
        let (now, rest) = pending.split(fits);
        if let Some(rest) = rest {
            self.queue.push_front(rest);
        }
        let Some(Pending { start, count, input }) = now else { return };
        let want = self.want(start + count);
        self.executing = Some(Running { start, count, void: false });
        self.outputs.push_back(HopOutput::Execute(Job { start, count, input, want }));
    }

    pub(super) fn want(&self, end: u32) -> Want {
        match (&self.tail, self.head) {
            (_, false) => Want::Hidden,
            (None, true) => Want::Scores,
            (Some(tail), true) if end < self.config.prompt_len + tail.next_index() => Want::Nothing,
            (Some(tail), true) => Want::Sample { index: tail.next_index() },
        }
    }

    pub(super) fn executed(
        &mut self,
        now: Moment,
        result: Result<Executed, HopFailure>,
        micros: u64,
    ) {
        let Some(Running { start, count, void }) = self.executing.take() else { return };
        self.count(count, micros);
        if void {
            return;
        }
        let output = match result {
            Ok(output) => output,
            Err(failure) => return self.fail(failure),
        };
        self.kv_len = start + count;
        self.news = true;
        self.renew_permission();
        self.book_output(&output, start, count);
        match output {
            Executed::Hidden(tensor) => {
                self.retained.push(tensor);
                self.send_on();
            }
            Executed::Sampled(token) => {
                let verdict = self.tail.as_mut().and_then(|tail| tail.sampled(token));
                self.release(now, verdict);
            }
            Executed::Scored(rows) => self.scored(now, start, &rows),
            Executed::Nothing => {}
        }
    }

    pub(super) fn count(&mut self, count: u32, micros: u64) {
        let stats = &mut self.stats;
        if count == 1 {
            stats.decode_steps += 1;
            stats.decode_micros += micros;
        } else {
            stats.prefill_positions += count;
            stats.prefill_micros += micros;
        }
    }

    pub(super) fn renew_permission(&mut self) {
        let until = self.kv_len.saturating_add(WINDOW).min(self.config.positions);
        // The last permission covers what is left, however little that is.
        let worth = until >= self.permitted.saturating_add(WINDOW_RENEWAL)
            || (until == self.config.positions && until > self.permitted);
        if self.leader || !worth {
            return;
        }
        self.permitted = until;
        // Whoever comes next is told all at once.
        if self.lane_in.up {
            self.permit();
        }
    }

    /// What the next hop has when it is new to the session: the leader has the prompt.
    pub(super) const fn first_to_send(&self) -> u32 {
        if self.head { self.config.prompt_len } else { 0 }
    }

    /// Sends the next hop what it lacks, as far as it may go.
    pub(super) fn send_on(&mut self) {
        if self.head {
            return self.send_ids();
        }
        let width = self.config.hidden as usize * 4;
        let fits = if self.lane_out.relayed { MAX_FORWARD } else { MAX_DIRECT } / width;
        let most = (fits.max(1) as u32).min(PREFILL_CHUNK);
        while self.sending {
            let end = self.retained.end().min(self.may_send_until);
            let step = self.sent;
            let tensor = self.retained.rows(step, end.saturating_sub(step).min(most));
            let count = (tensor.len() / width) as u32;
            if count == 0 {
                break;
            }
            // No more than this hop was told: it will not roll back what it calls final.
            let committed_through = self.committed.min(step + count);
            let message = Downstream::Step { count, committed_through };
            self.down(Mark { epoch: self.epoch, step }, message, Some(tensor));
            self.sent += count;
            self.hand_on_receipts();
        }
        self.hand_on_receipts();
    }

    /// Sends the leader the ids that it lacks.
    fn send_ids(&mut self) {
        let index = self.sent.saturating_sub(self.config.prompt_len);
        let Some(tail) = self.tail.as_ref().filter(|_| self.sending) else { return };
        let ids: Vec<BoundedVec<u32, 64>> = tail
            .ids_from(index)
            .chunks(64)
            .map(|ids| BoundedVec::truncated(ids.iter().copied()))
            .collect();
        for ids in ids {
            let (step, count) = (self.sent, ids.len() as u32);
            self.sent += count;
            let message = Downstream::Accepted { ids, committed_through: step };
            self.down(Mark { epoch: self.epoch, step }, message, None);
        }
    }

    /// The ids that the tail may pass on go to the leader, be it this very hop.
    pub(super) fn pass_on(&mut self) {
        if !self.leader {
            return self.send_on();
        }
        let Some(tail) = &self.tail else { return };
        let ids = tail.ids_from(self.received - self.config.prompt_len).to_vec();
        for id in ids {
            self.queue_ids(&[id]);
        }
    }

    pub(super) fn down(&mut self, mark: Mark, message: Downstream, tensor: Option<Bytes>) {
        if self.lane_out.relayed {
            self.stats.relayed_frames += 1;
        } else {
            self.stats.direct_frames += 1;
        }
        self.outputs.push_back(HopOutput::Down { mark, message, tensor });
    }

    pub(super) fn release(&mut self, now: Moment, verdict: Option<Verdict>) {
        if let Some(Verdict { index, token, end }) = verdict {
            // What was said is final, and so is all that it was sampled from.
            self.commit(self.config.prompt_len + index);
            let tokens = BoundedVec::truncated([token]);
            self.tell_client(now, ToClient::Verdict { index, tokens, end });
        }
        self.pass_on();
    }

    pub(super) fn scored(&mut self, now: Moment, start: u32, rows: &[Score]) {
        // A frame holds 64 KiB, so alternatives go out by few positions at a time.
        for (chunk, rows) in rows.chunks(SCORES_PER_FRAME).enumerate() {
            let position = start + (chunk * SCORES_PER_FRAME) as u32;
            let rows = BoundedVec::truncated(rows.iter().cloned());
            self.tell_client(now, ToClient::Scored { position, rows });
        }
    }
}

impl Pending {
    /// Its first `fits` positions, and the rest.
    fn split(self, fits: u32) -> (Option<Self>, Option<Self>) {
        let Self { start, count, input } = self;
        if fits >= count {
            return (Some(Self { start, count, input }), None);
        }
        if fits == 0 {
            return (None, Some(Self { start, count, input }));
        }
        let (first, rest) = match input {
            JobInput::Ids(mut ids) => {
                let rest = ids.split_off(fits as usize);
                (JobInput::Ids(ids), JobInput::Ids(rest))
            }
            JobInput::Hidden(mut rows) => {
                let rest = rows.split_off(rows.len() / count as usize * fits as usize);
                (JobInput::Hidden(rows), JobInput::Hidden(rest))
            }
        };
        let first = Self { start, count: fits, input: first };
        (Some(first), Some(Self { start: start + fits, count: count - fits, input: rest }))
    }
}
