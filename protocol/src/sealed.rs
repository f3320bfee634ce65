//! Sealed frames: ChaCha20-Poly1305 (RFC 8439) under a key of its own per stream, direction and
//! generation, with a counter for a nonce and the header as associated data.
//!
//! Streams are ordered and authenticated below, so the only right counter is the next one: a
//! replayed, dropped, reordered or altered frame does not open.

use std::fmt;

use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::codec::{self, CodecError};
use crate::ids::SessionId;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 39;

/// The most bytes of control message inside one sealed frame.
pub const MAX_MESSAGE: usize = 60 * 1024;

const TAG_LEN: usize = 16;

/// 32 secret bytes; erased when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes 32 (random) bytes as a secret.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A 32-byte proof that its maker holds this secret and means `transcript`.
    #[must_use]
    pub fn prove(&self, transcript: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, transcript).as_bytes()
    }

    /// Checks such a proof in constant time.
    #[must_use]
    pub fn verify(&self, transcript: &[u8], proof: &[u8; 32]) -> bool {
        blake3::keyed_hash(&self.0, transcript) == blake3::Hash::from_bytes(*proof)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client, or from the upstream hop.
    Forth,
    /// To them.
    Back,
}

impl Direction {
    const fn byte(self) -> u8 {
        match self {
            Self::Forth => 0,
            Self::Back => 1,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Forth => Self::Back,
            Self::Back => Self::Forth,
        }
    }
}

/// Which stream of a session a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The control stream of this hop.
    Control {
        /// The hop's number.
        hop: u8,
    },
    /// This lane, in this generation.
    Lane {
        /// The lane's number.
        lane: u8,
        /// Set by the client at every connection.
        generation: u32,
    },
}

impl Place {
    const fn byte(self) -> u8 {
        match self {
            Self::Control { hop } => hop,
            Self::Lane { lane, .. } => 128 | lane,
        }
    }

    const fn generation(self) -> u32 {
        match self {
            Self::Control { .. } => 0,
            Self::Lane { generation, .. } => generation,
        }
    }
}

/// What a frame is about; authenticated, and readable by whoever carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Epoch of the positions inside.
    pub epoch: u32,
    /// First absolute position inside, 0 where there is none.
    pub step: u32,
}

/// A frame does not open, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too short, of another session, stream, generation or direction, out of order, or altered.
    #[error("frame is not the next one of this stream, or was altered")]
    Refused,
    /// The message inside is not one.
    #[error("frame holds no message")]
    Message(#[from] CodecError),
    /// Two to the 64 frames have been sent.
    #[error("stream has used up its nonces")]
    Exhausted,
    /// The message is longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes is too long for a frame")]
    TooLong(usize),
}

/// Both keys of one end of a stream: seals what it sends, opens what it receives.
#[derive(Debug)]
pub struct Channel {
    /// The sending half.
    pub sealer: Sealer,
    /// The receiving half.
    pub opener: Opener,
}

impl Channel {
    /// The end that sends in `direction`. `context` enters the keys beside the secret: the nonces
    /// of both sides.
    #[must_use]
    pub fn new(
        secret: &Secret,
        session: SessionId,
        place: Place,
        direction: Direction,
        context: &[u8],
    ) -> Self {
        let half = |direction| Half::new(secret, session, place, direction, context);
        Self { sealer: Sealer(half(direction)), opener: Opener(half(direction.other())) }
    }
}

/// Seals the frames of one direction.
pub struct Sealer(Half);

/// Opens the frames of one direction.
pub struct Opener(Half);

struct Half {
    cipher: ChaCha20Poly1305,
    session: SessionId,
    place: Place,
    direction: Direction,
    next: u64,
}

