//! What a node is told at its start, and what it shall host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use taimatsu_executor::ExecutorLimits;
use taimatsu_model::Store;
use taimatsu_network::{FrameTap, Multiaddr};
use taimatsu_peer::session::policy::PATIENCE;
use taimatsu_protocol::{PeerId, Span};
use zeroize::Zeroizing;

use crate::engine::Privacy;
use crate::failure::{Code, Failure};
use crate::library::{KnownModel, Library};
use crate::memory;

/// What a node is made of.
pub struct NodeConfig {
    /// Its ed25519 seed.
    pub key: Zeroizing<[u8; 32]>,
    /// The swarm's name.
    pub swarm: String,
    /// Where it listens for other nodes.
    pub listen: Vec<Multiaddr>,
    /// Whom it dials first.
    pub bootstrap: Vec<Multiaddr>,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// Where models are.
    pub models: PathBuf,
    /// Where it remembers others' standing, and how to reach them.
    pub home: PathBuf,
    /// What its owner allows and wishes.
    pub owner: Owner,
    /// Hears every frame of every stream; for tests.
    pub tap: Option<Arc<dyn FrameTap>>,
}

/// What a node's owner allows and wishes.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Who may see this node's questions, at most.
    pub privacy: Privacy,
    /// Hosts that may see what is for trusted hosts alone.
    pub trusted: Vec<PeerId>,
    /// Bytes that may be uploaded in a second; none: as many as go.
    pub upload_per_second: Option<u64>,
    /// Bytes of tensors and KV that may be hosted; none: as many as there is room for.
    pub memory: Option<u64>,
    /// How long running answers may go on when the node is told to stop.
    pub drain: Duration,
    /// How long an answer that lost a host waits for another in its place.
    pub patience: Duration,
    /// Whether nodes of this local network are looked for by multicast.
    pub mdns: bool,
}

impl Default for Owner {
    fn default() -> Self {
        let drain = Duration::from_secs(5);
        let privacy = Privacy::Anyone;
        Self {
            privacy,
            trusted: Vec::new(),
            upload_per_second: None,
            memory: None,
            drain,
            patience: PATIENCE,
            mdns: false,
        }
    }
}

/// A span to be hosted.
#[derive(Debug, Clone)]
pub struct Offer {
    pub(crate) model: Arc<KnownModel>,
    pub(crate) span: Span,
    pub(crate) limits: ExecutorLimits,
}

impl Offer {
    /// Blocks `blocks` (`A-B`, inclusive; none: all) of the model that `reference` means in the
    /// store `models`.
    ///
    /// # Errors
    /// There is no such model, or no such span of it.
    pub fn of(
        models: &Path,
        reference: &str,
        blocks: Option<&str>,
        limits: ExecutorLimits,
    ) -> Result<Self, Failure> {
        let library = Library::new(Store::open(models).ok());
        let model = library.find(reference)?.ok_or_else(|| library.unknown(reference))?;
        Self::new(model, reference, blocks, limits)
    }

    pub(crate) fn new(
        model: Arc<KnownModel>,
        reference: &str,
        blocks: Option<&str>,
        limits: ExecutorLimits,
    ) -> Result<Self, Failure> {
        let span = Self::span(reference, blocks, model.manifest.blocks)?;
        Ok(Self { model, span, limits })
    }

    /// Bytes of memory that hosting it takes.
    pub(crate) fn needed(&self) -> u64 {
        memory::needed(&self.model.manifest, self.span, self.limits.kv_positions)
    }

    /// The span that is meant, of a model of `all` blocks.
    pub(crate) fn span(reference: &str, blocks: Option<&str>, all: u32) -> Result<Span, Failure> {
        let span = match blocks {
            Some(blocks) => Span::parse_inclusive(blocks, all),
            None => Span::whole(all),
        };
        span.map_err(|error| {
            let text = blocks.map_or_else(String::new, |blocks| format!("@{blocks}"));
            Failure::new(Code::Usage, format!("cannot host {reference}{text}"))
                .because(error)
                .try_this(format!("--serve {reference}@0-{}", all.saturating_sub(1)))
        })
    }
}
