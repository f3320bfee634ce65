//! The hop's positions: taken in, computed, passed on, released.

use bytes::Bytes;
use taimatsu_protocol::Moment;
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{HopFailure, Score, ToClient, Violation};
use taimatsu_protocol::link::{Downstream, LinkAck, MAX_STEP};
use taimatsu_protocol::sealed::Mark;

use super::{Book, Executed, Hop, HopOutput, Job, JobInput, Pending, Running, State, Want};
use crate::policy::{WINDOW, WINDOW_RENEWAL};
use crate::tail::Release;

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
        // What the tail has passed on is all that there is to compute.
        let given = self.tail.as_ref().map(|tail| self.config.prompt_len + tail.passed());
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
        self.held.take_if(|(mark, _)| mark.step >= to);
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

    /// Gives the executor its next job, when it is idle and the last output is on its way.
    pub(super) fn work(&mut self) {
        let closing = self.book.as_ref().is_some_and(Book::is_closing);
        let busy = self.executing.is_some() || self.held.is_some();
        if self.state != State::Running || busy || closing {
            return;
        }
        let Some(Pending { start, count, input }) = self.queue.pop_front() else { return };
        let want = self.want(start + count);
        self.executing = Some(Running { start, count, void: false });
        self.outputs.push_back(HopOutput::Execute(Job { start, count, input, want }));
    }

    pub(super) fn want(&self, end: u32) -> Want {
        match (&self.tail, self.is_tail()) {
            (_, false) => Want::Hidden,
            (None, true) => Want::Scores,
            (Some(_), true) if end < self.config.prompt_len => Want::Nothing,
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
        self.book_output(&output, count);
        match output {
            Executed::Hidden(tensor) => {
                self.held = Some((Mark { epoch: self.epoch, step: start }, tensor));
                self.send_held();
            }
            Executed::Sampled(token) => {
                let releases = self.tail.as_mut().map(|tail| tail.sampled(token));
                self.release(now, releases.unwrap_or_default());
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
        if self.is_leader() || !worth {
            return;
        }
        self.permitted = until;
        let ack = LinkAck { received: self.received, kv_len: self.kv_len, until };
        self.outputs.push_back(HopOutput::Up(ack));
    }

    pub(super) fn send_held(&mut self) {
        let width = self.config.hidden as usize * 4;
        let permitted = |(mark, tensor): &mut (Mark, Bytes)| {
            u64::from(mark.step) + (tensor.len() / width) as u64 <= u64::from(self.may_send_until)
        };
        let Some((mark, mut tensor)) = self.held.take_if(permitted) else { return };
        let fits = if self.lane_out.relayed { MAX_FORWARD } else { MAX_DIRECT } / width;
        let mut step = mark.step;
        while !tensor.is_empty() {
            let part = tensor.split_to(tensor.len().min(fits.max(1) * width));
            let count = (part.len() / width) as u32;
            // No more than this hop was told: it will not roll back what it calls final.
            let committed_through = self.committed.min(step + count);
            let message = Downstream::Step { count, committed_through };
            self.down(Mark { step, ..mark }, message, Some(part));
            step += count;
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

    pub(super) fn release(&mut self, now: Moment, releases: Vec<Release>) {
        for release in releases {
            match release {
                Release::Verdict { index, token, end } => {
                    // What was said is final, and so is all that it was sampled from.
                    self.commit(self.config.prompt_len + index);
                    let tokens = BoundedVec::truncated([token]);
                    self.tell_client(now, ToClient::Verdict { index, tokens, end });
                }
                Release::Accepted { id, .. } if self.is_leader() => self.queue_ids(&[id]),
                Release::Accepted { index, id } => {
                    let step = self.config.prompt_len + index;
                    let ids = BoundedVec::truncated([id]);
                    let message = Downstream::Accepted { ids, committed_through: step };
                    self.down(Mark { epoch: self.epoch, step }, message, None);
                }
            }
        }
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
