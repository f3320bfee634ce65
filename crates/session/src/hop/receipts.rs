//! What the hop signs of its positions: leaves gathered, the upstream hop's receipts checked, its
//! own asked for (docs/protocol.md 3.6).

use std::collections::VecDeque;

use bytes::Bytes;
use taimatsu_protocol::codec::BoundedVec;
use taimatsu_protocol::control::{HopFailure, ToClient, Violation};
use taimatsu_protocol::link::Downstream;
use taimatsu_protocol::receipt::{
    NO_RECEIPT, RECEIPT_EVERY, Receipt, Receipts, digest_of, id_leaf, leaf, no_leaf,
};
use taimatsu_protocol::sealed::Mark;
use taimatsu_protocol::signed::SignedBytes;
use taimatsu_protocol::{Digest, Moment};

use super::{Executed, Hop, HopOutput, JobInput};
use crate::tail::ReceiptTerms;

/// The most receipts in one message to the client.
const PER_MESSAGE: usize = 32;

/// Leaves and receipts of one hop.
#[derive(Debug)]
pub(super) struct Book {
    terms: ReceiptTerms,
    /// Leaves of what went in and what came out, from position `signed` on.
    inputs: VecDeque<Digest>,
    outputs: VecDeque<Digest>,
    /// Positions below this are final.
    committed: u32,
    /// Positions below this have a receipt, or one is being signed.
    signed: u32,
    /// This hop's receipts, oldest first: at most one for 32 positions of the session.
    own: Vec<SignedBytes>,
    /// Receipts of the upstream hops that wait for this hop's own; bounded by the lane's window.
    upstream: VecDeque<Receipts>,
    /// The positions that are being signed end here, and these receipts came with them.
    signing: Option<(u32, Receipts)>,
    /// The client closes: what it has, and what it wants.
    closing: Option<Closing>,
}

#[derive(Debug, Clone, Copy)]
struct Closing {
    receipted: u32,
    through: u32,
}

