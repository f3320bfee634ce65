//! The models that this process can speak: manifest, tokenizer and chat template, from the store
//! or from a host's blobs. No weights are needed for it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use taimatsu_model::{
    Damage, Manifest, ManifestError, Packs, Store, StoreError, StoredModel, Template,
    TemplateError, Tokenizer, TokenizerError, TokenizerSpec, catalogue,
};
use taimatsu_protocol::{Digest, ModelId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::driver::clock::Clock;
use crate::engine::{EngineError, Prompt, Vocabulary};

/// Models kept in memory; a tokenizer takes some ten megabytes.
const KEPT: usize = 8;

/// Models of the swarm remembered as unusable here. Beyond it the lowest id is forgotten, and would
/// be read again.
const REFUSED: usize = 64;

/// Prompts of one model that become ids at a time: each takes some fifty times its text in memory.
const AT_A_TIME: usize = 2;

/// How alike a name must be to be suggested: 1 is equal (Jaro-Winkler).
const ALIKE: f64 = 0.75;

/// Names suggested for one that is not known.
const SUGGESTED: usize = 3;

/// A model that can be spoken.
#[derive(Debug)]
pub(crate) struct KnownModel {
    /// What it is called in answers.
    pub(crate) name: String,
    /// What it is.
    pub(crate) id: ModelId,
    /// Its manifest.
    pub(crate) manifest: Manifest,
    /// Its tokenizer.
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Its weights, where they are on this machine.
    pub(crate) path: Option<PathBuf>,
    /// Where its packed tensors are kept.
    pub(crate) packs: Option<Packs>,
    template: Option<Template>,
    blobs: BTreeMap<Digest, Bytes>,
    /// Bytes of the vocabulary's longest token: more of them than the context holds cannot fit.
    longest_token: usize,
    /// Prompts that become ids at a time; the others wait, and cost only their text.
    turns: Arc<Semaphore>,
}

/// The small blobs of a model, as a store or a host gives them.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    /// The manifest's canonical bytes.
    pub(crate) manifest: Bytes,
    /// The tokenizer.
    pub(crate) tokenizer: Bytes,
    /// The chat template, where there is one.
    pub(crate) template: Option<Bytes>,
}

