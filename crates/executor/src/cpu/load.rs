//! From a GGUF file to the weights of a span: every tensor that the span takes is looked up,
//! measured and of a known kind, or the load is refused by name.

use std::sync::Arc;

use taimatsu_kernels::{Kind, Packed, pack, packed_size};
use taimatsu_model::{GgmlType, GgufFile, Manifest, Pack, Packs, TensorView, block_of};
use taimatsu_protocol::{Digest, Span};

use super::block::{Block, Norms};
use super::engine::{Embedding, Head};
use super::structure::Structure;
use crate::contract::ExecutorError;

/// A matrix in the form that the kernels read.
pub(super) struct Matrix {
    kind: Kind,
    rows: usize,
    width: usize,
    bytes: Bytes,
}

/// Packed bytes: in this process's memory, or mapped from the cache.
enum Bytes {
    Own(Vec<u8>),
    Mapped(Pack),
}

impl Matrix {
    pub(super) fn packed(&self) -> Packed<'_> {
        let bytes = match &self.bytes {
            Bytes::Own(bytes) => bytes,
            Bytes::Mapped(pack) => pack.bytes(),
        };
        Packed::new(self.kind, self.rows, self.width, bytes).expect("its size was checked")
    }

    /// Whether its bytes are what was loaded.
    pub(super) fn is_as_loaded(&self) -> bool {
        match &self.bytes {
            Bytes::Own(_) => true,
            Bytes::Mapped(pack) => pack.is_as_opened(),
        }
    }

    /// Bytes, packed.
    pub(super) const fn size(&self) -> usize {
        packed_size(self.kind, self.rows, self.width)
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    pub(super) const fn width(&self) -> usize {
        self.width
    }
}

/// The tensors of one span.
pub(super) struct Weights<'a> {
    file: &'a Arc<GgufFile>,
    manifest: &'a Manifest,
    structure: &'a Structure,
    packs: Option<&'a Packs>,
}

impl<'a> Weights<'a> {
    /// Looks through the span's tensors; refuses one that a block does not have, because an answer
    /// without it would be wrong.
    pub(super) fn new(
        file: &'a Arc<GgufFile>,
        manifest: &'a Manifest,
        structure: &'a Structure,
        span: Span,
        packs: Option<&'a Packs>,
    ) -> Result<Self, ExecutorError> {
        let is_known = |name: &str| match block_part(name) {
            Some(part) => structure.tensors.contains(&part),
            None if name == ROPE_FACTORS => structure.rope_factors,
            None => [EMBEDDING, OUTPUT_NORM, OUTPUT].contains(&name),
        };
        if let Some(tensor) = manifest.tensors_of(span).find(|tensor| !is_known(&tensor.name)) {
            return Err(ExecutorError::UnsupportedFeature(tensor.name.clone()));
        }
        let is_beyond = |name: &str| block_of(name).is_some_and(|block| block >= manifest.blocks);
        if let Some(tensor) = manifest.tensors.iter().find(|tensor| is_beyond(&tensor.name)) {
            return Err(ExecutorError::UnsupportedFeature(tensor.name.clone()));
        }
        Ok(Self { file, manifest, structure, packs })
    }

    pub(super) fn embedding(&self) -> Result<Embedding, ExecutorError> {
        let Structure { shape, hidden, .. } = *self.structure;
        let (kind, row_bytes, _) =
            self.measured(EMBEDDING, &[hidden as u64, shape.vocab.into()])?;
        self.need_whole(EMBEDDING)?;
        let (file, name) = (self.file.clone(), EMBEDDING);
        Ok(Embedding { file, name, kind, row_bytes })
    }

    /// The head; a file without a matrix for it uses the embedding's.
    pub(super) fn head(&self) -> Result<Head, ExecutorError> {
        let Structure { shape, hidden, .. } = *self.structure;
        let name = if self.file.tensor(OUTPUT).is_some() { OUTPUT } else { EMBEDDING };
        let norm = self.vector(OUTPUT_NORM, hidden)?;
        Ok(Head { norm, output: self.matrix(name, shape.vocab as usize, hidden)? })
    }

