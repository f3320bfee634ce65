//! What a model is: every number that changes an output, and the digest of every tensor.
//!
//! Derived from the GGUF file alone, so two nodes with the same file agree without talking. The
//! canonical bytes are a domain and the codec's encoding; floats stand in them as their bits.

use bytes::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use taimatsu_protocol::announcement::MAX_BLOCKS;
use taimatsu_protocol::codec::{self, BoundedVec, CodecError, OverBound};
use taimatsu_protocol::{Digest, ModelId, Span};

use crate::ggml::GgmlType;
use crate::gguf::{GgufFile, Value};
use crate::tokenizer::TokenizerSpec;

/// The longest manifest, in bytes: some ten thousand tensors with long names.
pub const MAX_MANIFEST: usize = 2 << 20;

/// A model. See the module's page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `general.architecture`.
    pub architecture: String,
    /// Transformer layers.
    pub blocks: u32,
    /// Width of a hidden state.
    pub hidden: u32,
    /// Width of the feed-forward's inner state; 0 where it differs by block.
    pub feed_forward: u32,
    /// Query heads; 0 where they differ by block.
    pub heads: u32,
    /// Key and value heads; 0 where they differ by block.
    pub kv_heads: u32,
    /// Width of a key head.
    pub head_dim: u32,
    /// Width of a value head.
    pub value_dim: u32,
    /// Positions that the model was trained for.
    pub context_length: u32,
    /// Token ids.
    pub vocab: u32,
    /// Rotated dimensions of a head.
    pub rope_dims: u32,
    /// The base of the rotary embedding's frequencies.
    pub rope_base: Bits,
    /// What is added under the root of an RMS norm.
    pub rms_epsilon: Bits,
    /// Every other value under the architecture's prefix (rope scaling, sliding window, experts,
    /// caps, ...), by its name without the prefix, in order.
    ///
    /// An executor that does not know one of these names must refuse the model.
    pub extra: BoundedVec<(String, Hyper), 256>,
    /// The tokenizer's blob.
    pub tokenizer: Digest,
    /// The chat template's blob.
    pub template: Option<Digest>,
    /// Every tensor, in the order of their names.
    pub tensors: BoundedVec<TensorEntry, 65_536>,
}

/// An f32 by its bits, so that equal manifests have equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bits(u32);

/// A hyper-parameter that has no field of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hyper {
    /// An integer.
    Integer(i64),
    /// A float.
    Float(Bits),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// An integer for each block (or section).
    Integers(BoundedVec<i64, 4096>),
    /// A float for each block (or section).
    Floats(BoundedVec<Bits, 4096>),
    /// A truth value for each block (or section).
    Bools(BoundedVec<bool, 4096>),
    /// A text for each block (or section).
    Texts(BoundedVec<String, 4096>),
}

