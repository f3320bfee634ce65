//! Where in the DHT something is announced.

use libp2p::kad::RecordKey;
use taimatsu_protocol::{ModelId, SwarmId};

/// A key under which hosts announce themselves: 32 bytes, BLAKE3 of what is hosted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderKey([u8; 32]);

impl ProviderKey {
    /// Hosts of any block of group `group` (see [`group_of`](Self::group_of)) of `model`.
    #[must_use]
    pub fn for_group(swarm: SwarmId, model: ModelId, group: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(GROUP_DOMAIN);
        hasher.update(swarm.as_bytes());
        hasher.update(model.digest().as_bytes());
        hasher.update(&group.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Every host of the swarm, so that a newcomer learns which models exist.
    #[must_use]
    pub fn directory(swarm: SwarmId) -> Self {
        Self(blake3::derive_key(DIRECTORY_DOMAIN, swarm.as_bytes()))
    }

    /// A key that stands for nothing, for trying the DHT; `nonce` is random.
    #[must_use]
    pub fn trial(swarm: SwarmId, nonce: [u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(TRIAL_DOMAIN);
        hasher.update(swarm.as_bytes());
        hasher.update(&nonce);
        Self(*hasher.finalize().as_bytes())
    }

    /// The group that block `block` belongs to.
    #[must_use]
    pub const fn group_of(block: u32) -> u32 {
        block / GROUP
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn record_key(&self) -> RecordKey {
        RecordKey::new(&self.0)
    }
}

/// Blocks that share a key: a popular model's hosts spread over several keys, and a host of a
/// whole model of 32 blocks announces four times, not 32 (design.md section 8).
pub const GROUP: u32 = 8;

const GROUP_DOMAIN: &str = "taimatsu 2026 provider key";
const TRIAL_DOMAIN: &str = "taimatsu 2026 provider key of a trial";
const DIRECTORY_DOMAIN: &str = "taimatsu 2026 provider key of the directory";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_swarm_model_and_group() {
        let (swarm, model) = (SwarmId::public(), ModelId::of(b"a"));
        let key = ProviderKey::for_group(swarm, model, 0);
        assert_eq!(key, ProviderKey::for_group(swarm, model, ProviderKey::group_of(7)));
        assert_ne!(key, ProviderKey::for_group(swarm, model, ProviderKey::group_of(8)));
        assert_ne!(key, ProviderKey::for_group(swarm, ModelId::of(b"b"), 0));
        assert_ne!(key, ProviderKey::for_group(SwarmId::named("club"), model, 0));
        assert_ne!(key, ProviderKey::directory(swarm));
    }
}