/// Why a model cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LibraryError {
    /// Its manifest is broken.
    #[error("its manifest is not usable")]
    Manifest(#[from] ManifestError),
    /// Its tokenizer is broken, or of a kind that is not supported.
    #[error("its tokenizer is not usable")]
    Tokenizer(#[from] TokenizerError),
    /// Its chat template is broken.
    #[error("its chat template is not usable")]
    Template(#[from] TemplateError),
}

impl KnownModel {
    /// Reads a model's small blobs.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub(crate) fn read(
        name: String,
        blobs: Blobs,
        path: Option<PathBuf>,
    ) -> Result<Self, LibraryError> {
        let manifest = Manifest::from_bytes(&blobs.manifest)?;
        let spec = TokenizerSpec::from_bytes(&blobs.tokenizer)?;
        let tokenizer = Arc::new(Tokenizer::new(spec)?);
        let template = blobs.template.as_deref().map(Template::from_bytes).transpose()?;
        let all = [Some(blobs.manifest), Some(blobs.tokenizer), blobs.template];
        let blobs = all.into_iter().flatten().map(|blob| (Digest::of(&blob), blob)).collect();
        let lengths = (0..tokenizer.vocab()).map(|id| {
            let name = tokenizer.token_name(id).map_or(0, str::len);
            tokenizer.token_bytes(id).len().max(name)
        });
        let longest_token = lengths.max().unwrap_or(1).max(1);
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        let id = manifest.id();
        let packs = None;
        Ok(Self {
            name,
            id,
            manifest,
            tokenizer,
            path,
            packs,
            template,
            blobs,
            longest_token,
            turns,
        })
    }

    /// The ids of a prompt. Takes milliseconds for a long one, and as long as the template's limit
    /// allows for a bad template: not for a thread that others wait for.
    ///
    /// # Errors
    /// Nothing to answer, an id beyond the vocabulary, or a template that refuses.
    pub(crate) fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        let invalid = |param, message: String| EngineError::Invalid { param, message };
        let ids = match prompt {
            Prompt::Ids(ids) => {
                let vocab = self.tokenizer.vocab();
                if let Some(id) = ids.iter().find(|id| **id >= vocab) {
                    let message = format!("token id {id} is beyond the vocabulary of {vocab}");
                    return Err(invalid("prompt", message));
                }
                ids.clone()
            }
            Prompt::Raw(text) => self.tokenizer.with_bos(self.encode(text)?),
            Prompt::Chat(messages) => self.encode(&self.render(messages)?)?,
        };
        if ids.is_empty() {
            return Err(invalid("prompt", "the prompt is empty: there is nothing to go on".into()));
        }
        Ok(ids)
    }

    /// A turn at making ids of a prompt.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let limit = self.manifest.context_length;
        let least = u32::try_from(text.len() / self.longest_token).unwrap_or(u32::MAX);
        if least > limit {
            return Err(EngineError::ContextOverflow { limit, asked: least, prompt: least });
        }
        self.tokenizer
            .encode(text, true)
            .map_err(|error| EngineError::Invalid { param: "prompt", message: error.to_string() })
    }

    fn render(&self, messages: &[crate::engine::Message]) -> Result<String, EngineError> {
        let invalid = |message: String| EngineError::Invalid { param: "messages", message };
        let template = self.template.as_ref().ok_or_else(|| {
            let name = &self.name;
            invalid(format!(
                "{name} has no chat template: it goes on with texts, and is not made for chats; send the text as it stands, by `run --raw` or /v1/completions"
            ))
        })?;
        let messages: Vec<_> = messages
            .iter()
            .map(|message| taimatsu_model::Message {
                role: message.role.clone(),
                content: message.content.clone(),
            })
            .collect();
        let name = |id: Option<u32>| id.and_then(|id| self.tokenizer.token_name(id)).unwrap_or("");
        template
            .render(&taimatsu_model::Prompt {
                messages: &messages,
                add_generation_prompt: true,
                bos: name(self.tokenizer.bos()),
                eos: name(self.tokenizer.eos()),
                now: Clock::wall(),
            })
            .map_err(|error| invalid(error.to_string()))
    }

    /// One of its blobs.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<&Bytes> {
        self.blobs.get(digest)
    }
}

impl Vocabulary for Tokenizer {
    fn bytes(&self, id: u32) -> &[u8] {
        self.token_bytes(id)
    }

    fn name(&self, id: u32) -> &str {
        self.token_name(id).unwrap_or("")
    }
}

/// The models that have been spoken of late, and where others are found on this machine. Cloned
/// freely; its lock is never held while anything is read.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    store: Option<Store>,
    kept: Arc<Mutex<Vec<Arc<KnownModel>>>>,
    /// What a host sent and cannot be read, by its id: the same bytes will not read better, and a
    /// bad template costs its deadline each time.
    refused: Arc<Mutex<BTreeMap<ModelId, String>>>,
}

impl Library {
    /// A library over a store; over nothing where there is none.
    pub(crate) fn new(store: Option<Store>) -> Self {
        Self { store, kept: Arc::default(), refused: Arc::default() }
    }

