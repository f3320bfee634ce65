//! Models, llama.cpp's answers, and chains of executors over them.
#![allow(dead_code, clippy::unwrap_used, reason = "for tests; each uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use taimatsu_executor::{CpuExecutor, Input, KvId, LayerExecutor, Output, Threads, Want, Work};
use taimatsu_model::catalogue::{GEMMA3_270M, SMOLLM2_135M};
use taimatsu_model::{CatalogueEntry, GgufFile, Manifest, Packs, Store, pull, store};
use taimatsu_protocol::Span;

/// A model file and what it says of itself.
pub(crate) struct Model {
    pub(crate) file: Arc<GgufFile>,
    pub(crate) manifest: Manifest,
    /// Where its packed tensors are kept, so that many chains load quickly.
    packs: Option<Packs>,
}

/// One prompt with llama.cpp's greedy answer.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt_tokens: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) steps: Vec<Step>,
    n: usize,
    stopped: String,
}

impl Case {
    /// Whether the answer has tokens that the reference does not tell: llama.cpp's server is
    /// silent about a token that ends amidst a character, which happens in the Japanese case.
    pub(crate) fn hides_tokens(&self) -> bool {
        self.stopped == "limit" && self.tokens.len() < self.n
    }
}

/// What llama.cpp held likeliest before it chose a token.
#[derive(Deserialize)]
pub(crate) struct Step {
    pub(crate) top: Vec<(u32, f32)>,
    /// The same with weights expanded to f32; in the tiny models' file alone.
    #[serde(default)]
    pub(crate) f32_top: Vec<(u32, f32)>,
}

/// A tiny model's part of the answers.
#[derive(Deserialize)]
pub(crate) struct TinyModel {
    pub(crate) file: String,
    pub(crate) f32_check: F32Check,
    pub(crate) cases: Vec<Case>,
}

/// How far llama.cpp is from itself with f32 weights.
#[derive(Deserialize)]
pub(crate) struct F32Check {
    pub(crate) mean_abs_dlogprob: f64,
}

/// A file of the repository's `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

impl Model {
    /// Opens a GGUF file.
    pub(crate) fn open(path: &Path) -> Self {
        let file = Arc::new(GgufFile::open(path).unwrap());
        let manifest = Manifest::of(&file).unwrap();
        Self { file, manifest, packs: None }
    }

    /// One of `tests/data/tiny`.
    pub(crate) fn tiny(name: &str) -> Self {
        Self::open(&data("tiny").join(name))
    }

    /// The real model, pulled once if it is not stored.
    pub(crate) fn smollm() -> Self {
        Self::real(&SMOLLM2_135M)
    }

    /// The other one, alike.
    pub(crate) fn gemma() -> Self {
        Self::real(&GEMMA3_270M)
    }

    fn real(entry: &'static CatalogueEntry) -> Self {
        let dir = store::dir_from_environment().expect("a home directory");
        let model = pull::ensure(&Store::open(&dir).unwrap(), entry).unwrap();
        let file = Arc::new(GgufFile::open(&model.path).unwrap());
        let packs = Some(Packs::new(Path::new(env!("CARGO_TARGET_TMPDIR"))));
        Self { file, manifest: model.manifest, packs }
    }

    /// A chain of executors, each with `threads` threads and room for `positions`.
    ///
    /// `cuts` names every hop's blocks, inclusive; no cuts: one hop with the whole model.
    pub(crate) fn chain(&self, cuts: &[&str], threads: usize, positions: u32) -> Chain {
        self.chain_on(&Threads::start(threads).unwrap(), cuts, positions)
    }

    /// The same on these threads.
    pub(crate) fn chain_on(&self, threads: &Threads, cuts: &[&str], positions: u32) -> Chain {
        let blocks = self.manifest.blocks;
        let whole = [format!("0-{}", blocks - 1)];
        let cuts: Vec<&str> = if cuts.is_empty() { vec![whole[0].as_str()] } else { cuts.to_vec() };
        let hops = cuts
            .iter()
            .map(|cut| {
                let span = Span::parse_inclusive(cut, blocks).unwrap();
                let packs = self.packs.as_ref();
                let (file, manifest) = (&self.file, &self.manifest);
                let loaded = CpuExecutor::load_on(threads, file, manifest, span, positions, packs);
                let mut executor = loaded.unwrap();
                let kv = executor.open(positions, span).unwrap();
                (executor, kv)
            })
            .collect();
        Chain { hops }
    }
}

/// Spans that together are a model, each with one open session.
pub(crate) struct Chain {
    pub(crate) hops: Vec<(CpuExecutor, KvId)>,
}

impl Chain {
    /// Computes `ids` from position `start`; logits of every position, as `ids x vocab`.
    pub(crate) fn all_logits(&mut self, start: u32, ids: &[u32]) -> Vec<f32> {
        self.step(start, ids, Want::AllLogits)
    }

    /// Computes `ids` from position `start`; the last hop gives what is wanted.
    pub(crate) fn step(&mut self, start: u32, ids: &[u32], want: Want) -> Vec<f32> {
        let mut hidden = Vec::new();
        let last = self.hops.len() - 1;
        for (index, (executor, kv)) in self.hops.iter_mut().enumerate() {
            let input = if index == 0 { Input::Tokens(ids) } else { Input::Hidden(&hidden) };
            let want = if index == last { want } else { Want::Hidden };
            let work = Work { kv: *kv, start, input, want };
            hidden = match executor.step(&[work]).remove(0).unwrap() {
                Output::Hidden(values) | Output::Logits(values) => values,
                Output::Nothing => Vec::new(),
            };
        }
        hidden
    }

    /// Computes `ids` from position 0 in chunks of at most `chunk`; bits of all that is wanted.
    pub(crate) fn bits(&mut self, ids: &[u32], chunk: usize, want: Want) -> Vec<u32> {
        self.truncate(0);
        let mut bits = Vec::new();
        let mut start = 0;
        for ids in ids.chunks(chunk) {
            bits.extend(self.step(start, ids, want).into_iter().map(f32::to_bits));
            start += ids.len() as u32;
        }
        bits
    }

    /// Rolls every hop back.
    pub(crate) fn truncate(&mut self, len: u32) {
        for (executor, kv) in &mut self.hops {
            executor.truncate(*kv, len).unwrap();
        }
    }
}