/// One tensor of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub ty: GgmlType,
    /// Dimensions, innermost first.
    pub shape: BoundedVec<u64, 4>,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// Why a file has no manifest, or bytes are none.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A key that every model has is missing, or has the wrong type.
    #[error("the file's metadata has no usable `{0}`")]
    Key(String),
    /// Nobody here computes models of this kind, or knows what its numbers mean.
    #[error("architecture `{0}` is not supported; a model may be {all}", all = ARCHITECTURES.join(", "))]
    Architecture(String),
    /// A tensor that every model has is missing.
    #[error("the file has no tensor `{0}`")]
    Tensor(&'static str),
    /// The file's tokenizer is not usable.
    #[error("the file's tokenizer is not usable")]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// Too many keys, or tensors.
    #[error("the file has too many metadata keys or tensors")]
    TooMany(#[from] OverBound),
    /// The bytes are no manifest.
    #[error("not a manifest")]
    Codec(#[from] CodecError),
    /// The bytes are of another kind or version.
    #[error("not a manifest of version 1")]
    Domain,
    /// The same model has shorter bytes, so these are not the ones that its id is made of.
    #[error("the manifest is not in its canonical form")]
    NotCanonical,
    /// The numbers contradict each other.
    #[error("the manifest's {0} makes no sense")]
    Nonsense(&'static str),
}

impl From<f32> for Bits {
    fn from(float: f32) -> Self {
        Self(float.to_bits())
    }
}

impl From<Bits> for f32 {
    fn from(bits: Bits) -> Self {
        Self::from_bits(bits.0)
    }
}

impl From<Bits> for f64 {
    fn from(bits: Bits) -> Self {
        Self::from(f32::from_bits(bits.0))
    }
}

/// Values of `general.architecture` that are known.
pub const ARCHITECTURES: [&str; 4] = ["llama", "gemma3", "qwen2", "qwen3"];

impl Manifest {
    /// The manifest of a file. Reads and hashes every tensor, on all cores.
    ///
    /// # Errors
    /// The file lacks what every model has: [`ManifestError`].
    pub fn of(file: &GgufFile) -> Result<Self, ManifestError> {
        let tokenizer = Digest::of(&TokenizerSpec::of(file)?.to_bytes());
        let architecture = file
            .text("general.architecture")
            .ok_or_else(|| ManifestError::Key("general.architecture".into()))?;
        if !ARCHITECTURES.contains(&architecture) {
            return Err(ManifestError::Architecture(architecture.to_owned()));
        }
        let keys = Keys { file, architecture };
        let hidden = keys.number("embedding_length")?;
        // Some models have another number for each block; then it is in `extra`.
        let heads = keys.number_or("attention.head_count", 0)?;
        let kv_heads = keys.number_or("attention.head_count_kv", heads)?;
        let split = hidden.checked_div(heads).unwrap_or(0);
        let head_dim = keys.number_or("attention.key_length", split)?;
        let embedding =
            file.tensor("token_embd.weight").ok_or(ManifestError::Tensor("token_embd.weight"))?;
        let vocab = embedding.shape.get(1).copied().unwrap_or(0);
        let manifest = Self {
            blocks: keys.number("block_count")?,
            hidden,
            feed_forward: keys.number_or("feed_forward_length", 0)?,
            heads,
            kv_heads,
            head_dim,
            value_dim: keys.number_or("attention.value_length", head_dim)?,
            context_length: keys.number("context_length")?,
            vocab: u32::try_from(vocab).map_err(|_| ManifestError::Nonsense("vocabulary"))?,
            rope_dims: keys.number_or("rope.dimension_count", head_dim)?,
            // llama.cpp's value where a file has none.
            rope_base: keys.float("rope.freq_base", Some(10_000.0))?,
            rms_epsilon: keys.float("attention.layer_norm_rms_epsilon", None)?,
            extra: keys.extra()?,
            tokenizer,
            template: file.text(TEMPLATE_KEY).map(|text| Digest::of(text.as_bytes())),
            tensors: entries(file)?,
            architecture: architecture.to_owned(),
        };
        manifest.check()?;
        let length = manifest.to_bytes().len();
        if length > MAX_MANIFEST {
            // No client would read it.
            return Err(OverBound { length, limit: MAX_MANIFEST }.into());
        }
        Ok(manifest)
    }

    /// The canonical bytes; their BLAKE3 is the model's id.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = DOMAIN.to_vec();
        bytes.extend(codec::encode(self));
        bytes.into()
    }

    /// Reads a manifest that somebody sent. Its [`Self::id`] is the digest of exactly these bytes;
    /// that it is the wanted one is the caller's to check.
    ///
    /// # Errors
    /// Not a manifest, not canonical, or one that makes no sense.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let body = bytes.strip_prefix(DOMAIN).ok_or(ManifestError::Domain)?;
        let manifest: Self = codec::decode(body, MAX_MANIFEST)?;
        if codec::encode(&manifest) != body {
            return Err(ManifestError::NotCanonical);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// The model's id.
    #[must_use]
    pub fn id(&self) -> ModelId {
        ModelId::of(&self.to_bytes())
    }

    /// A hyper-parameter of [`Self::extra`], by its name without the architecture's prefix.
    #[must_use]
    pub fn hyper(&self, name: &str) -> Option<&Hyper> {
        self.extra.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The tensors that a host of `span` needs: its blocks', the embedding with `embed` (and, where
    /// there is no other, with `head`), the head's, and what belongs to no block.
    pub fn tensors_of(&self, span: Span) -> impl Iterator<Item = &TensorEntry> {
        let tied = !self.tensors.iter().any(|tensor| tensor.name == "output.weight");
        self.tensors.iter().filter(move |tensor| match block_of(&tensor.name) {
            Some(block) => span.blocks().contains(&block),
            None if tensor.name.starts_with("token_embd") => span.embed || (span.head && tied),
            None if tensor.name.starts_with("output") => span.head,
            None => true,
        })
    }

    fn check(&self) -> Result<(), ManifestError> {
        let widths = [self.feed_forward, self.heads, self.kv_heads, self.head_dim, self.value_dim];
        let whole = |entry: &TensorEntry| {
            !entry.shape.is_empty()
                && entry.shape.iter().try_fold(1_u64, |all, dim| all.checked_mul(*dim)).is_some()
        };
        let floats = [f32::from(self.rope_base), f32::from(self.rms_epsilon)];
        let checks = [
            ("architecture", (1..=64).contains(&self.architecture.len())),
            ("number of blocks", (1..=MAX_BLOCKS).contains(&self.blocks)),
            ("hidden width", (1..=MAX_WIDTH).contains(&self.hidden)),
            ("widths", widths.iter().all(|width| *width <= MAX_WIDTH)),
            ("rotated dimensions", self.rope_dims <= MAX_WIDTH),
            ("vocabulary", (1..=1 << 24).contains(&self.vocab)),
            ("context length", (1..=1 << 28).contains(&self.context_length)),
            ("epsilon", floats.iter().all(|float| float.is_finite() && *float > 0.0)),
            ("order of hyper-parameters", self.extra.is_sorted_by(|a, b| a.0 < b.0)),
            ("order of tensors", self.tensors.is_sorted_by(|a, b| a.name < b.name)),
            ("shape of a tensor", self.tensors.iter().all(whole)),
        ];
        match checks.iter().find(|(_, fine)| !fine) {
            Some((what, _)) => Err(ManifestError::Nonsense(what)),
            None => Ok(()),
        }
    }
}

/// The keys under an architecture's prefix.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn number(&self, name: &str) -> Result<u32, ManifestError> {
        let key = self.key(name);
        self.file.number(&key).ok_or(ManifestError::Key(key))
    }

    /// `absent` where the key is missing; 0 where it has a list.
    fn number_or(&self, name: &str, absent: u32) -> Result<u32, ManifestError> {
        match self.file.value(&self.key(name)) {
            None => Ok(absent),
            Some(Value::Integers(_)) => Ok(0),
            Some(_) => self.number(name),
        }
    }

    fn float(&self, name: &str, absent: Option<f32>) -> Result<Bits, ManifestError> {
        let key = self.key(name);
        match (self.file.value(&key), absent) {
            (None, Some(absent)) => Ok(absent.into()),
            _ => self.file.float(&key).map(Bits::from).ok_or(ManifestError::Key(key)),
        }
    }

    fn extra(&self) -> Result<BoundedVec<(String, Hyper), 256>, ManifestError> {
        let prefix = self.key("");
        let mut extra = Vec::new();
        for (key, value) in self.file.keys() {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            let list = matches!(value, Value::Integers(_));
            if name != "vocab_size" && (list || !FIELDS.contains(&name)) {
                extra.push((name.to_owned(), hyper(key, value)?));
            }
        }
        Ok(extra.try_into()?)
    }
}

fn hyper(key: &str, value: &Value) -> Result<Hyper, ManifestError> {
    Ok(match value {
        Value::Unsigned(number) => {
            let number = i64::try_from(*number).map_err(|_| ManifestError::Key(key.to_owned()))?;
            Hyper::Integer(number)
        }
        Value::Signed(number) => Hyper::Integer(*number),
        Value::Float(float) => Hyper::Float((*float).into()),
        Value::Bool(truth) => Hyper::Bool(*truth),
        Value::Text(text) => Hyper::Text(text.clone()),
        Value::Integers(list) => Hyper::Integers(list.clone().try_into()?),
        Value::Floats(list) => {
            let bits: Vec<Bits> = list.iter().copied().map(Bits::from).collect();
            Hyper::Floats(bits.try_into()?)
        }
        Value::Bools(list) => Hyper::Bools(list.clone().try_into()?),
        Value::Texts(list) => Hyper::Texts(list.clone().try_into()?),
    })
}

/// Which block a tensor of this name is of; none where it belongs to no block.
#[must_use]
pub fn block_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

fn entries(file: &GgufFile) -> Result<BoundedVec<TensorEntry, 65_536>, ManifestError> {
    let names: Vec<&str> = file.tensor_names().collect();
    let entry = |name: &&str| {
        let view = file.tensor(name)?;
        Some(TensorEntry {
            name: (*name).to_owned(),
            ty: view.ty,
            shape: BoundedVec::truncated(view.shape),
            digest: Digest::of(view.bytes),
        })
    };
    let entries: Vec<TensorEntry> = names.par_iter().filter_map(entry).collect();
    Ok(entries.try_into()?)
}

/// Where a GGUF file has its chat template.
pub(crate) const TEMPLATE_KEY: &str = "tokenizer.chat_template";

const DOMAIN: &[u8] = b"taimatsu manifest 1\n";

/// No model is wider, in any direction.
const MAX_WIDTH: u32 = 1 << 20;

/// Keys that have fields of their own (unless they hold a list).
const FIELDS: [&str; 11] = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "context_length",
    "rope.dimension_count",
    "rope.freq_base",
    "attention.layer_norm_rms_epsilon",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn tiny(name: &str) -> Manifest {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny");
        Manifest::of(&GgufFile::open(&folder.join(name)).unwrap()).unwrap()
    }

    fn names(manifest: &Manifest, span: &str) -> Vec<String> {
        let span = Span::parse_inclusive(span, manifest.blocks).unwrap();
        manifest.tensors_of(span).map(|tensor| tensor.name.clone()).collect()
    }

    #[test]
    fn a_file_tells_its_numbers() {
        let manifest = tiny("llama.q4_1.gguf");
        assert_eq!(manifest.architecture, "llama");
        assert_eq!((manifest.blocks, manifest.hidden, manifest.vocab), (4, 256, 640));
        assert_eq!((manifest.heads, manifest.kv_heads, manifest.head_dim), (4, 2, 64));
        assert!(f64::from(manifest.rope_base) >= 10_000.0);
        assert_eq!(f32::from(manifest.rms_epsilon), 1e-5);
        assert!(manifest.extra.is_empty() && manifest.template.is_some());
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes()).unwrap(), manifest);
    }

    #[test]
    fn a_span_takes_its_tensors_and_what_belongs_to_none() {
        let mut manifest = tiny("llama.q4_1.gguf");
        let mut entries = manifest.tensors.to_vec();
        entries.push(TensorEntry { name: "rope_freqs.weight".into(), ..entries[0].clone() });
        manifest.tensors = entries.try_into().unwrap();
        let first = names(&manifest, "0");
        assert_eq!(first.len(), 9 + 2);
        assert!(first.contains(&"token_embd.weight".into()));
        let middle = names(&manifest, "1");
        assert!(
            middle.iter().all(|name| name.starts_with("blk.1.") || name == "rope_freqs.weight")
        );
        assert_eq!(middle.len(), 9 + 1);
        // Tied: the head needs the embedding.
        let last = names(&manifest, "2-3");
        assert!(last.contains(&"token_embd.weight".into()));
        assert!(last.contains(&"output_norm.weight".into()));
        assert_eq!(last.len(), 18 + 3);
    }

    #[test]
    fn a_changed_weight_or_number_is_another_model() {
        let manifest = tiny("llama.q4_1.gguf");
        let mut other = manifest.clone();
        other.rms_epsilon = 2e-5.into();
        assert_ne!(other.id(), manifest.id());
        let mut entries = manifest.tensors.to_vec();
        entries[0].digest = Digest::of(b"x");
        let other = Manifest { tensors: entries.try_into().unwrap(), ..manifest.clone() };
        assert_ne!(other.id(), manifest.id());
    }

    #[test]
    fn another_form_of_the_same_manifest_is_refused() {
        let manifest = tiny("llama.q4_1.gguf");
        let bytes = manifest.to_bytes();
        // `blocks`, one byte behind the domain and the architecture: as a needlessly long varint.
        let at = DOMAIN.len() + 1 + manifest.architecture.len();
        assert_eq!(u32::from(bytes[at]), manifest.blocks);
        let mut longer = bytes[..at].to_vec();
        longer.extend([251, bytes[at], 0]);
        longer.extend_from_slice(&bytes[at + 1..]);
        assert!(matches!(Manifest::from_bytes(&longer), Err(ManifestError::NotCanonical)));
    }

    proptest! {
        #[test]
        fn any_mutation_reads_or_is_refused(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            static BYTES: std::sync::LazyLock<Bytes> =
                std::sync::LazyLock::new(|| tiny("llama.q4_1.gguf").to_bytes());
            let mut bytes = BYTES.to_vec();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(manifest) = Manifest::from_bytes(&bytes) {
                prop_assert_eq!(manifest.to_bytes(), bytes);
            }
        }
    }
}