impl Sealer {
    /// Seals a message, with an optional tensor (raw bytes) behind it.
    ///
    /// # Errors
    /// The message is too long, or the stream has used up its nonces.
    pub fn seal<M: Serialize>(
        &mut self,
        mark: Mark,
        message: &M,
        tensor: Option<&[u8]>,
    ) -> Result<Vec<u8>, SealError> {
        let encoded = codec::encode(message);
        let length = u16::try_from(encoded.len())
            .ok()
            .filter(|length| usize::from(*length) <= MAX_MESSAGE)
            .ok_or(SealError::TooLong(encoded.len()))?;
        let tensor_len = tensor.map_or(0, <[u8]>::len);
        let header = self.0.header(mark, tensor.is_some());
        let mut frame = Vec::with_capacity(HEADER_LEN + 2 + encoded.len() + tensor_len + TAG_LEN);
        frame.extend_from_slice(&header);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&encoded);
        frame.extend_from_slice(tensor.unwrap_or_default());
        let nonce = self.0.take_nonce()?;
        let tag = self
            .0
            .cipher
            .encrypt_inout_detached(&nonce, &header, (&mut frame[HEADER_LEN..]).into())
            .map_err(|_| SealError::TooLong(tensor_len))?;
        frame.extend_from_slice(&tag);
        Ok(frame)
    }
}

/// What a frame held.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened<M> {
    /// What it was about.
    pub mark: Mark,
    /// The message.
    pub message: M,
    /// The tensor behind it, raw.
    pub tensor: Option<Bytes>,
}

impl Opener {
    /// Opens the next frame of the stream.
    ///
    /// # Errors
    /// Anything but the next frame, unaltered, with one message inside: [`SealError`].
    pub fn open<M: DeserializeOwned>(&mut self, frame: Bytes) -> Result<Opened<M>, SealError> {
        if frame.len() < HEADER_LEN + 2 + TAG_LEN {
            return Err(SealError::Refused);
        }
        let mut frame = BytesMut::from(frame);
        let header: [u8; HEADER_LEN] =
            frame.split_to(HEADER_LEN).as_ref().try_into().map_err(|_| SealError::Refused)?;
        let mark = Mark { epoch: word(&header, 30), step: word(&header, 34) };
        let has_tensor = header[38] == 1;
        if header != self.0.header(mark, has_tensor) {
            return Err(SealError::Refused);
        }
        let nonce = self.0.take_nonce()?;
        let tag = frame.split_off(frame.len() - TAG_LEN);
        let tag = Tag::try_from(tag.as_ref()).map_err(|_| SealError::Refused)?;
        self.0
            .cipher
            .decrypt_inout_detached(&nonce, &header, frame.as_mut().into(), &tag)
            .map_err(|_| SealError::Refused)?;
        let mut plain = frame.freeze();
        let length = usize::from(u16::from_le_bytes([plain[0], plain[1]]));
        if plain.len() < 2 + length {
            return Err(SealError::Refused);
        }
        let tensor = plain.split_off(2 + length);
        let message = codec::decode(&plain[2..], MAX_MESSAGE)?;
        match (has_tensor, tensor.is_empty()) {
            (true, _) => Ok(Opened { mark, message, tensor: Some(tensor) }),
            (false, true) => Ok(Opened { mark, message, tensor: None }),
            (false, false) => Err(SealError::Refused),
        }
    }
}

impl Half {
    fn new(
        secret: &Secret,
        session: SessionId,
        place: Place,
        direction: Direction,
        context: &[u8],
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("taimatsu 2026 frame key 1");
        hasher.update(&secret.0);
        hasher.update(session.as_bytes());
        hasher.update(&[place.byte(), direction.byte()]);
        hasher.update(&place.generation().to_le_bytes());
        hasher.update(context);
        let mut key = *hasher.finalize().as_bytes();
        let cipher = ChaCha20Poly1305::new((&key).into());
        key.zeroize();
        Self { cipher, session, place, direction, next: 0 }
    }

