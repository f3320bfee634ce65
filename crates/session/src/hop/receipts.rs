//! What the hop signs of its positions: leaves gathered, the upstream hop's receipts checked, its
//! own asked for, and handed to the client and the next hop (docs/protocol.md 3.6).

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_protocol::control::{HopFailure, ToClient, Violation};
use taimatsu_protocol::link::Downstream;
use taimatsu_protocol::receipt::{
    NO_RECEIPT, RECEIPT_EVERY, Receipt, digest_of, id_leaf, leaf, no_leaf,
};
use taimatsu_protocol::sealed::Mark;
use taimatsu_protocol::signed::SignedBytes;
use taimatsu_protocol::{Digest, Moment, PeerId};

use super::{Executed, Hop, HopOutput, JobInput};
use crate::tail::ReceiptTerms;

/// Leaves and receipts of one hop.
#[derive(Debug)]
pub(super) struct Book {
    terms: ReceiptTerms,
    /// Leaves of what went in and what came out, from position `signed` on.
    inputs: VecDeque<Digest>,
    outputs: VecDeque<Digest>,
    /// Positions below this have a receipt, or one is being signed.
    signed: u32,
    /// This hop's last receipt.
    previous: Digest,
    /// Those of them that go on to the next hop, and how many have gone on this connection.
    own: Vec<(u32, SignedBytes)>,
    handed_on: usize,
    /// The upstream hop's receipts that wait for this hop's own; bounded by the lane's window.
    upstream: VecDeque<SignedBytes>,
    signing: bool,
    /// The client closes, and wants receipts up to here.
    closing: Option<u32>,
}

impl Book {
    pub(super) fn new(terms: ReceiptTerms) -> Self {
        Self {
            terms,
            inputs: VecDeque::new(),
            outputs: VecDeque::new(),
            signed: 0,
            previous: NO_RECEIPT,
            own: Vec::new(),
            handed_on: 0,
            upstream: VecDeque::new(),
            signing: false,
            closing: None,
        }
    }

    /// Positions came in, in order.
    pub(super) fn took(&mut self, input: &JobInput, width: usize) {
        match input {
            JobInput::Ids(ids) => self.inputs.extend(ids.iter().map(|id| id_leaf(*id))),
            JobInput::Hidden(rows) => self.inputs.extend(rows.chunks(width).map(leaf)),
        }
    }

    /// `count` positions were computed. Of the first so many, `told` gives the leaves of what a tail
    /// in a lost one's place was told that stands behind them.
    pub(super) fn gave(
        &mut self,
        output: &Executed,
        count: u32,
        width: usize,
        told: impl Fn(u32) -> Vec<Digest>,
    ) {
        match output {
            Executed::Hidden(rows) => self.outputs.extend(rows.chunks(width).map(leaf)),
            Executed::Sampled(token) => {
                self.outputs.extend(told(count - 1));
                self.outputs.push_back(id_leaf(token.id));
            }
            Executed::Scored(_) | Executed::Nothing => self.outputs.extend(told(count)),
        }
    }

    /// Positions from `to` on are undone. What is committed never is.
    pub(super) fn roll_back(&mut self, to: u32) {
        let left = to.saturating_sub(self.signed) as usize;
        self.inputs.truncate(left);
        self.outputs.truncate(left);
    }

    /// The next hop is another one, or may have lost what was on its way.
    pub(super) const fn hand_on_again(&mut self) {
        self.handed_on = 0;
    }

    /// The previous hop is this one now, or the same on another connection: it hands all that it
    /// signed in again.
    pub(super) fn led_from(&mut self, peer: PeerId, leader: bool) {
        self.upstream.clear();
        if !leader {
            self.terms.upstream = Some(peer);
        }
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Positions from `signed` to `end` at most whose leaves are complete.
    fn complete(&self, end: u32) -> u32 {
        let leaves = self.inputs.len().min(self.outputs.len()) as u32;
        leaves.min(end.saturating_sub(self.signed))
    }

    fn begin(&mut self, count: u32, above: Option<&SignedBytes>) -> Receipt {
        let digest = |leaves: &mut VecDeque<Digest>| {
            let leaves: Vec<Digest> = leaves.drain(..count as usize).collect();
            digest_of(&leaves)
        };
        let (input, output) = (digest(&mut self.inputs), digest(&mut self.outputs));
        let (from, until) = (self.signed, self.signed + count);
        (self.signed, self.signing) = (until, true);
        Receipt {
            host: self.terms.host,
            session: self.terms.session,
            model: self.terms.model,
            span: self.terms.span,
            numerics: self.terms.numerics,
            from,
            until,
            input,
            output,
            previous: self.previous,
            upstream: above.map(SignedBytes::digest),
        }
    }

    /// Whether the upstream hop's receipt is for the positions that are next here, and agrees with
    /// what came from it.
    fn agrees(&self, above: &SignedBytes) -> bool {
        let Ok(verified) = above.clone().verify::<Receipt>() else { return false };
        let receipt = verified.record();
        let leaves: Vec<Digest> =
            self.inputs.iter().take(RECEIPT_EVERY as usize).copied().collect();
        Some(receipt.host) == self.terms.upstream
            && receipt.session == self.terms.session
            && receipt.model == self.terms.model
            && (receipt.from, receipt.until) == (self.signed, self.signed + RECEIPT_EVERY)
            && receipt.output == digest_of(&leaves)
    }
}

impl Hop {
    pub(super) fn book_input(&mut self, input: &JobInput) {
        let width = self.config.hidden as usize * 4;
        if let Some(book) = &mut self.book {
            book.took(input, width);
        }
    }