    /// The model of this reference, from memory or the store. Reads the disk.
    ///
    /// # Errors
    /// It is there, and not usable.
    pub(crate) fn find(&self, reference: &str) -> Result<Option<Arc<KnownModel>>, EngineError> {
        if let Some(kept) = id_of(reference).and_then(|id| self.kept(&id)) {
            return Ok(Some(kept));
        }
        let Some(store) = &self.store else { return Ok(None) };
        // Not its blobs: a tokenizer would be read and hashed for every question.
        if let Ok(Some(id)) = store.id_of(reference)
            && let Some(kept) = self.kept(&id).filter(|kept| kept.path.is_some())
        {
            return Ok(Some(kept));
        }
        let stored = match store.resolve(reference) {
            Ok(stored) => stored,
            Err(StoreError::Unknown(_)) => return Ok(None),
            // It can be pulled again.
            Err(StoreError::Damaged { source: Damage::Gone, .. }) if id_of(reference).is_some() => {
                return Ok(None);
            }
            Err(StoreError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(unusable(reference, &error)),
        };
        if let Some(kept) = self.kept(&stored.id).filter(|kept| kept.path.is_some()) {
            return Ok(Some(kept));
        }
        self.read_stored(reference, stored).map(Some)
    }

    fn read_stored(
        &self,
        reference: &str,
        stored: StoredModel,
    ) -> Result<Arc<KnownModel>, EngineError> {
        let name = canonical(&stored.id)
            .or_else(|| stored.names.first().cloned())
            .unwrap_or_else(|| reference.to_owned());
        let blobs = Blobs {
            manifest: stored.manifest_blob,
            tokenizer: stored.tokenizer_blob,
            template: stored.template_blob,
        };
        let mut known = KnownModel::read(name, blobs, Some(stored.path))
            .map_err(|error| unusable(reference, &error))?;
        known.packs = self.store.as_ref().map(Store::packs);
        Ok(self.keep(known))
    }

    /// Keeps a model for the next time.
    pub(crate) fn keep(&self, model: KnownModel) -> Arc<KnownModel> {
        let model = Arc::new(model);
        let mut kept = self.lock();
        kept.retain(|other| other.id != model.id);
        kept.insert(0, model.clone());
        kept.truncate(KEPT);
        model
    }

    /// Remembers that a model of the swarm cannot be read here.
    pub(crate) fn refuse(&self, id: ModelId, error: &LibraryError) -> EngineError {
        let why = crate::failure::chain(error);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(id, why.clone());
        if refused.len() > REFUSED {
            refused.pop_first();
        }
        refusal(&id, &why)
    }

    /// Why a model of the swarm cannot be read here, if that is known.
    pub(crate) fn refused(&self, id: &ModelId) -> Option<EngineError> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(id).map(|why| refusal(id, why))
    }

    /// Keeps a host's blob on disk as well, where that can be written: the next start needs no host.
    pub(crate) fn keep_blob(&self, digest: Digest, bytes: &[u8]) {
        let Some(store) = self.store.as_ref().filter(|store| store.is_writable()) else { return };
        if let Err(error) = store.put_blob(digest, bytes) {
            tracing::warn!(%error, "a blob was not kept");
        }
    }

