//! Passes over a span: works are admitted, taken through the blocks, and given what they want.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use taimatsu_kernels::{Kind, NonFinite, Turn, rms_norm, scale, unpack_row};
use taimatsu_model::GgufFile;
use taimatsu_protocol::Span;

use super::Threads;
use super::block::{Bench, Block, Room};
use super::kv::KvStore;
use super::load::Matrix;
use super::passage::Passage;
use super::plan::{Plan, by_plan, finite};
use super::structure::Structure;
use crate::contract::{ExecutorError, Input, KvId, Output, Want, Work};

type Answer = Result<Output, ExecutorError>;

/// Rows of logits whose room is kept from pass to pass: streams'. A scored prompt has hundreds.
const KEPT_ROWS: usize = 16;

/// A row that is no number, and the block after which it was seen.
type Refused = (NonFinite, Option<u32>);

/// All that belongs to the span.
pub(super) struct Engine {
    pub(super) structure: Structure,
    pub(super) span: Span,
    pub(super) embedding: Option<Embedding>,
    pub(super) blocks: Vec<Block>,
    /// For each different rotation of the blocks, and which one a block has.
    pub(super) frequencies: Vec<Vec<f64>>,
    pub(super) rotations: Vec<usize>,
    pub(super) head: Option<Head>,
    pub(super) kv: KvStore,
    pub(super) room: Room,
}

/// What turns token ids into hidden states: rows of the file.
pub(super) struct Embedding {
    pub(super) file: Arc<GgufFile>,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) row_bytes: usize,
}

/// What turns hidden states into logits.
pub(super) struct Head {
    pub(super) norm: Vec<f32>,
    pub(super) output: Matrix,
}

impl Embedding {
    fn look_up(&self, id: u32, out: &mut [f32]) {
        let bytes = self.file.tensor(self.name).expect("was there when it was loaded").bytes;
        unpack_row(self.kind, &bytes[id as usize * self.row_bytes..][..self.row_bytes], out);
    }
}