    /// What came out of `count` positions from `start` on.
    pub(super) fn book_output(&mut self, output: &Executed, start: u32, count: u32) {
        let width = self.config.hidden as usize * 4;
        let (tail, prompt_len) = (&self.tail, self.config.prompt_len);
        let id_after = |position: u32| {
            let index = (position + 1).checked_sub(prompt_len)?;
            tail.as_ref()?.id_at(index)
        };
        let told = |count: u32| {
            let ids = (start..start + count).map(id_after);
            ids.map(|id| id.map_or_else(no_leaf, id_leaf)).collect()
        };
        if let Some(book) = &mut self.book {
            book.gave(output, count, width, told);
        }
    }

    /// The upstream hop's next receipt came, for positions before `until`.
    pub(super) fn take_receipt(&mut self, until: u32, above: SignedBytes) -> Result<(), Violation> {
        let Some(book) = &mut self.book else { return Err(Violation::OutOfPlace) };
        if until <= book.signed {
            // A newcomer's, or one that was handed on before: what it is for was signed with
            // another.
            return Ok(());
        }
        // It follows the positions that it is for, and no more of these are permitted.
        let most = self.permitted.saturating_sub(book.signed) / RECEIPT_EVERY + 1;
        if book.upstream.len() >= most as usize {
            return Err(Violation::OverCredit);
        }
        book.upstream.push_back(above);
        Ok(())
    }

    /// Asks for the next signature, if one is due.
    pub(super) fn sign_next(&mut self, now: Moment) {
        let (leader, end) = (self.leader, self.told_through());
        let Some(book) = &mut self.book else { return };
        if book.signing {
            return;
        }
        if let Some(through) = book.closing {
            return self.sign_last(now, through);
        }
        if book.complete(end) < RECEIPT_EVERY {
            return;
        }
        let mut above = None;
        if !leader {
            let Some(next) = book.upstream.pop_front() else { return };
            if !book.agrees(&next) {
                let (lane, from) = (self.lane_in.number, book.signed);
                return self.fail(HopFailure::Disputed { lane, from });
            }
            above = Some(next);
        }
        let receipt = book.begin(RECEIPT_EVERY, above.as_ref());
        self.outputs.push_back(HopOutput::Sign(Box::new(receipt)));
    }

    /// The end of the final positions whose outcome is with whom it is for: what is held back
    /// here is not signed, or the receipt would come before what it is about.
    fn told_through(&self) -> u32 {
        let sent = if self.head { u32::MAX } else { self.sent };
        let told = self.tail.as_ref().map(|tail| self.config.prompt_len - 1 + tail.next_index());
        self.committed.min(sent).min(told.unwrap_or(u32::MAX))
    }

    /// A signature that was asked for is here: for the client, by this hop's own stream, and for
    /// the next hop, which embeds it.
    pub(super) fn signed(&mut self, signed: SignedBytes) {
        let head = self.head;
        let Some(book) = self.book.as_mut().filter(|book| book.signing) else { return };
        (book.signing, book.previous) = (false, signed.digest());
        if !head && !book.is_closing() {
            book.own.push((book.signed, signed.clone()));
        }
        // Not `tell_client`: a prompt's receipts would put off for long what is coalesced.
        self.outputs.push_back(HopOutput::ToClient(ToClient::Receipt(signed)));
        self.hand_on_receipts();
    }

    /// Receipts follow what they are about.
    pub(super) fn hand_on_receipts(&mut self) {
        let (sending, sent, epoch) = (self.sending, self.sent, self.epoch);
        while let Some(book) = self.book.as_mut().filter(|_| sending)
            && let Some((until, own)) = book.own.get(book.handed_on)
            && *until <= sent
        {
            let (step, own) = (*until, own.clone());
            book.handed_on += 1;
            self.down(Mark { epoch, step }, Downstream::Receipt(own), None::<Bytes>);
        }
    }

    /// The client closes: what has no receipt is signed first.
    pub(super) fn close(&mut self, now: Moment, through: u32) {
        self.commit(through);
        if let Some(book) = &mut self.book {
            book.closing = Some(through);
            return self.sign_next(now);
        }
        self.say_goodbye(now);
    }

    fn sign_last(&mut self, now: Moment, through: u32) {
        let end = self.committed.min(through);
        let Some(book) = &mut self.book else { return };
        let left = book.complete(end);
        if left == 0 {
            return self.say_goodbye(now);
        }
        let receipt = book.begin(left.min(RECEIPT_EVERY), None);
        self.outputs.push_back(HopOutput::Sign(Box::new(receipt)));
    }

    /// The last figures, and the end.
    fn say_goodbye(&mut self, now: Moment) {
        self.book = None;
        self.tell_client(now, ToClient::Closed { stats: self.stats });
        self.end();
    }
}
