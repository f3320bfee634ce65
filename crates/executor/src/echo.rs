//! A fake executor: deterministic, cheap, needs no model. For tests of everything around it.

use std::collections::BTreeMap;

use taimatsu_protocol::Span;

use crate::contract::{
    ExecutorError, Input, KvId, LayerExecutor, ModelShape, Output, Want, Work, check_part,
};

/// Computes a toy model in which a chain of spans equals one span over the whole.
///
/// A hidden state carries its token's id in its first value and, in its second, a running sum
/// over the ids so far, which each block reads and adds to from its KV; so a lost, repeated or
/// misplaced position changes every later token. Logits peak at [`EchoExecutor::next_token`].
#[derive(Debug)]
pub struct EchoExecutor {
    span: Span,
    shape: ModelShape,
    free: u32,
    next: u64,
    sessions: BTreeMap<KvId, Session>,
}

/// One session: what each position brought in.
#[derive(Debug)]
struct Session {
    part: Span,
    reserved: u32,
    ids: Vec<u32>,
    begun: Option<Begun>,
}

/// A step on its way through the blocks.
#[derive(Debug, Clone)]
struct Begun {
    start: u32,
    input: Given,
    want: Want,
    /// Blocks that it has still before it.
    left: u32,
}

/// An input that is kept.
#[derive(Debug, Clone)]
enum Given {
    Tokens(Vec<u32>),
    Hidden(Vec<f32>),
}

impl EchoExecutor {
    /// A toy of `shape` (at least two hidden values, at most 2^24 tokens) with room for
    /// `kv_positions`.
    #[must_use]
    pub fn new(span: Span, shape: ModelShape, kv_positions: u32) -> Self {
        assert!(shape.hidden >= 2 && shape.vocab <= EXACT, "a shape that f32 can carry ids in");
        Self { span, shape, free: kv_positions, next: 0, sessions: BTreeMap::new() }
    }

    /// What the toy model says after `ids`: the token that a greedy tail chooses.
    #[must_use]
    pub fn next_token(shape: ModelShape, ids: &[u32]) -> u32 {
        let mixed = u64::from(digest(ids)) * u64::from(shape.blocks);
        (mixed % u64::from(shape.vocab)) as u32
    }

    fn work(&mut self, work: &Work<'_>) -> Result<Output, ExecutorError> {
        let shape = self.shape;
        let session = self.sessions.get_mut(&work.kv).ok_or(ExecutorError::UnknownKv(work.kv.0))?;
        session.begun = None;
        let part = session.part;
        let len = session.ids.len() as u32;
        if work.start != len {
            return Err(ExecutorError::WrongStart { asked: work.start, len });
        }
        if matches!(work.want, Want::LastLogits | Want::AllLogits) && !part.head {
            return Err(ExecutorError::BadShape("logits were asked of a span without the head"));
        }
        let rows = incoming(shape, part, len, work.input)?;
        let end = len.saturating_add(rows.len() as u32);
        if end > session.reserved {
            return Err(ExecutorError::ContextFull { asked: end - 1, most: session.reserved });
        }
        let mut hidden = Vec::new();
        let mut logits = Vec::new();
        for (index, (id, carried)) in rows.iter().enumerate() {
            session.ids.push(*id);
            let sum = carried + digest(&session.ids) * part.blocks().len() as u32;
            let mut state = vec![0.0; shape.hidden as usize];
            state[0] = *id as f32;
            state[1] = sum as f32;
            hidden.extend(state);
            if work.want == Want::AllLogits || index + 1 == rows.len() {
                let peak = sum % shape.vocab;
                logits.extend((0..shape.vocab).map(|id| if id == peak { 8.0 } else { 0.0 }));
            }
        }
        Ok(match work.want {
            Want::Hidden => Output::Hidden(hidden),
            Want::LastLogits | Want::AllLogits => Output::Logits(logits),
            Want::Nothing => Output::Nothing,
        })
    }
}

impl LayerExecutor for EchoExecutor {
    fn span(&self) -> Span {
        self.span
    }

    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn open(&mut self, positions: u32, part: Span) -> Result<KvId, ExecutorError> {
        check_part(self.span, self.shape, part)?;
        if positions > self.shape.context_length {
            let most = self.shape.context_length;
            return Err(ExecutorError::ContextFull { asked: positions, most });
        }
        self.free = self
            .free
            .checked_sub(positions)
            .ok_or(ExecutorError::NoKv { asked: positions, free: self.free })?;
        let kv = KvId(self.next);
        self.next += 1;
        let session = Session { part, reserved: positions, ids: Vec::new(), begun: None };
        self.sessions.insert(kv, session);
        Ok(kv)
    }

    fn close(&mut self, kv: KvId) {
        if let Some(session) = self.sessions.remove(&kv) {
            self.free += session.reserved;
        }
    }

