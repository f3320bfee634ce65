//! A GGUF file becomes a manifest, the tensors of a span, a tokenizer, a chat template; and lies
//! in a content-addressed store.

mod ggml;
pub mod gguf;
pub mod manifest;
pub mod tokenizer;

pub use ggml::{GgmlType, UnknownType};
pub use gguf::{GgufError, GgufFile, TensorView};
pub use manifest::{Bits, Hyper, Manifest, ManifestError, TensorEntry};
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerError, TokenizerSpec};
