//! From logits to a token: filters in a fixed order, sums in a fixed order, random words by token
//! id, so that a sampled answer can be recomputed to the bit by whoever knows its seed.
//!
//! The choice is Gumbel-max: `argmax(logit + g(id))`, where `g(id)` comes from word `id` of a
//! ChaCha20 stream of its own per (seed, position, choice). That draws from the softmax, and each
//! token's luck depends on its id alone, not on which other tokens the filters left.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use taimatsu_protocol::Sampling;
use taimatsu_protocol::sampling::GREEDY_BELOW;

/// What stands before a token that is to be chosen.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// What was asked.
    pub prompt: &'a [u32],
    /// The answer so far.
    pub answer: &'a [u32],
}

/// Chooses tokens by one set of parameters.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    parameters: Sampling,
}

impl Sampler {
    /// A sampler for parameters that [`Sampling::out_of_range`] finds nothing wrong with.
    #[must_use]
    pub const fn new(parameters: Sampling) -> Self {
        Self { parameters }
    }

    /// The token for `position`, from its `logits` (one per id).
    ///
    /// A logit that is not a number is never chosen; with nothing to choose from it is token 0.
    #[must_use]
    pub fn sample(&self, logits: &[f32], history: History<'_>, position: u32) -> u32 {
        let mut logits = logits.to_vec();
        self.penalise(&mut logits, history);
        if self.parameters.temperature < GREEDY_BELOW {
            return greedy(&logits);
        }
        let filtered = self.parameters.top_p < 1.0 || self.parameters.min_p > 0.0;
        let kept = match self.parameters.top_k {
            0 if filtered => ranked(&logits, logits.len()),
            0 => numbers(&logits).collect(),
            k => ranked(&logits, k as usize),
        };
        let mut kept: Vec<Candidate> = kept
            .into_iter()
            .map(|(id, logit)| Candidate { id, logit: logit / self.parameters.temperature })
            .collect();
        self.filter(&mut kept);
        let mut luck = Luck::new(self.parameters.seed, position, self.parameters.choice);
        let mut best: Option<(f64, u32)> = None;
        for candidate in &kept {
            let score = f64::from(candidate.logit) + luck.gumbel(candidate.id);
            let better =
                best.is_none_or(|(top, id)| score > top || (score == top && candidate.id < id));
            if better {
                best = Some((score, candidate.id));
            }
        }
        best.map_or(0, |(_, id)| id)
    }

    /// The penalties, in their fixed order; each token is seen to once.
    fn penalise(&self, logits: &mut [f32], History { prompt, answer }: History<'_>) {
        let Sampling { repeat_penalty, frequency_penalty, presence_penalty, .. } = self.parameters;
        if repeat_penalty != 1.0 {
            let seen: BTreeSet<u32> = prompt.iter().chain(answer).copied().collect();
            for id in seen {
                if let Some(logit) = logits.get_mut(id as usize) {
                    // CTRL's penalty (arXiv 1909.05858).
                    let up = *logit > 0.0;
                    *logit = if up { *logit / repeat_penalty } else { *logit * repeat_penalty };
                }
            }
        }
        if frequency_penalty == 0.0 && presence_penalty == 0.0 {
            return;
        }
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for id in answer {
            *counts.entry(*id).or_default() += 1;
        }
        for (id, count) in counts {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= frequency_penalty * count as f32;
                *logit -= presence_penalty;
            }
        }
    }

    /// Top-p and min-p on candidates in falling order; at least one is left.
    fn filter(&self, kept: &mut Vec<Candidate>) {
        let Sampling { top_p, min_p, .. } = self.parameters;
        let Some(best) = kept.first().map(|first| f64::from(first.logit)) else { return };
        let share = |candidate: &Candidate| libm::exp(f64::from(candidate.logit) - best);
        if top_p < 1.0 {
            let total: f64 = kept.iter().map(share).sum();
            let mut reached = 0.0;
            let enough = kept.iter().position(|candidate| {
                reached += share(candidate);
                reached >= total * f64::from(top_p)
            });
            kept.truncate(enough.map_or(kept.len(), |index| index + 1));
        }
        if min_p > 0.0 {
            let first_below = kept.iter().position(|candidate| share(candidate) < f64::from(min_p));
            kept.truncate(first_below.unwrap_or(kept.len()).max(1));
        }
    }
}

