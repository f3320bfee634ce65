//! What a model is made of, beside its weights: read from the manifest, one file an architecture.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use taimatsu_kernels::{Gate, Pairs};
use taimatsu_model::{Hyper, Manifest};

use crate::contract::{ExecutorError, ModelShape};

/// A transformer of the family that these blocks can build.
#[derive(Debug, Clone)]
pub(super) struct Structure {
    pub(super) shape: ModelShape,
    /// Values per position between blocks.
    pub(super) hidden: usize,
    /// Query heads.
    pub(super) heads: usize,
    /// Key and value heads; divides `heads`.
    pub(super) kv_heads: usize,
    /// Length of a head.
    pub(super) head: usize,
    /// Inner width of the feed-forward part.
    pub(super) feed_forward: usize,
    /// Leading values of a head that are rotated; even.
    pub(super) rotated: usize,
    /// Which of them belong together.
    pub(super) pairs: Pairs,
    /// Added to the mean square before its root.
    pub(super) epsilon: f32,
    /// How the feed-forward part lets values through.
    pub(super) gate: Gate,
    /// Embeddings are multiplied by it.
    pub(super) embedding_scale: Option<f32>,
    /// The file may have a divisor for each frequency of the rotation.
    pub(super) rope_factors: bool,
    /// Queries, keys and values have something added to them before they are normed or rotated.
    pub(super) biases: bool,
    /// Query and key heads are normed before their rotation.
    pub(super) head_norms: bool,
    /// What attention and feed-forward add is normed first.
    pub(super) post_norms: bool,
    /// What differs from block to block.
    pub(super) layers: Vec<Layer>,
    /// The names of a block's tensors, without `blk.N.`.
    pub(super) tensors: Vec<&'static str>,
}

/// One block's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Layer {
    /// A query sees so many positions, its own among them.
    pub(super) window: usize,
    /// Base of the rotation's wavelengths.
    pub(super) rope_base: f64,
    /// Divides positions in the rotation.
    pub(super) stretch: f64,
}

impl Structure {
    /// The structure of a model, if this executor computes it rightly.
    ///
    /// # Errors
    /// An architecture or a hyper-parameter that it does not know, by name.
    pub(super) fn of(manifest: &Manifest) -> Result<Self, ExecutorError> {
        let structure = match manifest.architecture.as_str() {
            "llama" => llama::structure(manifest)?,
            "gemma3" => gemma3::structure(manifest)?,
            "qwen2" => qwen2::structure(manifest)?,
            "qwen3" => qwen3::structure(manifest)?,
            other => return Err(ExecutorError::UnsupportedArchitecture(other.to_owned())),
        };
        structure.check(manifest)
    }

    /// What is alike in all architectures.
    fn common(manifest: &Manifest) -> Self {
        let layer =
            Layer { window: usize::MAX, rope_base: f64::from(manifest.rope_base), stretch: 1.0 };
        Self {
            shape: ModelShape {
                hidden: manifest.hidden,
                vocab: manifest.vocab,
                blocks: manifest.blocks,
                context_length: manifest.context_length,
            },
            hidden: manifest.hidden as usize,
            heads: manifest.heads as usize,
            kv_heads: manifest.kv_heads as usize,
            head: manifest.head_dim as usize,
            feed_forward: manifest.feed_forward as usize,
            rotated: manifest.rope_dims as usize,
            pairs: Pairs::Neighbours,
            epsilon: f32::from(manifest.rms_epsilon),
            gate: Gate::Silu,
            embedding_scale: None,
            rope_factors: false,
            biases: false,
            head_norms: false,
            post_norms: false,
            layers: vec![layer; manifest.blocks as usize],
            tensors: BLOCK.to_vec(),
        }
    }

    fn check(self, manifest: &Manifest) -> Result<Self, ExecutorError> {
        let whole = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        if !whole || self.hidden == 0 || self.head == 0 || self.feed_forward == 0 {
            return Err(ExecutorError::BadShape(
                "the model's heads and widths do not fit together",
            ));
        }
        if manifest.value_dim != manifest.head_dim {
            return Err(ExecutorError::BadShape("the model's keys and values differ in width"));
        }
        if !self.rotated.is_multiple_of(2) || self.rotated > self.head {
            return Err(ExecutorError::BadShape("the model rotates more of a head than there is"));
        }
        Ok(self)
    }
}

/// Refuses a model with a hyper-parameter that none of these knows.
fn refuse_unknown(
    manifest: &Manifest,
    known: impl Fn(&str, &Hyper) -> bool,
) -> Result<(), ExecutorError> {
    let idle = |name: &str, value: &Hyper| match (name, value) {
        ("expert_count" | "expert_used_count", Hyper::Integer(count)) => *count == 0,
        ("rope.scaling.type", Hyper::Text(kind)) => kind == "none",
        ("attention.causal", Hyper::Bool(causal)) => *causal,
        _ => known(name, value),
    };
    match manifest.extra.iter().find(|(name, value)| !idle(name, value)) {
        Some((name, _)) => Err(ExecutorError::UnsupportedFeature(name.clone())),
        None => Ok(()),
    }
}

/// Tensors of every block.
const BLOCK: [&str; 9] = [
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
];
