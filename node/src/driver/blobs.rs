//! The small blobs of a model that this machine has not: asked of hosts by their digests.

use taimatsu_network::Network;
use taimatsu_protocol::announcement::{Answer, MAX_ANSWER, Query};
use taimatsu_protocol::{Digest, ModelId, PeerId, SwarmId, codec};

use super::directory;
use crate::library::{Blobs, KnownModel, Library};

/// Hosts asked for one blob.
const ASKED: usize = 8;

/// Fetches what is needed to speak a model; what the library has is not fetched.
///
/// None: no host of it is known, or none gives all of it.
pub(crate) async fn fetch(
    network: &Network,
    library: &Library,
    swarm: SwarmId,
    model: ModelId,
    name: String,
) -> Option<KnownModel> {
    let mut source = Fetch { network, library, swarm, model, hosts: None };
    let manifest = source.blob(model.digest()).await?;
    let read = taimatsu_model::Manifest::from_bytes(&manifest).ok()?;
    let tokenizer = source.blob(read.tokenizer).await?;
    let template = match read.template {
        Some(digest) => Some(source.blob(digest).await?),
        None => None,
    };
    let blobs = Blobs { manifest, tokenizer, template };
    // Tens of thousands of merges: too long for a thread that streams share.
    let known = tokio::task::spawn_blocking(move || KnownModel::read(name, blobs, None)).await;
    match known.ok()? {
        Ok(known) => Some(known),
        Err(error) => {
            tracing::warn!(%model, %error, "a model of the swarm is not usable here");
            None
        }
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