    /// A blob that somebody asks for by its digest. Reads the disk.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<Bytes> {
        let kept = self.lock().iter().find_map(|model| model.blob(digest).cloned());
        kept.or_else(|| self.store.as_ref().and_then(|store| store.blob(*digest).ok().flatten()))
    }

    /// Where the store is, if there is one.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::dir)
    }

    /// Names of the models on this machine, and their ids. Reads the disk.
    pub(crate) fn names(&self) -> Vec<(String, ModelId)> {
        let listed = self.store.as_ref().and_then(|store| store.list().ok()).unwrap_or_default();
        listed
            .into_iter()
            .filter_map(|model| Some((model.names.first()?.clone(), model.id)))
            .collect()
    }

    /// No such model: with the names that are alike.
    pub(crate) fn unknown(&self, name: &str) -> EngineError {
        let stored = self.names().into_iter().map(|(name, _)| name);
        let listed = catalogue::CATALOGUE.iter().map(|entry| entry.name.to_owned());
        let near = alike(name, stored.chain(listed));
        EngineError::UnknownModel { name: name.chars().take(80).collect(), near }
    }

    fn kept(&self, id: &ModelId) -> Option<Arc<KnownModel>> {
        self.lock().iter().find(|model| model.id == *id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<KnownModel>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names that are most like one that is not known, best first.
pub(crate) fn alike(name: &str, known: impl Iterator<Item = String>) -> Vec<String> {
    let name = name.to_lowercase();
    let mut near: Vec<(f64, String)> = known
        .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    near.dedup_by(|a, b| a.1 == b.1);
    near.into_iter().take(SUGGESTED).map(|(_, name)| name).collect()
}

/// The id of a model that is known by name before anything of it is here.
pub(crate) fn id_of(reference: &str) -> Option<ModelId> {
    catalogue::find(reference).map(|entry| entry.id()).or_else(|| reference.parse().ok())
}

/// The catalogue's name of a model.
pub(crate) fn canonical(id: &ModelId) -> Option<String> {
    let entry = catalogue::CATALOGUE.iter().find(|entry| entry.id() == *id);
    entry.map(|entry| entry.name.to_owned())
}

fn refusal(id: &ModelId, why: &str) -> EngineError {
    EngineError::Invalid { param: "model", message: format!("{id} is not usable here: {why}") }
}

fn unusable(reference: &str, error: &dyn std::error::Error) -> EngineError {
    let message = format!("{reference} is not usable: {}", crate::failure::chain(error));
    EngineError::Invalid { param: "model", message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Message;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tiny/llama.q4_1.gguf");

    fn library() -> (tempfile::TempDir, Library) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, Library::new(Some(store)))
    }

    #[test]
    fn a_file_is_found_by_its_path_and_read_once() {
        let (_dir, library) = library();
        let first = library.find(TINY).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &library.find(TINY).unwrap().unwrap()));
        assert_eq!(
            library.blob(&first.id.digest()).as_deref(),
            first.blob(&first.id.digest()).map(|b| &b[..])
        );
        assert!(library.find("nobody:1b").unwrap().is_none());
    }

    #[test]
    fn an_imported_model_is_read_once() {
        let (dir, library) = library();
        let store = Store::open(dir.path()).unwrap();
        let stored = store.import(TINY.as_ref(), Some("tiny"), &mut |_, _| {}).unwrap();
        let first = library.find("tiny").unwrap().unwrap();
        for blob in std::fs::read_dir(dir.path().join("blobs")).unwrap() {
            std::fs::remove_file(blob.unwrap().path()).unwrap();
        }
        let bytes = usize::try_from(stored.bytes).unwrap();
        std::fs::write(&stored.path, vec![0; bytes]).unwrap();
        assert!(Arc::ptr_eq(&first, &library.find("tiny").unwrap().unwrap()));
        // Cut, it is another matter.
        std::fs::write(&stored.path, vec![0; bytes / 2]).unwrap();
        assert!(library.find("tiny").is_err());
    }

    #[test]
    fn prompts_of_every_form_become_ids() {
        let (_dir, library) = library();
        let model = library.find(TINY).unwrap().unwrap();
        assert_eq!(model.prompt_ids(&Prompt::Ids(vec![1, 2])).unwrap(), [1, 2]);
        let raw = model.prompt_ids(&Prompt::Raw("Hello".into())).unwrap();
        assert!(!raw.is_empty());
        let past = model.tokenizer.vocab();
        let error = model.prompt_ids(&Prompt::Ids(vec![past])).unwrap_err();
        assert!(error.to_string().contains("vocabulary"), "{error}");
        assert!(model.prompt_ids(&Prompt::Ids(vec![])).is_err());
        let chat = vec![Message { role: "user".into(), content: "Hello".into() }];
        let _ = model.prompt_ids(&Prompt::Chat(chat));
    }

    #[test]
    fn a_text_that_cannot_fit_is_refused_by_its_length() {
        let (_dir, library) = library();
        let model = library.find(TINY).unwrap().unwrap();
        let most = model.longest_token * (model.manifest.context_length as usize + 1);
        let error = model.prompt_ids(&Prompt::Raw("a".repeat(most))).unwrap_err();
        assert!(matches!(error, EngineError::ContextOverflow { .. }), "{error}");
    }

    #[test]
    fn a_name_that_is_nearly_right_is_suggested() {
        let (_dir, library) = library();
        let EngineError::UnknownModel { near, .. } = library.unknown("smolm2:135m") else {
            panic!()
        };
        assert_eq!(near, ["smollm2:135m"]);
        let EngineError::UnknownModel { near, .. } = library.unknown("zzz") else { panic!() };
        assert!(near.is_empty());
    }
}
