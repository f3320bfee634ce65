//! The small blobs of a model that this machine has not: asked of hosts by their digests.

use std::sync::Arc;

use taimatsu_model::Manifest;
use taimatsu_network::Network;
use taimatsu_protocol::announcement::{Answer, MAX_ANSWER, Query};
use taimatsu_protocol::{Digest, ModelId, PeerId, SwarmId, codec};

use super::directory;
use crate::engine::EngineError;
use crate::library::{Blobs, KnownModel, Library, LibraryError};

/// Hosts asked for one blob.
const ASKED: usize = 8;

/// Fetches what is needed to speak a model; what the library has is not fetched.
///
/// # Errors
/// No host of it is known, none gives all of it, or it cannot be read here; the last is remembered.
pub(crate) async fn fetch(
    network: &Network,
    library: &Library,
    swarm: SwarmId,
    model: ModelId,
    name: String,
) -> Result<Arc<KnownModel>, EngineError> {
    if let Some(error) = library.refused(&model) {
        return Err(error);
    }
    let mut source = Fetch { network, library, swarm, model, hosts: None };
    let no_host = || EngineError::NoHost { model: name.clone() };
    let manifest = source.blob(model.digest()).await.ok_or_else(no_host)?;
    let read = match Manifest::from_bytes(&manifest) {
        Ok(read) => read,
        Err(error) => return Err(library.refuse(model, &LibraryError::Manifest(error))),
    };
    let tokenizer = source.blob(read.tokenizer).await.ok_or_else(no_host)?;
    let template = match read.template {
        Some(digest) => Some(source.blob(digest).await.ok_or_else(no_host)?),
        None => None,
    };
    let blobs = Blobs { manifest, tokenizer, template };
    // Tens of thousands of merges: too long for a thread that streams share.
    let known = tokio::task::spawn_blocking(move || KnownModel::read(name, blobs, None)).await;
    match known.map_err(|error| EngineError::Internal(error.to_string()))? {
        Ok(known) => Ok(library.keep(known)),
        Err(error) => Err(library.refuse(model, &error)),
    }
}

struct Fetch<'a> {
    network: &'a Network,
    library: &'a Library,
    swarm: SwarmId,
    model: ModelId,
    hosts: Option<Vec<PeerId>>,
}

impl Fetch<'_> {
    async fn blob(&mut self, digest: Digest) -> Option<bytes::Bytes> {
        let library = self.library.clone();
        let stored = tokio::task::spawn_blocking(move || library.blob(&digest)).await.ok()?;
        if stored.is_some() {
            return stored;
        }
        let hosts = match self.hosts.take() {
            Some(hosts) => hosts,
            None => directory::hosts_of(self.network, self.swarm, self.model).await,
        };
        let mut found = None;
        for host in hosts.iter().take(ASKED) {
            found = ask(self.network, *host, digest).await;
            if let Some(blob) = &found {
                let (library, blob) = (self.library.clone(), blob.clone());
                let _ = tokio::task::spawn_blocking(move || library.keep_blob(digest, &blob)).await;
                break;
            }
        }
        self.hosts = Some(hosts);
        found
    }
}

async fn ask(network: &Network, host: PeerId, digest: Digest) -> Option<bytes::Bytes> {
    let answer = network.ask(host, codec::encode(&Query::Blob { digest })).await.ok()?;
    let Ok(Answer::Blob(Some(blob))) = codec::decode(&answer, MAX_ANSWER) else { return None };
    let blob = blob.into_bytes();
    if Digest::of(&blob) == digest {
        return Some(blob);
    }
    tracing::warn!(%host, %digest, "a host sent another blob than it was asked for");
    None
}