    fn kv_len(&self, kv: KvId) -> Option<u32> {
        self.sessions.get(&kv).map(|session| session.ids.len() as u32)
    }

    fn truncate(&mut self, kv: KvId, len: u32) -> Result<(), ExecutorError> {
        let session = self.sessions.get_mut(&kv).ok_or(ExecutorError::UnknownKv(kv.0))?;
        let have = session.ids.len() as u32;
        if len > have {
            return Err(ExecutorError::WrongStart { asked: len, len: have });
        }
        session.ids.truncate(len as usize);
        session.begun = None;
        Ok(())
    }

    fn fork(&mut self, kv: KvId, len: u32, positions: u32) -> Result<KvId, ExecutorError> {
        let session = self.sessions.get(&kv).ok_or(ExecutorError::UnknownKv(kv.0))?;
        let have = session.ids.len() as u32;
        if len > have {
            return Err(ExecutorError::WrongStart { asked: len, len: have });
        }
        if len > positions {
            return Err(ExecutorError::ContextFull { asked: len, most: positions });
        }
        let (part, ids) = (session.part, session.ids[..len as usize].to_vec());
        let fork = self.open(positions, part)?;
        self.sessions.entry(fork).and_modify(|session| session.ids = ids);
        Ok(fork)
    }

    fn free_positions(&self) -> u32 {
        self.free
    }

    fn step(&mut self, batch: &[Work<'_>]) -> Vec<Result<Output, ExecutorError>> {
        let mut seen = std::collections::BTreeSet::new();
        let once = |work: &Work<'_>| seen.insert(work.kv);
        let fresh: Vec<bool> = batch.iter().map(once).collect();
        batch
            .iter()
            .zip(fresh)
            .map(
                |(work, fresh)| {
                    if fresh { self.work(work) } else { Err(ExecutorError::KvTwice(work.kv.0)) }
                },
            )
            .collect()
    }

    fn begin(&mut self, work: &Work<'_>) -> Result<(), ExecutorError> {
        let session = self.sessions.get_mut(&work.kv).ok_or(ExecutorError::UnknownKv(work.kv.0))?;
        let input = match work.input {
            Input::Tokens(ids) => Given::Tokens(ids.to_vec()),
            Input::Hidden(values) => Given::Hidden(values.to_vec()),
        };
        let left = session.part.blocks().len() as u32;
        session.begun = Some(Begun { start: work.start, input, want: work.want, left });
        Ok(())
    }

    fn proceed(&mut self, kv: KvId) -> Option<Result<Output, ExecutorError>> {
        let begun = self.sessions.get_mut(&kv).and_then(|session| session.begun.as_mut());
        let Some(begun) = begun else { return Some(Err(ExecutorError::NotBegun(kv.0))) };
        begun.left = begun.left.saturating_sub(1);
        if begun.left > 0 {
            return None;
        }
        let Begun { start, input, want, .. } = begun.clone();
        let input = match &input {
            Given::Tokens(ids) => Input::Tokens(ids),
            Given::Hidden(values) => Input::Hidden(values),
        };
        Some(self.work(&Work { kv, start, input, want }))
    }
}

/// Each position's token id and what the blocks before this span have added up.
fn incoming(
    shape: ModelShape,
    span: Span,
    start: u32,
    input: Input<'_>,
) -> Result<Vec<(u32, u32)>, ExecutorError> {
    let rows: Vec<(u32, u32)> = match input {
        Input::Tokens(ids) if span.embed => {
            if let Some(&id) = ids.iter().find(|id| **id >= shape.vocab) {
                return Err(ExecutorError::UnknownToken { id, vocab: shape.vocab });
            }
            ids.iter().map(|id| (*id, 0)).collect()
        }
        Input::Hidden(values) if !span.embed => {
            if !values.len().is_multiple_of(shape.hidden as usize) {
                return Err(ExecutorError::BadShape(
                    "the input is not whole rows of hidden values",
                ));
            }
            let rows = values.chunks_exact(shape.hidden as usize);
            for (position, row) in (start..).zip(rows.clone()) {
                if row.iter().any(|value| !value.is_finite()) {
                    return Err(ExecutorError::NonFinite { position, block: None });
                }
            }
            rows.map(|row| (row[0] as u32, row[1] as u32)).collect()
        }
        Input::Tokens(_) => {
            return Err(ExecutorError::BadShape(
                "tokens were sent to a span without the embedding",
            ));
        }
        Input::Hidden(_) => {
            return Err(ExecutorError::BadShape("hidden states were sent to a span that embeds"));
        }
    };
    if rows.is_empty() {
        return Err(ExecutorError::BadShape("the input holds no position"));
    }
    Ok(rows)
}

/// A small number that every id and its place go into; FNV-1a folded to twelve bits.
fn digest(ids: &[u32]) -> u32 {
    let mixed = ids.iter().fold(0x811c_9dc5_u32, |hash, id| (hash ^ id).wrapping_mul(0x0100_0193));
    (mixed ^ (mixed >> 12) ^ (mixed >> 24)) & 0xfff
}

/// Up to here f32 holds every whole number.
const EXACT: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ModelShape = ModelShape { hidden: 4, vocab: 97, blocks: 6, context_length: 64 };

