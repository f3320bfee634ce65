//! Signed records: bytes, and an ed25519 signature over exactly those bytes.

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{self, BoundedBytes, CodecError};
use crate::ids::PeerId;

/// The longest record that is ever signed, in bytes.
pub const MAX_RECORD: usize = 4096;

/// A kind of signed record. The domain keeps a signature for one kind from serving as another.
pub trait Record: Serialize + DeserializeOwned {
    /// Signed in front of the bytes; unique per kind and version.
    const DOMAIN: &'static str;

    /// Who must have signed it.
    fn signer(&self) -> PeerId;
}

/// A record as it travels: not yet believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SignedBytes {
    signer: PeerId,
    body: BoundedBytes<MAX_RECORD>,
    signature: Half2,
}

/// A record whose signature has been checked; it cannot be made otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    record: T,
    wire: SignedBytes,
}

/// Why a record is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The signature is not over these bytes, or not by this key.
    #[error("signature of {0} does not hold")]
    Signature(PeerId),
    /// The record speaks for somebody else.
    #[error("record is about {claimed} but signed by {signer}")]
    Signer {
        /// Whom the record names.
        claimed: PeerId,
        /// Who signed.
        signer: PeerId,
    },
    /// The signed bytes are no such record.
    #[error("signed bytes are not the expected record")]
    Body(#[from] CodecError),
    /// The record is longer than [`MAX_RECORD`].
    #[error("record of {0} bytes is too long to be signed")]
    TooLong(usize),
}

impl SignedBytes {
    /// Checks signature and signer, and reads the record.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn verify<T: Record>(self) -> Result<Verified<T>, RecordError> {
        let refused = || RecordError::Signature(self.signer);
        let key = VerifyingKey::from_bytes(self.signer.public_key()).map_err(|_| refused())?;
        let signature = Signature::from_bytes(&self.signature.join());
        let message = with_domain(T::DOMAIN, self.body.as_bytes());
        // Strict: a key of small order would sign anything for anybody.
        key.verify_strict(&message, &signature).map_err(|_| refused())?;
        let record: T = codec::decode(self.body.as_bytes(), MAX_RECORD)?;
        if record.signer() != self.signer {
            return Err(RecordError::Signer { claimed: record.signer(), signer: self.signer });
        }
        Ok(Verified { record, wire: self })
    }
}

impl<T: Record> Verified<T> {
    /// Signs a record with the key of its signer.
    ///
    /// # Errors
    /// The record names another signer, or is too long.
    pub fn sign(record: T, key: &SigningKey) -> Result<Self, RecordError> {
        let signer = PeerId::from_public_key(key.verifying_key().to_bytes());
        if record.signer() != signer {
            return Err(RecordError::Signer { claimed: record.signer(), signer });
        }
        let bytes = Bytes::from(codec::encode(&record));
        let signature = key.sign(&with_domain(T::DOMAIN, &bytes));
        let length = bytes.len();
        let body = BoundedBytes::try_from(bytes).map_err(|_| RecordError::TooLong(length))?;
        let signature = Half2::split(&signature.to_bytes());
        Ok(Self { record, wire: SignedBytes { signer, body, signature } })
    }

    /// The record.
    #[must_use]
    pub const fn record(&self) -> &T {
        &self.record
    }

    /// The very bytes that were signed, to pass on.
    #[must_use]
    pub const fn wire(&self) -> &SignedBytes {
        &self.wire
    }
}

fn with_domain(domain: &str, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(domain.len() + 1 + body.len());
    message.extend_from_slice(domain.as_bytes());
    message.push(0);
    message.extend_from_slice(body);
    message
}

/// 64 bytes for serde, which knows arrays only up to 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Half2([u8; 32], [u8; 32]);

impl Half2 {
    fn split(bytes: &[u8; 64]) -> Self {
        let (mut low, mut high) = ([0; 32], [0; 32]);
        low.copy_from_slice(&bytes[..32]);
        high.copy_from_slice(&bytes[32..]);
        Self(low, high)
    }

    fn join(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].copy_from_slice(&self.1);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Note {
        by: PeerId,
        text: String,
    }

    impl Record for Note {
        const DOMAIN: &'static str = "test note";

        fn signer(&self) -> PeerId {
            self.by
        }
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Other(Note);

    impl Record for Other {
        const DOMAIN: &'static str = "test other";

        fn signer(&self) -> PeerId {
            self.0.by
        }
    }

    fn signed() -> (SigningKey, Verified<Note>) {
        let key = SigningKey::from_bytes(&[3; 32]);
        let by = PeerId::from_public_key(key.verifying_key().to_bytes());
        let note = Verified::sign(Note { by, text: "hello".into() }, &key).unwrap();
        (key, note)
    }

    #[test]
    fn a_signed_record_reads_back_from_its_wire_form() {
        let (_, note) = signed();
        let wire: SignedBytes = codec::decode(&codec::encode(note.wire()), 8192).unwrap();
        assert_eq!(wire.verify::<Note>().unwrap(), note);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_, note) = signed();
        let bytes = codec::encode(note.wire());
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let believed = codec::decode::<SignedBytes>(&broken, 8192)
                .is_ok_and(|wire| wire.verify::<Note>().is_ok());
            assert!(!believed, "bit {bit}");
        }
    }

    #[test]
    fn a_signature_serves_one_kind_and_one_signer() {
        let (key, note) = signed();
        assert!(note.wire().clone().verify::<Other>().is_err());
        let stranger = PeerId::from_public_key([9; 32]);
        assert!(Verified::sign(Note { by: stranger, text: String::new() }, &key).is_err());
    }
}
