//! One hash over all logits of the reference prompts and their answers, whatever computes them and
//! however the work is cut.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/chains.rs"]
mod support;

use serde::Deserialize;
use support::{Case, Chain, Model, data};
use taimatsu_executor::{Input, KvId, LayerExecutor, Output, Threads, Want, Work};
use taimatsu_kernels::Level;

const SMOLLM: &str = "dbc2f41237d4bec2c82d6271f12f6850e9b515aa6b6f2335e8d5aea7ca8b9059";
const GEMMA: &str = "884b0529816aa6e0cdb02d9df3b33f8c5fd46cb1c2029f343ca749e193947def";

/// A model, what is asked of it, and the hash that K1 gives.
struct Subject {
    model: Model,
    cases: Vec<Vec<u32>>,
    hash: &'static str,
}

impl Subject {
    fn all() -> [Self; 2] {
        let smollm = "smollm2-135m-instruct-q4_1.json";
        let gemma = "gemma-3-270m-q4_k_m.json";
        [
            Self { model: Model::smollm(), cases: cases(smollm), hash: SMOLLM },
            Self { model: Model::gemma(), cases: cases(gemma), hash: GEMMA },
        ]
    }

    fn blocks(&self) -> u32 {
        self.model.manifest.blocks
    }

    /// All cases one after the other, in chunks.
    fn check(&self, how: &str, threads: &Threads, cuts: &[&str], chunk: usize) {
        let mut chain = self.model.chain_on(threads, cuts, 128);
        let mut hash = blake3::Hasher::new();
        for case in &self.cases {
            chain.truncate(0);
            for (start, ids) in (0..).step_by(chunk).zip(case.chunks(chunk)) {
                take(&mut hash, &chain.all_logits(start, ids));
            }
        }
        self.is(&hash, how);
    }

    fn is(&self, hash: &blake3::Hasher, how: &str) {
        let found = hash.finalize().to_hex();
        eprintln!("{found}");
        if !self.hash.is_empty() {
            assert_eq!(found.as_str(), self.hash, "{}: {how}", self.model.manifest.architecture);
        }
    }
}

/// Ids of each reference prompt and its answer.
fn cases(file: &str) -> Vec<Vec<u32>> {
    #[derive(Deserialize)]
    struct Reference {
        cases: Vec<Case>,
    }
    let reference: Reference = serde_json::from_slice(&std::fs::read(data(file)).unwrap()).unwrap();
    let all = reference.cases.into_iter();
    all.map(|case| [case.prompt_tokens, case.tokens].concat()).collect()
}

fn take(hash: &mut blake3::Hasher, logits: &[f32]) {
    let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_bits().to_le_bytes()).collect();
    hash.update(&bytes);
}

/// The scalar code is the specification.
#[test]
fn the_scalar_code_gives_it() {
    let threads = Threads::at(Level::Scalar, 2).unwrap();
    for subject in Subject::all() {
        subject.check("scalar", &threads, &[], 512);
    }
}

#[test]
fn vectors_threads_and_chunks_do_not_show() {
    let runs = [(1, 512), (2, 1), (3, 7), (4, 32), (5, 512), (6, 1), (7, 7), (8, 32)];
    for subject in Subject::all() {
        for level in Level::all().into_iter().filter(|level| *level != Level::Scalar) {
            for (threads, chunk) in runs {
                let how = format!("{level}, {threads} threads, chunks of {chunk}");
                subject.check(&how, &Threads::at(level, threads).unwrap(), &[], chunk);
            }
        }
    }
}

#[test]
fn no_cut_shows() {
    let threads = Threads::start(2).unwrap();
    for subject in Subject::all() {
        let last = subject.blocks() - 1;
        for cut in 1..=last {
            let (first, second) = (format!("0-{}", cut - 1), format!("{cut}-{last}"));
            subject.check(&format!("cut before {cut}"), &threads, &[&first, &second], 512);
        }
        let single: Vec<String> = (0..=last).map(|block| format!("{block}-{block}")).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        subject.check("a hop for each block", &threads, &single, 32);
    }
}

/// What was computed and taken back leaves no trace, and an answer is what its replay gives.
#[test]
fn no_rollback_shows() {
    let threads = Threads::start(2).unwrap();
    for subject in Subject::all() {
        let mut chain = subject.model.chain_on(&threads, &[], 256);
        let mut hash = blake3::Hasher::new();
        for case in &subject.cases {
            chain.truncate(0);
            let half = case.len() / 2;
            let first = chain.all_logits(0, &case[..half]);
            chain.step(half as u32, &[7; 40], Want::Nothing);
            chain.truncate(half as u32);
            let rest: Vec<f32> = (half..case.len())
                .flat_map(|at| chain.all_logits(at as u32, &case[at..=at]))
                .collect();
            take(&mut hash, &first);
            take(&mut hash, &rest);
        }
        subject.is(&hash, "rolled back");
    }
}

/// Every case twice in one batch of up to sixteen, which end one after the other.
#[test]
fn no_company_shows() {
    for subject in Subject::all() {
        let count = subject.cases.len();
        let Chain { mut hops } = subject.model.chain(&[], 2, 2 * 8 * 128);
        let (mut executor, first) = hops.remove(0);
        executor.close(first);
        let span = executor.span();
        let cases: Vec<&Vec<u32>> = subject.cases.iter().cycle().take(2 * count).collect();
        let kvs: Vec<KvId> = cases.iter().map(|_| executor.open(128, span).unwrap()).collect();
        let mut logits: Vec<Vec<f32>> = vec![Vec::new(); cases.len()];
        for start in (0..128).step_by(9) {
            let lasting = (0..cases.len()).filter(|index| start < cases[*index].len());
            let lasting: Vec<usize> = lasting.collect();
            let work = |index: &usize| {
                let ids = cases[*index][start..].chunks(9).next().unwrap();
                let (kv, input) = (kvs[*index], Input::Tokens(ids));
                Work { kv, start: start as u32, input, want: Want::AllLogits }
            };
            let batch: Vec<Work<'_>> = lasting.iter().map(work).collect();
            for (index, answer) in lasting.iter().zip(executor.step(&batch)) {
                let Ok(Output::Logits(more)) = answer else { panic!("logits") };
                logits[*index].extend(more);
            }
        }
        for half in logits.chunks(count) {
            let mut hash = blake3::Hasher::new();
            half.iter().for_each(|logits| take(&mut hash, logits));
            subject.is(&hash, "in a batch");
        }
    }
}