    pub(super) fn block(&self, index: u32) -> Result<Block, ExecutorError> {
        let Structure { hidden, heads, kv_heads, head, feed_forward, .. } = *self.structure;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let matrix = |part, rows, width| self.matrix(&name(part), rows, width);
        let vector = |part, width| self.vector(&name(part), width);
        let norms = |there: bool, parts: [&'static str; 2], width| {
            let [first, second] = parts.map(|part| there.then(|| vector(part, width)).transpose());
            Ok::<_, ExecutorError>(first?.zip(second?))
        };
        let attention = vector("attn_norm", hidden)?;
        let bias = |(part, heads): (&str, usize)| {
            self.vector(&format!("blk.{index}.{part}.bias"), heads * head)
        };
        let biased = [("attn_q", heads), ("attn_k", kv_heads), ("attn_v", kv_heads)];
        let biased = biased.into_iter().filter(|_| self.structure.biases);
        let biases = biased.map(bias).collect::<Result<Vec<_>, _>>()?;
        Ok(Block {
            biases,
            layer: self.structure.layers[index as usize],
            query: matrix("attn_q", heads * head, hidden)?,
            key: matrix("attn_k", kv_heads * head, hidden)?,
            value: matrix("attn_v", kv_heads * head, hidden)?,
            output: matrix("attn_output", hidden, heads * head)?,
            gate: matrix("ffn_gate", feed_forward, hidden)?,
            up: matrix("ffn_up", feed_forward, hidden)?,
            down: matrix("ffn_down", hidden, feed_forward)?,
            norms: Norms {
                attention,
                feed_forward: vector("ffn_norm", hidden)?,
                heads: norms(self.structure.head_norms, ["attn_q_norm", "attn_k_norm"], head)?,
                post: norms(
                    self.structure.post_norms,
                    ["post_attention_norm", "post_ffw_norm"],
                    hidden,
                )?,
            },
        })
    }

