//! What can go wrong with a store.

use std::path::{Path, PathBuf};

use taimatsu_protocol::Digest;

use super::MAX_BLOB;
use crate::gguf::GgufError;
use crate::manifest::ManifestError;

/// How a stored file differs from what was stored.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It is gone.
    #[error("the file is gone")]
    Gone,
    /// It has another length.
    #[error("it has {actual} bytes, and had {expected}")]
    Length {
        /// Bytes that it has.
        actual: u64,
        /// Bytes that were stored.
        expected: u64,
    },
    /// It is another model.
    #[error("it is another model now, {0}")]
    Other(taimatsu_protocol::ModelId),
}

/// Why the store does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the folder refuses.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Too little room.
    #[error("not enough space in {}: {needed} bytes needed, {free} free", dir.display())]
    NoSpace {
        /// The store's folder.
        dir: PathBuf,
        /// Bytes that the whole operation takes.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk is full all the same: something else fills it meanwhile.
    #[error("cannot {doing} {}: the disk is full, {free} bytes free", path.display())]
    Full {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Bytes free.
        free: u64,
    },
    /// The store can only be read.
    #[error("the model store {} is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// No such model here.
    #[error("no model `{0}` in the store, and no such file; see `ls`, or `pull` or `import` it")]
    Unknown(String),
    /// Not a name.
    #[error(
        "`{0}` is not a name for a model: use a-z, 0-9, `.`, `_`, `-`, and one `:` before a tag"
    )]
    BadName(String),
    /// The name stands for another model.
    #[error("the name `{0}` already stands for another model; choose another, or remove that one")]
    NameTaken(String),
    /// The name is that of a file in the catalogue.
    #[error("the name `{0}` stands for a file of the catalogue, and this is another one")]
    NameOfCatalogue(String),
    /// The file is no model.
    #[error("{} is not a usable model file", path.display())]
    Gguf {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// The file has no manifest.
    #[error("{} is not a usable model file", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A folder, a pipe, a device.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// A blob whose bytes are not those of its name.
    #[error("the blob {expected} has the digest {actual}")]
    Digest {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// A blob longer than any manifest, tokenizer or template.
    #[error("blob of {0} bytes is over the limit of {MAX_BLOB}")]
    BlobTooLong(u64),
    /// `models.json` is broken.
    #[error("the list of models {} is not readable", path.display())]
    Index {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// `models.json` was written by a newer program.
    #[error("the list of models {} is of version {version}, by a newer program", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version that it has.
        version: u32,
    },
    /// A stored file that is not what was stored.
    #[error("the stored model {} is damaged", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: Damage,
    },
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] taimatsu_protocol::ids::ParseIdError),
}

impl StoreError {
    /// The same of a file that people know, where it is of a copy.
    pub(super) fn about(self, path: &Path) -> Self {
        match self {
            Self::Manifest { source, .. } => Self::Manifest { path: path.to_owned(), source },
            other => other,
        }
    }
}
