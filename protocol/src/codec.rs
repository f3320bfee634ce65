//! Control messages to bytes and back: the one file that names the serialiser.
//!
//! bincode 2 ("standard": little endian, varints) takes any length that a stranger claims, accepts
//! leftovers and non-canonical numbers. So: the input's length is checked first, what a claimed
//! length may allocate is capped by a tier near that length, nothing may be left over, every
//! collection in a wire type is a [`BoundedVec`] or [`BoundedBytes`], and what is signed or hashed
//! is always the bytes received, never a second encoding.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than this kind of message may be.
    #[error("message of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes received.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not an encoding of the type.
    #[error("message does not decode: {0}")]
    Malformed(String),
    /// A message, and then something more.
    #[error("message is followed by {0} bytes that do not belong to it")]
    Leftover(usize),
}

/// Encodes a wire type. The result is deterministic for equal values.
///
/// # Panics
/// Never for the wire types of this project: they hold nothing that the serialiser refuses.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("wire types hold only what the serialiser takes")
}

/// Decodes exactly one `T` from `bytes`, which may be at most `limit` long.
///
/// # Errors
/// Too long, malformed, or with leftovers: see [`CodecError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLong { length: bytes.len(), limit });
    }
    // The serialiser's own limit is a constant, and bounds what a claimed length can allocate:
    // hence a tier of the input's own size.
    let decoded = match bytes.len() {
        0..=1024 => decode_tier::<T, 4096>(bytes),
        1025..=16_384 => decode_tier::<T, 65_536>(bytes),
        16_385..=262_144 => decode_tier::<T, 1_048_576>(bytes),
        262_145..=4_194_304 => decode_tier::<T, 16_777_216>(bytes),
        _ => decode_tier::<T, 134_217_728>(bytes),
    };
    let (value, used) = decoded.map_err(|error| CodecError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(CodecError::Leftover(left)),
    }
}

fn decode_tier<T: DeserializeOwned, const LIMIT: usize>(
    bytes: &[u8],
) -> Result<(T, usize), bincode::error::DecodeError> {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<LIMIT>())
}

/// A vector that never holds, or decodes, more than `MAX` elements.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoundedVec<T, const MAX: usize>(Vec<T>);

/// More elements than the bound allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} elements where at most {limit} are allowed")]
pub struct OverBound {
    /// Elements offered.
    pub length: usize,
    /// Elements allowed.
    pub limit: usize,
}

impl<T, const MAX: usize> BoundedVec<T, MAX> {
    /// An empty vector.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The first `MAX` elements; what is beyond is left out.
    pub fn truncated(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().take(MAX).collect())
    }

    /// The plain vector.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> TryFrom<Vec<T>> for BoundedVec<T, MAX> {
    type Error = OverBound;

    fn try_from(items: Vec<T>) -> Result<Self, OverBound> {
        if items.len() > MAX {
            return Err(OverBound { length: items.len(), limit: MAX });
        }
        Ok(Self(items))
    }
}

impl<T, const MAX: usize> Default for BoundedVec<T, MAX> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const MAX: usize> Deref for BoundedVec<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for BoundedVec<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize, const MAX: usize> Serialize for BoundedVec<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedVec<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor::<T, MAX>(PhantomData))
    }
}

struct BoundedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedVisitor<T, MAX> {
    type Value = BoundedVec<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let claimed = seq.size_hint().unwrap_or(0);
        if claimed > MAX {
            return Err(A::Error::custom(OverBound { length: claimed, limit: MAX }));
        }
        // A claim costs nothing to make: memory grows with what has really been read.
        let mut items = Vec::with_capacity(claimed.min(64));
        while let Some(item) = seq.next_element()? {
            if items.len() == MAX {
                return Err(A::Error::custom(OverBound { length: MAX + 1, limit: MAX }));
            }
            items.push(item);
        }
        Ok(BoundedVec(items))
    }
}

/// Bytes that are never, and never decode as, longer than `MAX`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoundedBytes<const MAX: usize>(Bytes);

impl<const MAX: usize> BoundedBytes<MAX> {
    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The bytes, owned.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl<const MAX: usize> TryFrom<Bytes> for BoundedBytes<MAX> {
    type Error = OverBound;

    fn try_from(bytes: Bytes) -> Result<Self, OverBound> {
        if bytes.len() > MAX {
            return Err(OverBound { length: bytes.len(), limit: MAX });
        }
        Ok(Self(bytes))
    }
}

impl<const MAX: usize> fmt::Debug for BoundedBytes<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const MAX: usize> Serialize for BoundedBytes<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for BoundedBytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor::<MAX>)
    }
}

struct BytesVisitor<const MAX: usize>;

impl<const MAX: usize> Visitor<'_> for BytesVisitor<MAX> {
    type Value = BoundedBytes<MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        BoundedBytes::try_from(Bytes::copy_from_slice(bytes)).map_err(E::custom)
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
        BoundedBytes::try_from(Bytes::from(bytes)).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Sample = (u32, BoundedVec<u16, 8>, BoundedBytes<16>, Option<String>);

    #[test]
    fn leftovers_and_over_long_inputs_are_refused() {
        let mut bytes = encode(&7_u32);
        assert_eq!(decode::<u32>(&bytes, 16), Ok(7));
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes, 16), Err(CodecError::Leftover(1)));
        assert_eq!(
            decode::<u32>(&bytes, 1),
            Err(CodecError::TooLong { length: bytes.len(), limit: 1 })
        );
    }

    #[test]
    fn a_bound_holds_on_both_ways() {
        let nine = encode(&vec![0_u16; 9]);
        assert!(decode::<BoundedVec<u16, 8>>(&nine, 64).is_err());
        assert!(BoundedVec::<u16, 8>::try_from(vec![0; 9]).is_err());
        let long = encode(&BoundedBytes::<32>::try_from(Bytes::from(vec![0; 17])).unwrap());
        assert!(decode::<BoundedBytes<16>>(&long, 64).is_err());
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        // 2^60 elements claimed in nine bytes.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1_u64 << 60).to_le_bytes());
        assert!(decode::<BoundedBytes<{ usize::MAX }>>(&bytes, 64).is_err());
        assert!(decode::<BoundedVec<u8, { usize::MAX }>>(&bytes, 64).is_err());
        assert!(decode::<String>(&bytes, 64).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(value) = decode::<Sample>(&bytes, 256) {
                prop_assert_eq!(decode::<Sample>(&encode(&value), 256), Ok(value));
            }
        }
    }
}