    /// Divisors of the rotation's frequencies, where the file has them.
    pub(super) fn rope_factors(&self) -> Result<Option<Vec<f32>>, ExecutorError> {
        let bad =
            |why: &str| ExecutorError::BadTensor { tensor: ROPE_FACTORS.into(), why: why.into() };
        if self.file.tensor(ROPE_FACTORS).is_none() {
            return Ok(None);
        }
        let factors = self.vector(ROPE_FACTORS, self.structure.rotated / 2)?;
        match factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
            true => Ok(Some(factors)),
            false => Err(bad("a factor is not above zero")),
        }
    }

    fn matrix(&self, name: &str, rows: usize, width: usize) -> Result<Matrix, ExecutorError> {
        let (kind, _, view) = self.measured(name, &[width as u64, rows as u64])?;
        let bad = |why: String| ExecutorError::BadTensor { tensor: name.into(), why };
        let make = || {
            self.need_whole(name)?;
            pack(kind, rows, width, view.bytes).map_err(|error| bad(error.to_string()))
        };
        let Some(packs) = self.packs else {
            return Ok(Matrix { kind, rows, width, bytes: Bytes::Own(make()?) });
        };
        let (digest, form) = (self.digest(name)?, format!("{LAYOUT}-{kind:?}-{rows}x{width}"));
        let bytes = match packs.get(&digest, &form, packed_size(kind, rows, width)) {
            Some(pack) => Bytes::Mapped(pack),
            None => {
                let bytes = make()?;
                packs.put(&digest, &form, &bytes).map_or(Bytes::Own(bytes), Bytes::Mapped)
            }
        };
        Ok(Matrix { kind, rows, width, bytes })
    }

    /// Refuses what was damaged since the model's manifest was made of the file.
    fn need_whole(&self, name: &str) -> Result<(), ExecutorError> {
        let bad = |why: String| ExecutorError::BadTensor { tensor: name.into(), why };
        let found = self.file.digest_of(name).map_err(|error| bad(error.to_string()))?;
        match found == self.digest(name)? {
            true => Ok(()),
            false => Err(bad("the file is damaged: rm the model, then pull or import it".into())),
        }
    }

    fn digest(&self, name: &str) -> Result<Digest, ExecutorError> {
        let tensors = &self.manifest.tensors;
        let found = tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        found
            .map(|index| tensors[index].digest)
            .map_err(|_| ExecutorError::MissingTensor(name.into()))
    }

    fn vector(&self, name: &str, width: usize) -> Result<Vec<f32>, ExecutorError> {
        let (kind, _, view) = self.measured(name, &[width as u64])?;
        if !matches!(kind, Kind::F32 | Kind::F16 | Kind::Bf16) {
            let why = "a norm or a bias is F32, F16 or BF16".into();
            return Err(ExecutorError::BadTensor { tensor: name.into(), why });
        }
        self.need_whole(name)?;
        let mut values = vec![0.0; width];
        taimatsu_kernels::unpack_row(kind, view.bytes, &mut values);
        Ok(values)
    }

    /// A tensor with its kind and the bytes of a row, if it is what the model says it is. `shape`
    /// begins with the row's width, as GGUF does.
    fn measured(
        &self,
        name: &str,
        shape: &[u64],
    ) -> Result<(Kind, usize, TensorView<'_>), ExecutorError> {
        let view =
            self.file.tensor(name).ok_or_else(|| ExecutorError::MissingTensor(name.into()))?;
        let kind = kind_of(view.ty).ok_or_else(|| ExecutorError::UnsupportedType {
            tensor: name.into(),
            ty: view.ty.to_string(),
        })?;
        let bad = |why: String| ExecutorError::BadTensor { tensor: name.into(), why };
        if view.shape != shape {
            return Err(bad(format!("its shape is {:?}, expected {shape:?}", view.shape)));
        }
        let width = shape[0] as usize;
        if !width.is_multiple_of(kind.weights()) {
            return Err(bad(format!("{width} weights a row are not whole blocks")));
        }
        let row_bytes = width / kind.weights() * kind.bytes();
        let rows: u64 = shape[1..].iter().product();
        if view.bytes.len() as u64 != row_bytes as u64 * rows {
            return Err(bad(format!("it has {} bytes", view.bytes.len())));
        }
        Ok((kind, row_bytes, view))
    }
}

const fn kind_of(ty: GgmlType) -> Option<Kind> {
    Some(match ty {
        GgmlType::F32 => Kind::F32,
        GgmlType::F16 => Kind::F16,
        GgmlType::Bf16 => Kind::Bf16,
        GgmlType::Q4_0 => Kind::Q4_0,
        GgmlType::Q4_1 => Kind::Q4_1,
        GgmlType::Q5_0 => Kind::Q5_0,
        GgmlType::Q5_1 => Kind::Q5_1,
        GgmlType::Q8_0 => Kind::Q8_0,
        GgmlType::Q2K => Kind::Q2K,
        GgmlType::Q3K => Kind::Q3K,
        GgmlType::Q4K => Kind::Q4K,
        GgmlType::Q5K => Kind::Q5K,
        GgmlType::Q6K => Kind::Q6K,
        GgmlType::Iq4Nl => Kind::Iq4Nl,
        _ => return None,
    })
}

/// What a block's tensor is called in it.
fn block_part(name: &str) -> Option<&str> {
    name.strip_prefix("blk.")?.split_once('.').map(|(_, part)| part)
}

/// Stands in the name of a packed tensor: another layout is another file.
const LAYOUT: &str = "k1";

const ROPE_FACTORS: &str = "rope_freqs.weight";
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT_NORM: &str = "output_norm.weight";
const OUTPUT: &str = "output.weight";
