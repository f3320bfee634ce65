//! A GGUF file becomes a manifest, the tensors of a span, a tokenizer, a chat template; and lies
//! in a content-addressed store.
//!
//! A [`GgufFile`] is read as a stranger's bytes. Its [`Manifest`] says all that changes an answer,
//! and its digest is the model's id: two nodes with the same file agree without talking. A host
//! maps the file and takes the tensors of its span; a client needs no file, only three small blobs
//! that any host has: the manifest, and the tokenizer and the chat template that it names.
//!
//! ```
//! use taimatsu_model::{GgufFile, Manifest, Tokenizer, TokenizerSpec};
//! use taimatsu_protocol::Span;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = GgufFile::open("../../tests/data/tiny/llama.q4_1.gguf".as_ref())?;
//! let manifest = Manifest::of(&file)?;
//! let span = Span::parse_inclusive("2-3", manifest.blocks)?;
//! for entry in manifest.tensors_of(span) {
//!     let tensor = file.tensor(&entry.name).ok_or("it is in the file")?;
//!     assert_eq!(tensor.shape, *entry.shape);
//! }
//! // What a client does, with bytes that a host sent.
//! let blob = TokenizerSpec::of(&file)?.to_bytes();
//! let tokenizer = Tokenizer::new(TokenizerSpec::from_bytes(&blob)?)?;
//! let ids = tokenizer.encode("Hello<|im_end|>", true)?;
//! assert_eq!(tokenizer.decode(&ids), "Hello");
//! # Ok(())
//! # }
//! ```
//!
//! Where models come from and lie: [`store`], [`catalogue`], [`pull`](mod@pull).

pub mod catalogue;
mod ggml;
pub mod gguf;
pub mod manifest;
mod mapped;
mod packs;
pub mod pull;
pub mod store;
pub mod template;
pub mod tokenizer;
pub mod whole_file;

pub use catalogue::CatalogueEntry;
pub use ggml::{GgmlType, UnknownType};
pub use gguf::{GgufError, GgufFile, TensorView};
pub use manifest::{Bits, Hyper, Manifest, ManifestError, TensorEntry, block_of};
pub use packs::{Pack, Packs};
pub use store::{Damage, Listed, Removed, Store, StoreError, StoredModel};
pub use template::{Message, Prompt, Template, TemplateError};
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerError, TokenizerSpec};
