//! A GGUF file becomes a manifest, the tensors of a span, a tokenizer, a chat template; and lies
//! in a content-addressed store.

pub mod catalogue;
mod ggml;
pub mod gguf;
pub mod manifest;
pub mod pull;
pub mod store;
pub mod template;
pub mod tokenizer;

pub use catalogue::CatalogueEntry;
pub use ggml::{GgmlType, UnknownType};
pub use gguf::{GgufError, GgufFile, TensorView};
pub use manifest::{Bits, Hyper, Manifest, ManifestError, TensorEntry};
pub use store::{Listed, Store, StoreError, StoredModel};
pub use template::{Message, Prompt, Template, TemplateError};
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerError, TokenizerSpec};