/// The natural logs of probabilities over the whole vocabulary: of one token, if it is in there, and
/// of the `k` likeliest, falling, ties to the lowest id. Logits that are not numbers are left out.
#[must_use]
pub fn log_softmax(logits: &[f32], id: Option<u32>, k: usize) -> (Option<f32>, Vec<(u32, f32)>) {
    let log_total = log_total(logits);
    let log = |logit: f32| (f64::from(logit) - log_total) as f32;
    let own = id.and_then(|id| logits.get(id as usize)).filter(|logit| !logit.is_nan());
    let top = ranked(logits, k).into_iter().map(|(id, logit)| (id, log(logit)));
    (own.map(|logit| log(*logit)), top.collect())
}

/// A token that may still be chosen.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    /// Already divided by the temperature.
    logit: f32,
}

/// The random words of one choice: word `id` of a ChaCha20 stream.
struct Luck {
    stream: ChaCha20,
    /// The block that holds the words `16 * index ..`, once one was asked for.
    block: Option<(u32, [u8; BLOCK_BYTES])>,
}

impl Luck {
    fn new(seed: u64, position: u32, choice: u32) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..8 + DOMAIN.len()].copy_from_slice(DOMAIN);
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&position.to_le_bytes());
        nonce[4..8].copy_from_slice(&choice.to_le_bytes());
        Self { stream: ChaCha20::new(&key.into(), &nonce.into()), block: None }
    }

    /// A standard Gumbel variate from word `id`.
    fn gumbel(&mut self, id: u32) -> f64 {
        // The middle of each of 2^32 equal intervals: never 0 or 1, so both logs are finite.
        let uniform = (f64::from(self.word(id)) + 0.5) / 4_294_967_296.0;
        -libm::log(-libm::log(uniform))
    }

    fn word(&mut self, id: u32) -> u32 {
        let (index, within) = (id / WORDS_PER_BLOCK, (id % WORDS_PER_BLOCK) as usize * 4);
        let bytes = match &self.block {
            Some((at, bytes)) if *at == index => *bytes,
            _ => {
                let mut bytes = [0; BLOCK_BYTES];
                self.stream.seek(u64::from(index) * BLOCK_BYTES as u64);
                self.stream.apply_keystream(&mut bytes);
                self.block = Some((index, bytes));
                bytes
            }
        };
        let word = bytes[within..within + 4].try_into().expect("four bytes of a block");
        u32::from_le_bytes(word)
    }
}

/// The highest logit, ties to the lowest id.
fn greedy(logits: &[f32]) -> u32 {
    let mut best: Option<(usize, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|(_, top)| logit > top) {
            best = Some((id, logit));
        }
    }
    best.map_or(0, |(id, _)| id as u32)
}