impl Engine {
    /// All of the span's.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let head = self.head.iter().map(|head| &head.output);
        self.blocks.iter().flat_map(Block::matrices).chain(head)
    }

    /// Where a part's blocks are among those of the span.
    fn own(&self, part: Span) -> Range<usize> {
        let before = self.span.blocks().start;
        let Range { start, end } = part.blocks();
        (start - before) as usize..(end - before) as usize
    }

    /// One pass for each part that sessions of the batch run: mostly one.
    pub(super) fn step(&mut self, threads: &Threads, batch: &[Work<'_>]) -> Vec<Answer> {
        let mut parts: BTreeMap<Span, Vec<usize>> = BTreeMap::new();
        for (index, work) in batch.iter().enumerate() {
            let part = self.kv.get(work.kv).map_or(self.span, |kv| kv.part);
            parts.entry(part).or_default().push(index);
        }
        let mut answers = Vec::with_capacity(batch.len());
        for (part, places) in parts {
            let works: Vec<Work<'_>> = places.iter().map(|index| batch[*index]).collect();
            answers.extend(places.into_iter().zip(self.pass(threads, part, &works)));
        }
        answers.sort_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn pass(&mut self, threads: &Threads, part: Span, batch: &[Work<'_>]) -> Vec<Answer> {
        let mut seen = BTreeSet::new();
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut plans = Vec::new();
        for (index, work) in batch.iter().enumerate() {
            let admitted = if seen.insert(work.kv) {
                self.admit(work)
            } else {
                Err(ExecutorError::KvTwice(work.kv.0))
            };
            answers.push(admitted.map(|count| {
                let Work { kv, start, want, .. } = *work;
                plans.push(Plan { kv, index, start, count, want });
                Output::Nothing
            }));
        }
        // A session whose values are no numbers leaves the pass, and the others begin it anew.
        while !plans.is_empty() {
            match self.run(threads, part, batch, &plans) {
                Ok(outputs) => {
                    for (plan, output) in plans.iter().zip(outputs) {
                        if output.is_ok()
                            && let Ok(kv) = self.kv.get_mut(plan.kv)
                        {
                            kv.len = plan.start + plan.count as u32;
                        }
                        answers[plan.index] = output;
                    }
                    break;
                }
                Err((NonFinite { row }, block)) => {
                    let mut before = 0;
                    let of_row = |plan: &Plan| {
                        before += plan.count;
                        row < before
                    };
                    let place = plans.iter().position(of_row).unwrap_or(0);
                    let plan = plans.remove(place);
                    let position = plan.start + (row + plan.count - before) as u32;
                    answers[plan.index] = Err(ExecutorError::NonFinite { position, block });
                }
            }
        }
        answers
    }

    /// Checks one work; gives its number of rows.
    fn admit(&self, work: &Work<'_>) -> Result<usize, ExecutorError> {
        let kv = self.kv.get(work.kv)?;
        if work.start != kv.len {
            return Err(ExecutorError::WrongStart { asked: work.start, len: kv.len });
        }
        if matches!(work.want, Want::LastLogits | Want::AllLogits) && !kv.part.head {
            return Err(ExecutorError::BadShape("logits were asked of a span without the head"));
        }
        let hidden = self.structure.hidden;
        let count = match work.input {
            Input::Tokens(ids) => ids.len(),
            Input::Hidden(values) if values.len().is_multiple_of(hidden) => values.len() / hidden,
            Input::Hidden(_) => {
                return Err(ExecutorError::BadShape(
                    "the input is not whole rows of hidden values",
                ));
            }
        };
        if count == 0 {
            return Err(ExecutorError::BadShape("the input holds no position"));
        }
        if count > (kv.reserved() - kv.len) as usize {
            let most = kv.reserved();
            return Err(ExecutorError::ContextFull { asked: most, most });
        }
        let vocab = self.structure.shape.vocab;
        match (work.input, kv.part.embed) {
            (Input::Tokens(ids), true) => match ids.iter().find(|id| **id >= vocab) {
                Some(&id) => Err(ExecutorError::UnknownToken { id, vocab }),
                None => Ok(count),
            },
            (Input::Hidden(values), false) => {
                finite(values, hidden, work.start, None).map(|()| count)
            }
            (Input::Tokens(_), false) => {
                Err(ExecutorError::BadShape("tokens were sent to a span without the embedding"))
            }
            (Input::Hidden(_), true) => {
                Err(ExecutorError::BadShape("hidden states were sent to a span that embeds"))
            }
        }
    }

    /// Takes all rows through the blocks of the part; fails with the first row that is no number,
    /// and the block after which it was seen.
    fn run(
        &mut self,
        threads: &Threads,
        part: Span,
        batch: &[Work<'_>],
        plans: &[Plan],
    ) -> Result<Vec<Answer>, Refused> {
        let mut passage = self.enter(threads, part, batch, plans);
        while passage.is_inside() {
            self.advance(threads, &mut passage)?;
        }
        self.handed_out(threads, &passage.plans, &passage.states)
    }

    /// The works' rows before the part's first block.
    fn enter(
        &mut self,
        threads: &Threads,
        part: Span,
        batch: &[Work<'_>],
        plans: &[Plan],
    ) -> Passage {
        let states = self.entered(threads, batch, plans);
        let turns = self.frequencies.iter().map(|frequencies| {
            let positions =
                plans.iter().flat_map(|plan| plan.start..plan.start + plan.count as u32);
            positions.map(|position| Turn::at(position, frequencies)).collect()
        });
        let own = self.own(part);
        let passage =
            Passage { plans: plans.to_vec(), states, turns: turns.collect(), left: own.clone() };
        let Structure { kv_heads, head, .. } = self.structure;
        for plan in plans {
            if let Ok(kv) = self.kv.get_mut(plan.kv) {
                kv.begun = None;
                kv.grow(own.clone(), plan.start as usize + plan.count, kv_heads, head);
            }
        }
        passage
    }

    /// Takes the rows through one more block.
    fn advance(&mut self, threads: &Threads, passage: &mut Passage) -> Result<(), Refused> {
        let Some(index) = passage.left.next() else { return Ok(()) };
        let mut bench = Bench {
            pool: &threads.pool,
            level: threads.level,
            structure: &self.structure,
            room: &mut self.room,
        };
        let turns = &passage.turns[self.rotations[index]];
        let place = (&passage.plans[..], &mut self.kv);
        self.blocks[index]
            .advance(&mut bench, index, place, turns, &mut passage.states)
            .map_err(|refused| (refused, Some(self.span.blocks().start + index as u32)))
    }

    /// Begins a step of one session.
    pub(super) fn begin(
        &mut self,
        threads: &Threads,
        work: &Work<'_>,
    ) -> Result<(), ExecutorError> {
        let count = self.admit(work)?;
        let Work { kv, start, want, .. } = *work;
        let plan = Plan { kv, index: 0, start, count, want };
        let part = self.kv.get(kv)?.part;
        let passage = self.enter(threads, part, std::slice::from_ref(work), &[plan]);
        self.kv.get_mut(kv)?.begun = Some(passage);
        Ok(())
    }

    /// Takes it through one more block; what it asked for, behind the last.
    pub(super) fn proceed(&mut self, threads: &Threads, kv: KvId) -> Option<Answer> {
        let begun = self.kv.get_mut(kv).map(|kv| kv.begun.take());
        let mut passage = match begun {
            Ok(Some(passage)) => passage,
            Ok(None) => return Some(Err(ExecutorError::NotBegun(kv.0))),
            Err(error) => return Some(Err(error)),
        };
        let start = passage.plans[0].start;
        let refused = |(NonFinite { row }, block)| {
            Err(ExecutorError::NonFinite { position: start + row as u32, block })
        };
        if let Err(what) = self.advance(threads, &mut passage) {
            return Some(refused(what));
        }
        if passage.is_inside() {
            if let Ok(kv) = self.kv.get_mut(kv) {
                kv.begun = Some(passage);
            }
            return None;
        }
        let mut answers = match self.handed_out(threads, &passage.plans, &passage.states) {
            Ok(answers) => answers,
            Err(what) => return Some(refused(what)),
        };
        let answer = answers.pop()?;
        if let (Ok(_), Ok(kv)) = (&answer, self.kv.get_mut(kv)) {
            kv.len = start + passage.plans[0].count as u32;
        }
        Some(answer)
    }

    /// The rows as they enter the part's first block.
    fn entered(&self, threads: &Threads, batch: &[Work<'_>], plans: &[Plan]) -> Vec<f32> {
        let hidden = self.structure.hidden;
        let mut states = Vec::new();
        for plan in plans {
            match (batch[plan.index].input, &self.embedding) {
                (Input::Tokens(ids), Some(embedding)) => {
                    let from = states.len();
                    states.resize(from + ids.len() * hidden, 0.0);
                    for (id, row) in ids.iter().zip(states[from..].chunks_exact_mut(hidden)) {
                        embedding.look_up(*id, row);
                    }
                    if let Some(by) = self.structure.embedding_scale {
                        scale(threads.level, &mut states[from..], by);
                    }
                }
                (Input::Hidden(values), _) => states.extend_from_slice(values),
                (Input::Tokens(_), None) => unreachable!("admitted works fit the span"),
            }
        }
        states
    }

    /// What was asked for, logits of all works in one pass of the head.
    fn handed_out(
        &mut self,
        threads: &Threads,
        plans: &[Plan],
        states: &[f32],
    ) -> Result<Vec<Answer>, Refused> {
        let hidden = self.structure.hidden;
        let last = Some(self.span.blocks().end - 1);
        let mut wanted = Vec::new();
        let mut before = 0;
        for (plan, rows) in by_plan(plans, states, hidden) {
            taimatsu_kernels::check(threads.level, hidden, rows)
                .map_err(|refused| (NonFinite { row: before + refused.row }, last))?;
            before += plan.count;
            match plan.want {
                Want::Nothing | Want::Hidden => {}
                Want::LastLogits => wanted.extend_from_slice(&rows[rows.len() - hidden..]),
                Want::AllLogits => wanted.extend_from_slice(rows),
            }
        }
        let there = self.logits(threads, wanted);
        let vocab = self.structure.shape.vocab as usize;
        let mut rest = there.then_some(&self.room.logits[..]);
        let outputs = by_plan(plans, states, hidden).map(|(plan, rows)| {
            let count = match plan.want {
                Want::Nothing => return Ok(Output::Nothing),
                Want::Hidden => return Ok(Output::Hidden(rows.to_vec())),
                Want::LastLogits => 1,
                Want::AllLogits => plan.count,
            };
            let start = plan.start + (plan.count - count) as u32;
            let block = Some(self.span.blocks().end);
            let Some(logits) = rest else {
                return Err(ExecutorError::NonFinite { position: start, block });
            };
            let (own, others) = logits.split_at(count * vocab);
            rest = Some(others);
            finite(own, vocab, start, block).map(|()| Output::Logits(own.to_vec()))
        });
        let outputs = outputs.collect();
        self.room.logits.truncate(KEPT_ROWS * vocab);
        self.room.logits.shrink_to(KEPT_ROWS * vocab);
        Ok(outputs)
    }

    /// Logits of some rows, into the room for them; false if a row's norm is no number.
    fn logits(&mut self, threads: &Threads, mut rows: Vec<f32>) -> bool {
        let Some(head) = self.head.as_ref().filter(|_| !rows.is_empty()) else { return false };
        rms_norm(threads.level, &mut rows, &head.norm, self.structure.epsilon);
        let positions = rows.len() / self.structure.hidden;
        let mut logits = std::mem::take(&mut self.room.logits);
        logits.resize(positions * head.output.rows(), 0.0);
        let mut inputs = std::mem::take(&mut self.room.inputs);
        let bench = Bench {
            pool: &threads.pool,
            level: threads.level,
            structure: &self.structure,
            room: &mut self.room,
        };
        let done = bench.linear(&mut inputs, &rows, vec![(&head.output, &mut logits[..])]);
        (self.room.inputs, self.room.logits) = (inputs, logits);
        done.is_ok()
    }
}
