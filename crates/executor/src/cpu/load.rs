//! From a GGUF file to the weights of a span: every tensor that the span takes is looked up,
//! measured and of a known kind, or the load is refused by name.

use std::sync::Arc;

use taimatsu_model::{GgufFile, Hyper, Manifest, TensorView};
use taimatsu_protocol::Span;

use super::Head;
use super::block::{Block, Dims};
use super::formats::Format;
use super::linear::Matrix;
use crate::contract::{ExecutorError, ModelShape};

/// The dimensions that a manifest tells, if they are those of a Llama model that this executor
/// computes rightly.
pub(super) fn dimensions(manifest: &Manifest) -> Result<(ModelShape, Dims), ExecutorError> {
    if manifest.architecture != "llama" {
        return Err(ExecutorError::UnsupportedArchitecture(manifest.architecture.clone()));
    }
    if let Some((name, _)) = manifest.extra.iter().find(|(name, value)| !is_idle(name, value)) {
        return Err(ExecutorError::UnsupportedFeature(name.clone()));
    }
    let dims = Dims {
        hidden: manifest.hidden as usize,
        heads: manifest.heads as usize,
        kv_heads: manifest.kv_heads as usize,
        head: manifest.head_dim as usize,
        feed_forward: manifest.feed_forward as usize,
        rotated: manifest.rope_dims as usize,
        rope_base: f64::from(manifest.rope_base),
        epsilon: f64::from(manifest.rms_epsilon),
    };
    let whole = dims.kv_heads > 0 && dims.heads.is_multiple_of(dims.kv_heads);
    if !whole || dims.hidden == 0 || dims.head == 0 || dims.feed_forward == 0 {
        return Err(ExecutorError::BadShape("the model's heads and widths do not fit together"));
    }
    if manifest.value_dim != manifest.head_dim {
        return Err(ExecutorError::BadShape("the model's keys and values differ in width"));
    }
    if !dims.rotated.is_multiple_of(2) || dims.rotated > dims.head {
        return Err(ExecutorError::BadShape("the model rotates more of a head than there is"));
    }
    let shape = ModelShape {
        hidden: manifest.hidden,
        vocab: manifest.vocab,
        blocks: manifest.blocks,
        context_length: manifest.context_length,
    };
    Ok((shape, dims))
}

/// The tensors of one span.
pub(super) struct Weights<'a> {
    file: &'a Arc<GgufFile>,
}

impl<'a> Weights<'a> {
    /// Looks through the span's tensors; refuses one that a Llama block does not have, because
    /// an answer without it would be wrong.
    pub(super) fn new(
        file: &'a Arc<GgufFile>,
        manifest: &Manifest,
        span: Span,
    ) -> Result<Self, ExecutorError> {
        for tensor in manifest.tensors_of(span) {
            if !is_known(&tensor.name) {
                return Err(ExecutorError::UnsupportedFeature(tensor.name.clone()));
            }
        }
        Ok(Self { file })
    }

    pub(super) fn embedding(
        &self,
        dims: &Dims,
        shape: &ModelShape,
    ) -> Result<Matrix, ExecutorError> {
        self.matrix(EMBEDDING, shape.vocab as usize, dims.hidden)
    }

    /// The head; a file without a matrix for it uses the embedding's.
    pub(super) fn head(&self, dims: &Dims, shape: &ModelShape) -> Result<Head, ExecutorError> {
        let name = if self.file.tensor(OUTPUT).is_some() { OUTPUT } else { EMBEDDING };
        Ok(Head {
            norm: self.vector("output_norm.weight", dims.hidden)?,
            output: self.matrix(name, shape.vocab as usize, dims.hidden)?,
        })
    }

    pub(super) fn block(&self, dims: &Dims, index: u32) -> Result<Block, ExecutorError> {
        let Dims { hidden, heads, kv_heads, head, feed_forward, .. } = *dims;
        let matrix = |name: &str, rows, width| {
            self.matrix(&format!("blk.{index}.{name}.weight"), rows, width)
        };
        let vector = |name: &str| self.vector(&format!("blk.{index}.{name}.weight"), hidden);
        Ok(Block {
            attn_norm: vector("attn_norm")?,
            query: matrix("attn_q", heads * head, hidden)?,
            key: matrix("attn_k", kv_heads * head, hidden)?,
            value: matrix("attn_v", kv_heads * head, hidden)?,
            output: matrix("attn_output", hidden, heads * head)?,
            ffn_norm: vector("ffn_norm")?,
            gate: matrix("ffn_gate", feed_forward, hidden)?,
            up: matrix("ffn_up", feed_forward, hidden)?,
            down: matrix("ffn_down", hidden, feed_forward)?,
        })
    }

    fn matrix(&self, name: &str, rows: usize, width: usize) -> Result<Matrix, ExecutorError> {
        let (format, row_bytes, _) = self.measured(name, &[width as u64, rows as u64])?;
        Ok(Matrix::new(Arc::clone(self.file), name.into(), format, rows, width, row_bytes))
    }

    fn vector(&self, name: &str, width: usize) -> Result<Vec<f32>, ExecutorError> {
        let (format, _, view) = self.measured(name, &[width as u64])?;
        let mut values = vec![0.0; width];
        format.unpack(view.bytes, &mut values);
        Ok(values)
    }

    /// A tensor with its format and the bytes of a row, if it is what the model says it is.
    /// `shape` begins with the row's width, as GGUF does.
    fn measured(
        &self,
        name: &str,
        shape: &[u64],
    ) -> Result<(Format, usize, TensorView<'_>), ExecutorError> {
        let view =
            self.file.tensor(name).ok_or_else(|| ExecutorError::MissingTensor(name.into()))?;
        let format = Format::of(view.ty).ok_or_else(|| ExecutorError::UnsupportedType {
            tensor: name.into(),
            ty: view.ty.to_string(),
        })?;
        let bad = |why: String| ExecutorError::BadTensor { tensor: name.into(), why };
        if view.shape != shape {
            return Err(bad(format!("its shape is {:?}, expected {shape:?}", view.shape)));
        }
        let rows: u64 = shape[1..].iter().product();
        let row_bytes = format
            .bytes_of(shape[0] as usize)
            .ok_or_else(|| bad(format!("{} weights a row are not whole blocks", shape[0])))?;
        if view.bytes.len() as u64 != row_bytes as u64 * rows {
            return Err(bad(format!("it has {} bytes", view.bytes.len())));
        }
        Ok((format, row_bytes, view))
    }
}

/// Whether a hyper-parameter says that something which this executor lacks is not in use.
fn is_idle(name: &str, value: &Hyper) -> bool {
    match (name, value) {
        ("expert_count" | "expert_used_count", Hyper::Integer(count)) => *count == 0,
        ("rope.scaling.type", Hyper::Text(kind)) => kind == "none",
        ("attention.causal", Hyper::Bool(causal)) => *causal,
        _ => false,
    }
}

/// Whether a Llama model has a tensor of this name.
fn is_known(name: &str) -> bool {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match block {
        Some((_, part)) => IN_BLOCK.contains(&part),
        None => [EMBEDDING, "output_norm.weight", OUTPUT].contains(&name),
    }
}

const EMBEDDING: &str = "token_embd.weight";

const OUTPUT: &str = "output.weight";

/// The tensors of a block.
const IN_BLOCK: [&str; 9] = [
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