    fn chain(cuts: &[&str]) -> Vec<EchoExecutor> {
        let span = |cut: &&str| Span::parse_inclusive(cut, SHAPE.blocks).unwrap();
        cuts.iter().map(|cut| EchoExecutor::new(span(cut), SHAPE, 64)).collect()
    }

    /// Runs ids through all spans and gives the best token.
    fn through(hops: &mut [EchoExecutor], kv: KvId, start: u32, ids: &[u32]) -> u32 {
        let mut hidden = Vec::new();
        for hop in hops {
            let input = if hop.span.embed { Input::Tokens(ids) } else { Input::Hidden(&hidden) };
            let want = if hop.span.head { Want::LastLogits } else { Want::Hidden };
            match hop.step(&[Work { kv, start, input, want }]).remove(0).unwrap() {
                Output::Hidden(values) => hidden = values,
                Output::Logits(logits) => {
                    return logits.iter().position(|logit| *logit > 0.0).unwrap() as u32;
                }
                Output::Nothing => unreachable!("something was asked for"),
            }
        }
        unreachable!("the last span has the head")
    }

    #[test]
    fn a_chain_of_echoes_equals_one() {
        for cuts in [&["0-5"][..], &["0-1", "2-3", "4-5"], &["0-0", "1-5"]] {
            let mut hops = chain(cuts);
            let kv = hops.iter_mut().map(|hop| hop.open(32, hop.span()).unwrap()).last().unwrap();
            let mut ids = vec![5, 90, 3];
            let mut next = through(&mut hops, kv, 0, &ids);
            for _ in 0..10 {
                assert_eq!(next, EchoExecutor::next_token(SHAPE, &ids), "{cuts:?}");
                ids.push(next);
                next = through(&mut hops, kv, ids.len() as u32 - 1, &[next]);
            }
        }
    }

    #[test]
    fn a_span_may_be_entered_and_left_midway() {
        let mut whole = chain(&["0-5"]).remove(0);
        let part = |cut| Span::parse_inclusive(cut, SHAPE.blocks).unwrap();
        let [lead, tail] = ["0-3", "4-5"].map(|cut| whole.open(8, part(cut)).unwrap());
        let ids = [5, 90, 3];
        let work = |kv, input, want| Work { kv, start: 0, input, want };
        let first = whole.step(&[work(lead, Input::Tokens(&ids), Want::Hidden)]).remove(0);
        let Ok(Output::Hidden(hidden)) = first else { panic!("{first:?}") };
        let last = whole.step(&[work(tail, Input::Hidden(&hidden), Want::LastLogits)]).remove(0);
        let Ok(Output::Logits(logits)) = last else { panic!("{last:?}") };
        let best = logits.iter().position(|logit| *logit > 0.0).unwrap() as u32;
        assert_eq!(best, EchoExecutor::next_token(SHAPE, &ids));
        let mut first = chain(&["0-3"]).remove(0);
        let mut headed = part("1-3");
        headed.head = true;
        for wrong in [part("2-5"), headed] {
            let span = first.span();
            assert_eq!(first.open(8, wrong), Err(ExecutorError::NotHere { part: wrong, span }));
        }
    }

    #[test]
    fn kv_is_counted_and_misuse_is_named() {
        let mut echo = chain(&["0-5"]).remove(0);
        let whole = echo.span();
        let kv = echo.open(60, whole).unwrap();
        assert_eq!(echo.open(5, whole), Err(ExecutorError::NoKv { asked: 5, free: 4 }));
        let work = |start, input| Work { kv, start, input, want: Want::Nothing };
        let answers = echo.step(&[work(0, Input::Tokens(&[1, 2])), work(2, Input::Tokens(&[3]))]);
        assert_eq!(answers, [Ok(Output::Nothing), Err(ExecutorError::KvTwice(0))]);
        let wrong = echo.step(&[work(5, Input::Tokens(&[1]))]).remove(0);
        assert_eq!(wrong, Err(ExecutorError::WrongStart { asked: 5, len: 2 }));
        let unknown = echo.step(&[work(2, Input::Tokens(&[97]))]).remove(0);
        assert_eq!(unknown, Err(ExecutorError::UnknownToken { id: 97, vocab: 97 }));
        echo.truncate(kv, 1).unwrap();
        assert_eq!(echo.kv_len(kv), Some(1));
        echo.close(kv);
        echo.close(kv);
        assert_eq!((echo.free_positions(), echo.kv_len(kv)), (64, None));
    }
}
