//! From a GGUF file to the weights of a span: every tensor that the span takes is looked up,
//! measured and of a known kind, or the load is refused by name.

use std::sync::Arc;

use taimatsu_model::{GgufFile, Manifest, TensorView};
use taimatsu_protocol::Span;

use super::Head;
use super::block::{Block, Dims};
use super::formats::Format;
use super::linear::Matrix;
use crate::contract::{ExecutorError, ModelShape};

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

    pub(super) fn embedding(&self, dims: &Dims, shape: &ModelShape) -> Result<Matrix, ExecutorError> {
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