    fn header(&self, mark: Mark, tensor: bool) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..16].copy_from_slice(self.session.as_bytes());
        header[16] = self.place.byte();
        header[17] = self.direction.byte();
        header[18..22].copy_from_slice(&self.place.generation().to_le_bytes());
        header[22..30].copy_from_slice(&self.next.to_le_bytes());
        header[30..34].copy_from_slice(&mark.epoch.to_le_bytes());
        header[34..38].copy_from_slice(&mark.step.to_le_bytes());
        header[38] = u8::from(tensor);
        header
    }

    fn take_nonce(&mut self) -> Result<Nonce, SealError> {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.next.to_le_bytes());
        self.next = self.next.checked_add(1).ok_or(SealError::Exhausted)?;
        Ok(nonce.into())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?})", self.0.place)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({:?})", self.0.place)
    }
}

fn word(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(generation: u32) -> (Channel, Channel) {
        let secret = Secret::from_bytes([4; 32]);
        let session = SessionId::from_bytes([1; 16]);
        let place = Place::Lane { lane: 1, generation };
        (
            Channel::new(&secret, session, place, Direction::Forth, b"nonces"),
            Channel::new(&secret, session, place, Direction::Back, b"nonces"),
        )
    }

    #[test]
    fn frames_open_once_in_order() {
        let (mut a, mut b) = pair(1);
        let mark = Mark { epoch: 3, step: 77 };
        let frames: Vec<Bytes> = (0..3_u32)
            .map(|n| a.sealer.seal(mark, &n, Some(&[n as u8; 8])).unwrap().into())
            .collect();
        let first = b.opener.open::<u32>(frames[0].clone()).unwrap();
        assert_eq!((first.mark, first.message), (mark, 0));
        assert_eq!(first.tensor.unwrap(), Bytes::from_static(&[0; 8]));
        assert_eq!(b.opener.open::<u32>(frames[0].clone()), Err(SealError::Refused));
        assert_eq!(b.opener.open::<u32>(frames[2].clone()), Err(SealError::Refused));
        assert_eq!(b.opener.open::<u32>(frames[1].clone()).unwrap().message, 1);
    }

    #[test]
    fn every_flipped_bit_is_refused_and_the_right_frame_still_opens() {
        let (mut a, mut b) = pair(1);
        let frame = a.sealer.seal(Mark::default(), &9_u32, Some(b"tensor")).unwrap();
        for bit in 0..frame.len() * 8 {
            let (_, mut fresh) = pair(1);
            let mut broken = frame.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(fresh.opener.open::<u32>(broken.into()).is_err(), "bit {bit}");
        }
        assert!(b.opener.open::<u32>(frame.into()).is_ok());
    }

    #[test]
    fn another_generation_direction_or_nonce_has_other_keys() {
        let (mut a, mut b) = pair(1);
        let (_, mut later) = pair(2);
        let frame = Bytes::from(a.sealer.seal(Mark::default(), &9_u32, None).unwrap());
        assert!(later.opener.open::<u32>(frame.clone()).is_err());
        assert!(a.opener.open::<u32>(frame.clone()).is_err());
        let plain = b"nonces and more";
        let secret = Secret::from_bytes([4; 32]);
        let place = Place::Lane { lane: 1, generation: 1 };
        let session = SessionId::from_bytes([1; 16]);
        let mut other = Channel::new(&secret, session, place, Direction::Back, plain);
        assert!(other.opener.open::<u32>(frame.clone()).is_err());
        assert!(b.opener.open::<u32>(frame).is_ok());
    }

    #[test]
    fn proofs_bind_secret_and_transcript() {
        let secret = Secret::from_bytes([4; 32]);
        let proof = secret.prove(b"hello");
        assert!(secret.verify(b"hello", &proof));
        assert!(!secret.verify(b"hullo", &proof));
        assert!(!Secret::from_bytes([5; 32]).verify(b"hello", &proof));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let (_, mut b) = pair(1);
            prop_assert!(b.opener.open::<u32>(bytes.into()).is_err());
        }
    }
}
