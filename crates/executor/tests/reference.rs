//! Answers against llama.cpp's, teacher-forced: its tokens go in, our logits are compared.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/chains.rs"]
mod support;

use serde::Deserialize;
use support::{Case, Chain, Model, Step, TinyModel, data};
use taimatsu_executor::log_softmax;

/// Margin in nats above which another engine's rounding does not change the best token.
const CLEAR: f32 = 0.5;

#[test]
fn smollm_answers_as_llama_cpp_does() {
    real_answers_as_llama_cpp_does(&Model::smollm(), "smollm2-135m-instruct-q4_1.json", 8);
}

#[test]
fn gemma_answers_as_llama_cpp_does() {
    real_answers_as_llama_cpp_does(&Model::gemma(), "gemma-3-270m-q4_k_m.json", 5);
}

fn real_answers_as_llama_cpp_does(model: &Model, file: &str, cases: usize) {
    #[derive(Deserialize)]
    struct Reference {
        cases: Vec<Case>,
    }
    let text = std::fs::read(data(file)).unwrap();
    let reference: Reference = serde_json::from_slice(&text).unwrap();
    assert_eq!(reference.cases.len(), cases);
    let mut chain = model.chain(&[], 2, 512);
    let mut apart = Mean::default();
    for (index, case) in reference.cases.iter().enumerate() {
        for (step, ours) in case.steps.iter().zip(forced(&mut chain, case)) {
            if margin(step) >= CLEAR {
                assert_eq!(ours.best, step.top[0].0, "case {index}: {:?}", step.top);
            }
            apart.add(&ours, &step.top[..5]);
        }
    }
    assert!(apart.value() <= 0.25, "the top five are {} nats apart on average", apart.value());
    eprintln!("the top five are {:.4} nats apart on average", apart.value());
}

#[test]
fn tiny_models_answer_as_llama_cpp_does() {
    #[derive(Deserialize)]
    struct Reference {
        models: Vec<TinyModel>,
    }
    let text = std::fs::read(data("tiny/tiny.json")).unwrap();
    let reference: Reference = serde_json::from_slice(&text).unwrap();
    assert_eq!(reference.models.len(), 10);
    for model in reference.models {
        let mut chain = Model::tiny(&model.file).chain(&[], 1, 512);
        let (mut missed, mut steps, mut apart) = (0, 0, Mean::default());
        for case in &model.cases {
            for (step, ours) in case.steps.iter().zip(forced(&mut chain, case)) {
                steps += 1;
                missed += u32::from(margin(step) > CLEAR && ours.best != step.top[0].0);
                apart.add(&ours, &step.f32_top[..3]);
            }
        }
        let most = (1.25 * model.f32_check.mean_abs_dlogprob).max(0.03);
        eprintln!("{}: {missed} of {steps} missed, {:.4} nats apart", model.file, apart.value());
        assert!(steps >= 48 && missed <= 1, "{}: {missed} of {steps} missed", model.file);
        assert!(apart.value() <= most, "{}: {} nats apart, {most}", model.file, apart.value());
    }
}

/// What we say before each token of the answer that the reference tells of.
fn forced(chain: &mut Chain, case: &Case) -> Vec<Answer> {
    assert_eq!(case.steps.len(), case.tokens.len());
    let mut ids = case.prompt_tokens.clone();
    let mut told = Vec::new();
    for token in &case.tokens {
        if case.hides_tokens() && *token < BYTES {
            ids.push(LEAD);
        }
        told.push(ids.len() - 1);
        ids.push(*token);
    }
    chain.truncate(0);
    let logits = chain.all_logits(0, &ids);
    let vocab = logits.len() / ids.len();
    told.into_iter().map(|at| Answer::of(&logits[at * vocab..][..vocab])).collect()
}

/// Log-probabilities of a whole vocabulary.
struct Answer {
    best: u32,
    logprobs: Vec<f32>,
}

impl Answer {
    fn of(logits: &[f32]) -> Self {
        let (best, logprob) = log_softmax(logits, None, 1).1[0];
        let shift = logprob - logits[best as usize];
        Self { best, logprobs: logits.iter().map(|logit| logit + shift).collect() }
    }
}

/// How far the reference's best token is ahead of its second.
fn margin(step: &Step) -> f32 {
    step.top[0].1 - step.top[1].1
}

/// The mean distance of logprobs.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, ours: &Answer, theirs: &[(u32, f32)]) {
        for (id, logprob) in theirs {
            self.sum += f64::from((ours.logprobs[*id as usize] - logprob).abs());
            self.count += 1;
        }
    }

    fn value(&self) -> f64 {
        self.sum / f64::from(self.count)
    }
}

/// Tokens below this are single bytes.
const BYTES: u32 = 256;

/// The first two bytes of most hiragana, as one token.
const LEAD: u32 = 7365;
