//! Gemma 3: scaled embeddings, normed heads, norms around both parts, GeGLU, and five blocks with
//! a sliding window for each that sees all.

use taimatsu_kernels::{Gate, Pairs};
use taimatsu_model::{Hyper, Manifest};

use super::{Layer, Structure, refuse_unknown};
use crate::contract::ExecutorError;

/// Of the blocks with a window.
const LOCAL_BASE: f64 = 10_000.0;

/// Every so many blocks one sees all.
const PATTERN: usize = 6;

/// Blocks of the one size whose queries are scaled by another number than the others'.
const BLOCKS_OF_27B: u32 = 62;

pub(super) fn structure(manifest: &Manifest) -> Result<Structure, ExecutorError> {
    refuse_unknown(manifest, |name, value| match (name, value) {
        ("attention.sliding_window", Hyper::Integer(window)) => *window > 0,
        ("rope.scaling.type", Hyper::Text(kind)) => kind == "linear",
        ("rope.scaling.factor", Hyper::Float(factor)) => f32::from(*factor) > 0.0,
        _ => false,
    })?;
    if manifest.blocks == BLOCKS_OF_27B {
        return Err(ExecutorError::UnsupportedFeature("query scale of Gemma 3 27B".into()));
    }
    let window = match manifest.hyper("attention.sliding_window") {
        Some(Hyper::Integer(window)) => usize::try_from(*window).unwrap_or(usize::MAX),
        _ => return Err(ExecutorError::UnsupportedFeature("no sliding window".into())),
    };
    let stretch = match manifest.hyper("rope.scaling.factor") {
        Some(Hyper::Float(factor)) => f64::from(*factor),
        _ => 1.0,
    };
    let mut structure = Structure::common(manifest);
    structure.pairs = Pairs::Halves;
    structure.gate = Gate::Gelu;
    structure.embedding_scale = Some((manifest.hidden as f32).sqrt());
    structure.head_norms = true;
    structure.post_norms = true;
    structure.tensors.extend([
        "attn_q_norm.weight",
        "attn_k_norm.weight",
        "post_attention_norm.weight",
        "post_ffw_norm.weight",
    ]);
    for (index, layer) in structure.layers.iter_mut().enumerate() {
        *layer = if index % PATTERN == PATTERN - 1 {
            Layer { stretch, ..*layer }
        } else {
            Layer { window, rope_base: LOCAL_BASE, stretch: 1.0 }
        };
    }
    Ok(structure)
}