impl Book {
    pub(super) fn new(terms: ReceiptTerms) -> Self {
        Self {
            terms,
            inputs: VecDeque::new(),
            outputs: VecDeque::new(),
            committed: 0,
            signed: 0,
            own: Vec::new(),
            upstream: VecDeque::new(),
            signing: None,
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

    /// `count` positions were computed.
    pub(super) fn gave(&mut self, output: &Executed, count: u32, width: usize) {
        match output {
            Executed::Hidden(rows) => self.outputs.extend(rows.chunks(width).map(leaf)),
            Executed::Sampled(token) => {
                self.outputs.extend((1..count).map(|_| no_leaf()));
                self.outputs.push_back(id_leaf(token.id));
            }
            Executed::Scored(_) | Executed::Nothing => {
                self.outputs.extend((0..count).map(|_| no_leaf()));
            }
        }
    }

    pub(super) fn commit(&mut self, through: u32) {
        self.committed = self.committed.max(through);
    }

    /// Positions from `to` on are undone. What is committed never is.
    pub(super) fn roll_back(&mut self, to: u32) {
        let left = to.saturating_sub(self.signed) as usize;
        self.inputs.truncate(left);
        self.outputs.truncate(left);
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Positions from `signed` on whose leaves are complete.
    fn complete(&self) -> u32 {
        let leaves = self.inputs.len().min(self.outputs.len()) as u32;
        leaves.min(self.committed.saturating_sub(self.signed))
    }

    fn begin(&mut self, count: u32, above: Receipts) -> Receipt {
        let digest = |leaves: &mut VecDeque<Digest>| {
            let leaves: Vec<Digest> = leaves.drain(..count as usize).collect();
            digest_of(&leaves)
        };
        let (input, output) = (digest(&mut self.inputs), digest(&mut self.outputs));
        let (from, until) = (self.signed, self.signed + count);
        let upstream = above.last().map(SignedBytes::digest);
        self.signed = until;
        self.signing = Some((until, above));
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
            previous: self.own.last().map_or(NO_RECEIPT, SignedBytes::digest),
            upstream,
        }
    }

    /// Whether the upstream hop's receipt is for the positions that are next here, and agrees with
    /// what came from it.
    fn agrees(&self, above: &Receipts, hop: u8) -> bool {
        let Some(last) = above.last() else { return false };
        let Ok(verified) = last.clone().verify::<Receipt>() else { return false };
        let receipt = verified.record();
        let leaves: Vec<Digest> =
            self.inputs.iter().take(RECEIPT_EVERY as usize).copied().collect();
        above.len() == usize::from(hop)
            && Some(receipt.host) == self.terms.upstream
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

    pub(super) fn book_output(&mut self, output: &Executed, count: u32) {
        let width = self.config.hidden as usize * 4;
        if let Some(book) = &mut self.book {
            book.gave(output, count, width);
        }
    }

    pub(super) fn commit(&mut self, through: u32) {
        if let Some(book) = &mut self.book {
            book.commit(through);
        }
    }

    /// The upstream hops' receipts came.
    pub(super) fn take_receipts(&mut self, above: Receipts) -> Result<(), Violation> {
        let most = (self.permitted / RECEIPT_EVERY + 1) as usize;
        let Some(book) = &mut self.book else { return Err(Violation::OutOfPlace) };
        if book.upstream.len() >= most {
            return Err(Violation::OverCredit);
        }
        book.upstream.push_back(above);
        Ok(())
    }

    /// Asks for the next signature, if one is due.
    pub(super) fn sign_next(&mut self, now: Moment) {
        let (hop, leader) = (self.config.hop, self.is_leader());
        let Some(book) = &mut self.book else { return };
        if book.signing.is_some() {
            return;
        }
        if book.closing.is_some() {
            return self.sign_last(now);
        }
        if book.complete() < RECEIPT_EVERY {
            return;
        }
        let above = if leader {
            Receipts::new()
        } else {
            let Some(above) = book.upstream.pop_front() else { return };
            if !book.agrees(&above, hop) {
                let (lane, from) = (self.lane_in.number, book.signed);
                return self.fail(HopFailure::Disputed { lane, from });
            }
            above
        };
        let receipt = book.begin(RECEIPT_EVERY, above);
        self.outputs.push_back(HopOutput::Sign(Box::new(receipt)));
    }

    /// A signature that was asked for is here.
    pub(super) fn signed(&mut self, now: Moment, signed: SignedBytes) {
        let Some(book) = &mut self.book else { return };
        let Some((until, above)) = book.signing.take() else { return };
        book.own.push(signed.clone());
        if book.closing.is_some() {
            return;
        }
        let all = Receipts::truncated(above.into_vec().into_iter().chain([signed]));
        if self.is_tail() {
            self.tell_client(now, ToClient::Receipts(all));
        } else {
            let mark = Mark { epoch: self.epoch, step: until };
            self.down(mark, Downstream::Receipts(all), None::<Bytes>);
        }
    }

    /// The client closes: what has no receipt is signed first.
    pub(super) fn close(&mut self, now: Moment, receipted: u32, through: u32) {
        if let Some(book) = &mut self.book {
            book.closing = Some(Closing { receipted, through });
            return self.sign_next(now);
        }
        self.say_goodbye(now);
    }

    fn sign_last(&mut self, now: Moment) {
        let Some(book) = &mut self.book else { return };
        let Some(Closing { through, .. }) = book.closing else { return };
        let left = book.complete().min(through.saturating_sub(book.signed));
        if left == 0 {
            return self.say_goodbye(now);
        }
        let receipt = book.begin(left.min(RECEIPT_EVERY), Receipts::new());
        self.outputs.push_back(HopOutput::Sign(Box::new(receipt)));
    }

    /// The receipts that the client lacks, the last figures, and the end.
    fn say_goodbye(&mut self, now: Moment) {
        if let Some(book) = self.book.take()
            && let Some(Closing { receipted, .. }) = book.closing
        {
            let has = (receipted / RECEIPT_EVERY) as usize;
            for some in book.own.get(has..).unwrap_or_default().chunks(PER_MESSAGE) {
                let some = BoundedVec::truncated(some.iter().cloned());
                self.tell_client(now, ToClient::LastReceipts(some));
            }
        }
        self.tell_client(now, ToClient::Closed { stats: self.stats });
        self.end();
    }
}
