//! Names of things: peers, models, blobs, swarms, sessions. Each is a fixed number of bytes.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// libp2p's identity multihash of an ed25519 key: code 0, length 36, then the protobuf header.
const PEER_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A text that should have been an id, and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

/// A node: its ed25519 public key. Printed as libp2p prints it (`12D3Koo…`, base58).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The peer whose ed25519 public key is `key` (32 bytes, compressed Edwards y).
    #[must_use]
    pub const fn from_public_key(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The ed25519 public key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.0
    }

    /// libp2p's multihash bytes (38 bytes).
    #[must_use]
    pub fn to_multihash(&self) -> [u8; 38] {
        let mut out = [0; 38];
        out[..6].copy_from_slice(&PEER_PREFIX);
        out[6..].copy_from_slice(&self.0);
        out
    }

    /// Reads libp2p's multihash bytes; `None` for any key that is not ed25519.
    #[must_use]
    pub fn from_multihash(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&PEER_PREFIX)?;
        key.try_into().ok().map(Self)
    }

    /// A form for eyes: the last six letters.
    #[must_use]
    pub fn short(&self) -> String {
        let full = self.to_string();
        format!("…{}", &full[full.len() - 6..])
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_multihash()).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError {
            text: text.chars().take(80).collect(),
            expected: "an ed25519 peer id (12D3Koo…)",
        };
        let mut bytes = [0; 38];
        let length = bs58::decode(text).onto(&mut bytes).map_err(|_| error())?;
        Self::from_multihash(&bytes[..length]).ok_or_else(error)
    }
}

/// BLAKE3 of a blob, 32 bytes. Printed as `blake3:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes 32 bytes as a digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("blake3:")
            .and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok())
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| ParseIdError {
                text: text.chars().take(80).collect(),
                expected: "a digest (blake3: and 64 hex digits)",
            })
    }
}

/// A model: BLAKE3 of its manifest's canonical bytes, so also the digest of the manifest blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelId(Digest);

impl ModelId {
    /// The id of the model whose manifest has these canonical bytes.
    #[must_use]
    pub fn of(manifest: &[u8]) -> Self {
        Self(Digest::of(manifest))
    }

    /// Takes a manifest's digest as the model's id.
    #[must_use]
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The manifest blob's digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ModelId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A swarm: every protocol name and every DHT key is made with it, so swarms never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SwarmId([u8; 32]);

impl SwarmId {
    /// The public swarm.
    #[must_use]
    pub fn public() -> Self {
        Self::named("public")
    }

    /// The swarm of this name (not a secret: whoever knows the name can join).
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(blake3::derive_key("taimatsu 2026 swarm name", name.as_bytes()))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight hex digits for protocol names.
    #[must_use]
    pub fn tag(&self) -> String {
        HEXLOWER.encode(&self.0[..4])
    }
}

/// One inference, 16 random bytes drawn by the client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Takes 16 (random) bytes as a session's id.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_reads_back_and_has_libp2ps_form() {
        let peer = PeerId::from_public_key([7; 32]);
        let text = peer.to_string();
        assert!(text.starts_with("12D3Koo"), "{text}");
        assert_eq!(text.parse(), Ok(peer));
    }

    #[test]
    fn broken_ids_are_refused() {
        for text in [
            "",
            "12D3Koo",
            "blake3:",
            "blake3:zz",
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        ] {
            assert!(text.parse::<PeerId>().is_err());
            assert!(text.parse::<ModelId>().is_err());
        }
    }
}