/// Every token whose logit is a number, in the order of the ids.
fn numbers(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> {
    (0..).zip(logits.iter().copied()).filter(|(_, logit)| !logit.is_nan())
}

/// The `k` best tokens, falling, ties to the lowest id.
fn ranked(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    // `partial_cmp` and not `total_cmp`: both zeros tie.
    let falling = |(a_id, a): &(u32, f32), (b_id, b): &(u32, f32)| {
        b.partial_cmp(a).unwrap_or(Ordering::Equal).then(a_id.cmp(b_id))
    };
    let mut ranked: Vec<(u32, f32)> = numbers(logits).collect();
    if k < ranked.len() {
        // Sorting a whole vocabulary takes longer than all the rest of a choice.
        ranked.select_nth_unstable_by(k, falling);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(falling);
    ranked
}

/// The natural log of the sum of exponentials, summed in the order of the ids.
fn log_total(logits: &[f32]) -> f64 {
    let values = || numbers(logits).map(|(_, logit)| f64::from(logit));
    let best = values().fold(f64::NEG_INFINITY, f64::max);
    best + libm::log(values().map(|logit| libm::exp(logit - best)).sum())
}

/// Fills the rest of the key, so that no other use of ChaCha20 shares the stream.
const DOMAIN: &[u8] = b"taimatsu sampling 1";

/// One ChaCha20 block.
const BLOCK_BYTES: usize = 64;

/// Four bytes a word.
const WORDS_PER_BLOCK: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing stands before.
    const ALONE: History<'_> = History { prompt: &[], answer: &[] };

    fn after<'a>(prompt: &'a [u32], answer: &'a [u32]) -> History<'a> {
        History { prompt, answer }
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, seed: 7, ..Sampling::greedy() }
    }

    fn drawn(parameters: Sampling, logits: &[f32], draws: u32) -> Vec<u32> {
        let sampler = Sampler::new(parameters);
        let mut counts = vec![0; logits.len()];
        for position in 0..draws {
            counts[sampler.sample(logits, ALONE, position) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_best_and_ties_go_to_the_lowest_id() {
        let sampler = Sampler::new(Sampling::greedy());
        assert_eq!(sampler.sample(&[0.0, 2.0, 3.0, 3.0], ALONE, 0), 2);
        assert_eq!(sampler.sample(&[f32::NAN, -0.0, 0.0], ALONE, 0), 1);
        assert_eq!(sampler.sample(&[f32::NAN; 3], ALONE, 0), 0);
        assert_eq!(sampler.sample(&[], ALONE, 0), 0);
    }

    #[test]
    fn the_coldest_are_greedy() {
        let logits = [5.0, 90.0, 90.5, -3.0];
        for temperature in [0.0, 1e-45, 1e-38, 9e-7] {
            let sampler = Sampler::new(Sampling { temperature, ..warm() });
            assert_eq!(sampler.sample(&logits, History { prompt: &[], answer: &[] }, 4), 2);
        }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0_f32, 1.0, 2.0, -1.0, 0.5];
        for temperature in [0.5_f32, 1.0, 2.0] {
            let draws = 20_000;
            let counts = drawn(Sampling { temperature, ..warm() }, &logits, draws);
            let weights: Vec<f64> =
                logits.iter().map(|&logit| f64::from(logit / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let chi: f64 = counts.iter().zip(&weights).fold(0.0, |chi, (&count, weight)| {
                let expected = f64::from(draws) * weight / total;
                chi + (f64::from(count) - expected).powi(2) / expected
            });
            // 99.9 % point of chi-square with four degrees of freedom; the seed is fixed.
            assert!(chi < 18.47, "temperature {temperature}: {chi} from {counts:?}");
        }
    }

    #[test]
    fn seed_position_and_choice_each_matter_and_nothing_else_does() {
        let logits = vec![0.0; 1000];
        let sampler = Sampler::new(warm());
        let first = sampler.sample(&logits, ALONE, 5);
        assert_eq!(sampler.sample(&logits, ALONE, 5), first);
        assert_ne!(sampler.sample(&logits, ALONE, 6), first);
        let second = Sampler::new(Sampling { choice: 1, ..warm() });
        assert_ne!(second.sample(&logits, ALONE, 5), first);
        let other = Sampler::new(Sampling { seed: 8, ..warm() });
        assert_ne!(other.sample(&logits, ALONE, 5), first);
        // The winner of all tokens still wins among fewer.
        let mut fewer = vec![f32::NEG_INFINITY; 1000];
        fewer[first as usize] = 0.0;
        fewer[(first as usize + 1) % 1000] = 0.0;
        assert_eq!(sampler.sample(&fewer, ALONE, 5), first);
    }

    #[test]
    fn filters_leave_what_they_say() {
        let logits: Vec<f32> = [0.4_f32, 0.1, 0.3, 0.2].iter().map(|share| share.ln()).collect();
        let left = |parameters: Sampling| -> Vec<usize> {
            let counts = drawn(parameters, &logits, 500);
            (0..logits.len()).filter(|&id| counts[id] > 0).collect()
        };
        assert_eq!(left(warm()), [0, 1, 2, 3]);
        assert_eq!(left(Sampling { top_k: 2, ..warm() }), [0, 2]);
        assert_eq!(left(Sampling { top_p: 0.5, ..warm() }), [0, 2]);
        assert_eq!(left(Sampling { top_p: 0.75, ..warm() }), [0, 2, 3]);
        assert_eq!(left(Sampling { min_p: 0.3, ..warm() }), [0, 2, 3]);
        assert_eq!(left(Sampling { top_k: 3, top_p: 0.7, ..warm() }), [0, 2]);
        assert_eq!(left(Sampling { min_p: 1.0, ..warm() }), [0]);
    }

    #[test]
    fn repetition_is_penalised_once_on_either_side_of_zero() {
        let sampler = Sampler::new(Sampling { repeat_penalty: 2.0, ..Sampling::greedy() });
        assert_eq!(sampler.sample(&[3.0, 2.0], after(&[0, 0, 9], &[0]), 0), 1);
        assert_eq!(sampler.sample(&[3.0, 1.0], after(&[0, 0], &[0]), 0), 0);
        assert_eq!(sampler.sample(&[-1.0, -1.5], after(&[0], &[]), 0), 1);
    }

    #[test]
    fn what_the_answer_holds_is_penalised_and_what_the_prompt_holds_is_not() {
        let presence = Sampler::new(Sampling { presence_penalty: 1.5, ..Sampling::greedy() });
        assert_eq!(presence.sample(&[2.0, 1.0], after(&[0, 0, 0], &[]), 0), 0);
        assert_eq!(presence.sample(&[2.0, 1.0], after(&[], &[0]), 0), 1);
        assert_eq!(presence.sample(&[3.0, 1.0], after(&[], &[0, 0, 0]), 0), 0, "however often");
        assert_eq!(presence.sample(&[3.0, 1.0], after(&[], &[9]), 0), 0, "an id of no token");
        let frequency = Sampler::new(Sampling { frequency_penalty: 0.75, ..Sampling::greedy() });
        assert_eq!(frequency.sample(&[3.0, 1.0], after(&[0, 0, 0], &[0, 0]), 0), 0);
        assert_eq!(frequency.sample(&[3.0, 1.0], after(&[], &[0, 0, 0]), 0), 1, "each time");
        let wanted = Sampler::new(Sampling { presence_penalty: -2.0, ..Sampling::greedy() });
        assert_eq!(wanted.sample(&[2.0, 1.0], after(&[], &[1]), 0), 1);
    }

    #[test]
    fn the_answer_is_penalised_after_repetition_is() {
        let both = Sampling { repeat_penalty: 2.0, presence_penalty: 1.0, ..Sampling::greedy() };
        // 4 / 2 - 1 = 1, and not (4 - 1) / 2 = 1.5.
        assert_eq!(Sampler::new(both).sample(&[4.0, 1.25], after(&[], &[0]), 0), 1);
    }

    #[test]
    fn the_words_are_those_of_chacha20() {
        let mut luck = Luck::new(1, 2, 3);
        let scattered: Vec<u32> = [40, 3, 17, 16, 3].iter().map(|&id| luck.word(id)).collect();
        let ordered: Vec<u32> = (0..41).map(|id| luck.word(id)).collect();
        assert_eq!(scattered, [ordered[40], ordered[3], ordered[17], ordered[16], ordered[3]]);
        let mut key = [0; 32];
        key[0] = 1;
        key[8..27].copy_from_slice(b"taimatsu sampling 1");
        let nonce = [2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        let mut bytes = [0; 4 * 41];
        ChaCha20::new(&key.into(), &nonce.into()).apply_keystream(&mut bytes);
        assert_eq!(bytes[160..164], ordered[40].to_le_bytes());
    }

    #[test]
    fn logprobs_are_over_the_whole_vocabulary() {
        let logits: Vec<f32> = [0.25_f32, 0.5, 0.25].iter().map(|share| share.ln() + 9.0).collect();
        let (second, top) = log_softmax(&logits, Some(1), 2);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0]);
        assert!((top[0].1 - 0.5_f32.ln()).abs() < 1e-6 && (top[1].1 - 0.25_f32.ln()).abs() < 1e-6);
        assert_eq!(log_softmax(&logits, None, 9).1.len(), 3);
        assert_eq!(second, Some(top[0].1));
        assert_eq!(log_softmax(&logits, Some(3), 0), (None, vec![]));
        assert!(log_softmax(&[f32::NAN, 1.0], Some(0), 2) == (None, vec![(1, 0.0)]));
    }
}
