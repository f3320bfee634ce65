//! Models on this machine, for commands: resolved, and pulled where they are not here yet.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use taimatsu_model::{GgufError, Manifest, Store, StoreError, catalogue};

use crate::cli::{Global, pulling};
use crate::config;
use crate::engine::EngineError;
use crate::failure::{Code, Failure};
use crate::library::{KnownModel, Library};

/// A model whose weights are here.
#[derive(Debug, Clone)]
pub(crate) struct LocalModel {
    pub(crate) known: Arc<KnownModel>,
    /// As other processes on this machine name it.
    reference: String,
}

impl LocalModel {
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.known.manifest
    }

    pub(crate) fn name(&self) -> &str {
        &self.known.name
    }

    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }
}

/// Opens the model store.
pub(crate) fn store(global: &Global) -> Result<Store, Failure> {
    let dir = config::models(global)?;
    Store::open(&dir).map_err(|error| store_failure(&error))
}

/// The model of this reference; pulled first, if the catalogue has it and the store does not.
pub(crate) async fn ensure_model(global: &Global, text: &str) -> Result<LocalModel, Failure> {
    let library = Library::new(Some(store(global)?));
    ensure_in(global, &library, text).await
}

/// The same, kept in a library for those who ask for it later.
pub(crate) async fn ensure_in(
    global: &Global,
    library: &Library,
    text: &str,
) -> Result<LocalModel, Failure> {
    let store = store(global)?;
    let (looked, name) = (store.clone(), text.to_owned());
    let sound = tokio::task::spawn_blocking(move || is_sound(&looked, &name));
    sound.await.map_err(broken)??;
    let (searched, reference) = (library.clone(), absolute(text));
    let lookup = reference.clone();
    let find = move || searched.find(&lookup);
    let found = tokio::task::spawn_blocking(find.clone()).await.map_err(broken)??;
    let found = match (found, catalogue::find(text)) {
        (Some(known), _) => Some(known),
        (None, Some(entry)) => {
            pulling::fetch(global, store, entry).await?;
            tokio::task::spawn_blocking(find).await.map_err(broken)??
        }
        (None, None) => None,
    };
    let known = found.ok_or_else(|| Failure::from(library.unknown(text)))?;
    if known.path.is_none() {
        return Err(EngineError::NoHost { model: known.name.clone() }.into());
    }
    Ok(LocalModel { known, reference })
}

/// A reference as it means the same in another process: files by their full path.
pub(crate) fn absolute(reference: &str) -> String {
    let path = Path::new(reference);
    if catalogue::find(reference).is_some() || !path.is_file() {
        return reference.to_owned();
    }
    std::path::absolute(path)
        .map_or_else(|_| reference.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Refuses a store, or a stored model, that is damaged: said in its own words.
fn is_sound(store: &Store, reference: &str) -> Result<(), Failure> {
    let found = store.find(reference).and_then(|found| match found {
        None if catalogue::find(reference).is_none() && !Path::new(reference).is_file() => {
            store.resolve(reference).map(Some)
        }
        found => Ok(found),
    });
    match found {
        Err(
            error @ (StoreError::Damaged { .. }
            | StoreError::Index { .. }
            | StoreError::Newer { .. }),
        ) => Err(store_failure(&error)),
        // What else there is to say, the library says.
        _ => Ok(()),
    }
}

/// What is wrong with the store, and what to do.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    let (code, remedy) = match error {
        StoreError::NoSpace { .. } | StoreError::Full { .. } => {
            (Code::Resources, "taimatsu rm MODEL, or --models DIR on a larger disk")
        }
        StoreError::ReadOnly(_) => (Code::Resources, "--models DIR that you can write to"),
        StoreError::Unknown(_) => (Code::NotFound, "taimatsu ls"),
        StoreError::NotAFile(_) => (Code::Usage, "a GGUF file"),
        StoreError::BadName(_) | StoreError::NameTaken(_) | StoreError::NameOfCatalogue(_) => {
            (Code::Usage, "another --name")
        }
        StoreError::Gguf { source: GgufError::Io(error), .. }
            if error.kind() == ErrorKind::NotFound =>
        {
            (Code::NotFound, "a file that is there")
        }
        StoreError::File { doing: "make the folder", .. } => {
            (Code::Resources, "--models DIR that you can write to")
        }
        StoreError::File { source, .. } if source.kind() == ErrorKind::NotFound => {
            (Code::NotFound, "taimatsu ls")
        }
        StoreError::File { source, .. } if is_limit(source.kind()) => {
            (Code::Resources, "a higher limit (ulimit -f, quota), or --models DIR elsewhere")
        }
        StoreError::File { .. } => (Code::Resources, "--models DIR that you can read and write"),
        StoreError::Gguf { .. } | StoreError::Manifest { .. } => {
            (Code::Failure, "a GGUF file of a supported kind")
        }
        StoreError::Digest { .. } => (Code::Integrity, "taimatsu rm MODEL, then pull it again"),
        StoreError::Damaged { .. } => {
            (Code::Integrity, "taimatsu rm MODEL, then pull or import it again")
        }
        StoreError::Index { .. } => (Code::Failure, "move it away, then import the models again"),
        StoreError::Newer { .. } => (Code::Failure, "that newer taimatsu, or another --models DIR"),
        StoreError::BlobTooLong(_) | StoreError::Id(_) => (Code::Failure, "taimatsu ls"),
    };
    let what = error.to_string();
    match std::error::Error::source(error) {
        Some(source) => Failure::of(code, what, source),
        None => Failure::new(code, what),
    }
    .try_this(remedy)
}

/// Whether the owner's limits refuse, and not the disk.
const fn is_limit(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded)
}

fn broken(error: tokio::task::JoinError) -> Failure {
    Failure::new(Code::Failure, "a task ended unexpectedly").because(error)
}
