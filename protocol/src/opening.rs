//! Opening a session at a hop: sealed to the host's prekey, so that only that host, and only for
//! as long as the prekey lives, can read whom it serves, what and for whom (docs/protocol.md 3.1).

use std::fmt;

use bytes::Bytes;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::announcement::Numerics;
use crate::codec::{self, BoundedBytes, BoundedVec};
use crate::ids::{ModelId, PeerId, SessionId, SwarmId};
use crate::sampling::Sampling;
use crate::sealed::Secret;
use crate::signed::SignedBytes;
use crate::span::Span;
use crate::time::UnixSeconds;

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 2;

/// The most hops of a chain: more laps of more delay than anybody would wait for.
pub const MAX_HOPS: usize = 64;

/// Hops are numbered below this, those included that took lost ones' places: a frame's header has
/// seven bits for it.
pub const MAX_NUMBERS: u8 = 128;

/// The longest prompt of one opening, in tokens.
pub const MAX_PROMPT: usize = 32_768;

/// The most alternatives a verdict may list per position.
pub const MAX_TOP: usize = 64;

/// The longest sealed opening, in bytes.
pub const MAX_OPENING: usize = 240 * 1024;

const INFO_DOMAIN: &[u8] = b"taimatsu 2026 opening 1";
const EXPORT_CONTEXT: &[u8] = b"taimatsu 2026 control secret";

/// Names one of a host's prekeys.
pub type PrekeyId = [u8; 8];

/// A host's short-lived public key (X25519), as it stands in its announcements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prekey {
    /// Which of the host's prekeys.
    pub id: PrekeyId,
    /// X25519 public key.
    pub public: [u8; 32],
    /// When it stops being accepted.
    pub not_after: UnixSeconds,
}

/// The private half of a prekey; erased when dropped, never written anywhere.
pub struct PrekeySecret {
    key: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: Prekey,
}

/// The first frame of a control stream, client to hop, in clear but for its ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// The session that is opened.
    pub session: SessionId,
    /// The hop's number in the session.
    pub hop: u8,
    /// The prekey that it is sealed to.
    pub prekey: PrekeyId,
    /// HPKE's encapsulated key.
    pub encapsulated: [u8; 32],
    /// The sealed [`Opening`].
    pub ciphertext: BoundedBytes<MAX_OPENING>,
}

/// The second frame of a control stream, hop to client, in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The session is open here; everything that follows is sealed with keys that this nonce enters.
    Accepted {
        /// The hop's own randomness.
        nonce: [u8; 32],
    },
    /// It is not, and why.
    Refused(Refusal),
}

/// Why a hop refuses an opening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// This session was opened here before.
    #[error("replayed: this session was opened here before")]
    Replayed,
    /// The prekey is gone; here is the present announcement.
    #[error("stale_prekey: the host has newer keys")]
    StalePrekey(Box<SignedBytes>),
    /// As many sessions as the owner allows are running.
    #[error("busy: try again in {retry_ms} ms")]
    Busy {
        /// When to ask again, in milliseconds.
        retry_ms: u32,
    },
    /// Not enough KV positions are free.
    #[error("no_kv: {free} positions free")]
    NoKv {
        /// Positions that are free.
        free: u32,
    },
    /// Longer than the host's context for this model.
    #[error("too_long: at most {limit} positions")]
    TooLong {
        /// Positions allowed.
        limit: u32,
    },
    /// The host does not host this model.
    #[error("unknown_model: not hosted here")]
    UnknownModel,
    /// The host hosts other blocks of it.
    #[error("wrong_span: hosts blocks {0}")]
    WrongSpan(Span),
    /// The host computes with other arithmetic.
    #[error("numerics: computes with {0:?}")]
    Numerics(Numerics),
    /// The client is not a member of this swarm.
    #[error("not_member: not of this swarm")]
    NotMember,
    /// The host is leaving.
    #[error("draining: the host is leaving")]
    Draining,
    /// The opening does not open, or does not make sense.
    #[error("unreadable: the opening does not open")]
    Unreadable,
    /// The host speaks another version.
    #[error("version: speaks version {0}")]
    Version(u16),
}

/// What a hop is told when a session is opened. Sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Which model.
    pub model: ModelId,
    /// What of it this hop computes.
    pub span: Span,
    /// The arithmetic that the chain computes with.
    pub numerics: Numerics,
    /// Tokens of the prompt.
    pub prompt_len: u32,
    /// Positions that may be used in all, prompt and answer.
    pub positions: u32,
    /// The lane to the next hop; none where the hop is alone.
    pub out: Option<LaneOpening>,
    /// The lane from the previous hop; none where the hop is alone.
    pub inward: Option<LaneOpening>,
    /// Whether receipts are wanted; never in a scoring session.
    pub receipts: bool,
    /// The prompt, for the leader; empty elsewhere.
    pub prompt: BoundedVec<u32, MAX_PROMPT>,
    /// The answer's ids so far, for a leader or a tail that takes a lost one's place; else empty.
    pub answer: BoundedVec<u32, MAX_PROMPT>,
    /// What the tail needs; none elsewhere.
    pub tail: Option<TailOpening>,
}

/// One end of a lane, as its hop is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneOpening {
    /// The lane: the number of the hop that it leads from.
    pub lane: u8,
    /// Who is at the other end.
    pub peer: PeerId,
    /// Known to both ends and the client only.
    pub secret: Secret,
    /// The generation of the connection.
    pub generation: u32,
    /// Its receiver begins with this session: it has no more than its opening gives it. Any other
    /// receiver says first what it has.
    pub fresh: bool,
}

/// How the tail makes tokens, or scores the prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TailOpening {
    /// Generate, or score.
    pub task: TailTask,
    /// The prompt, for penalties and scores; empty where the leader's is in the same opening.
    pub prompt: BoundedVec<u32, MAX_PROMPT>,
}

/// What the tail is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TailTask {
    /// Sample an answer.
    Generate {
        /// How.
        sampling: Sampling,
        /// Ids that end the answer.
        end_ids: BoundedVec<u32, 64>,
        /// Tokens that may be released before the first `Grant`.
        credit: u32,
        /// Alternatives wanted per token; none: no logprobs.
        logprobs: Option<u8>,
    },
    /// For every position of the prompt, the best continuations and how likely the next id was.
    Score {
        /// How many, 1 to [`MAX_TOP`].
        top: u8,
    },
}

/// A sealed opening did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// The host's public key is no point on the curve's good side.
    #[error("prekey is not usable")]
    Prekey,
    /// The opening is longer than a frame may be.
    #[error("opening is too long to be sent")]
    TooLong,
    /// Not sealed to this prekey, host, session and hop, or no opening inside.
    #[error("opening does not open")]
    Unreadable,
}

impl PrekeySecret {
    /// Draws a prekey that is accepted until `not_after`.
    pub fn generate<R: CryptoRng>(rng: &mut R, not_after: UnixSeconds) -> Self {
        let mut seed = [0_u8; 32];
        rng.fill_bytes(&mut seed);
        let (key, public) = X25519HkdfSha256::derive_keypair(&seed);
        seed.zeroize();
        let public: [u8; 32] = public.to_bytes().into();
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(&public).as_bytes()[..8]);
        Self { key, public: Prekey { id, public, not_after } }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> Prekey {
        self.public
    }

    /// Opens a hello that was sealed to this prekey at `host` in `swarm`: the opening, and the
    /// secret that client and hop now share.
    ///
    /// # Errors
    /// [`OpeningError::Unreadable`], whatever is wrong: a stranger learns nothing from it.
    pub fn open(
        &self,
        swarm: &SwarmId,
        host: &PeerId,
        hello: &Hello,
    ) -> Result<(Opening, Secret), OpeningError> {
        let unreadable = |_| OpeningError::Unreadable;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&hello.encapsulated)
            .map_err(unreadable)?;
        let mut context = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.key,
            &encapsulated,
            &info(swarm, host, &hello.prekey),
        )
        .map_err(unreadable)?;
        let aad = associated_data(&hello.session, hello.hop);
        let plain = context.open(hello.ciphertext.as_bytes(), &aad).map_err(unreadable)?;
        let mut secret = [0; 32];
        context.export(EXPORT_CONTEXT, &mut secret).map_err(unreadable)?;
        let opening = codec::decode(&plain, MAX_OPENING).map_err(|_| OpeningError::Unreadable)?;
        Ok((opening, Secret::from_bytes(secret)))
    }
}

impl fmt::Debug for PrekeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrekeySecret").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Opening {
    /// Seals this opening to `prekey` of `host`: the hello, and the secret then shared.
    ///
    /// # Errors
    /// The prekey is no usable point, or the opening is too long.
    pub fn seal<R: CryptoRng>(
        &self,
        swarm: &SwarmId,
        host: &PeerId,
        prekey: &Prekey,
        session: SessionId,
        hop: u8,
        rng: &mut R,
    ) -> Result<(Hello, Secret), OpeningError> {
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&prekey.public)
            .map_err(|_| OpeningError::Prekey)?;
        let (encapsulated, mut context) =
            hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &public,
                &info(swarm, host, &prekey.id),
                rng,
            )
            .map_err(|_| OpeningError::Prekey)?;
        let sealed = context
            .seal(&codec::encode(self), &associated_data(&session, hop))
            .map_err(|_| OpeningError::TooLong)?;
        let mut secret = [0; 32];
        context.export(EXPORT_CONTEXT, &mut secret).map_err(|_| OpeningError::TooLong)?;
        let ciphertext =
            BoundedBytes::try_from(Bytes::from(sealed)).map_err(|_| OpeningError::TooLong)?;
        let hello = Hello {
            version: VERSION,
            session,
            hop,
            prekey: prekey.id,
            encapsulated: encapsulated.to_bytes().into(),
            ciphertext,
        };
        Ok((hello, Secret::from_bytes(secret)))
    }

    /// The tail's task with the prompt, for the executor; none elsewhere.
    #[must_use]
    pub fn tail_prompt(&self) -> Option<(&TailTask, &[u32])> {
        let tail = self.tail.as_ref()?;
        Some((&tail.task, if self.is_alone() { &self.prompt } else { &tail.prompt }))
    }

    /// Whether this hop is the whole ring.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.span.embed && self.span.head
    }

    /// Whether the parts agree with each other and with the hop's number; a host refuses what
    /// does not as `unreadable`.
    #[must_use]
    pub fn is_consistent(&self, hop: u8) -> bool {
        let (leader, tail, alone) = (self.span.embed, self.span.head, self.is_alone());
        let answer = self.answer.len() as u64;
        let lane = |lane: &Option<LaneOpening>, own: bool| {
            lane.as_ref().map_or(alone, |lane| {
                !alone && lane.lane < MAX_NUMBERS && (lane.lane == hop) == own
            })
        };
        hop < MAX_NUMBERS
            && self.prompt_len > 0
            && self.prompt_len <= self.positions
            && tail == self.tail.is_some()
            && lane(&self.out, true)
            && lane(&self.inward, false)
            && self.prompt.len() == if leader { self.prompt_len as usize } else { 0 }
            && (leader || tail || answer == 0)
            // The last token needs no position of its own.
            && u64::from(self.prompt_len) + answer <= u64::from(self.positions) + 1
            && self.tail.as_ref().is_none_or(|tail| tail.is_consistent(self.prompt_len, alone))
            && !((self.receipts || answer > 0)
                && self.tail.as_ref().is_some_and(TailOpening::is_score))
    }
}

impl TailOpening {
    const fn is_score(&self) -> bool {
        matches!(self.task, TailTask::Score { .. })
    }

    fn is_consistent(&self, prompt_len: u32, alone: bool) -> bool {
        self.prompt.len() == if alone { 0 } else { prompt_len as usize }
            && match &self.task {
                TailTask::Generate { sampling, logprobs, .. } => {
                    sampling.out_of_range().is_none()
                        && logprobs.is_none_or(|top| usize::from(top) <= MAX_TOP)
                }
                TailTask::Score { top } => (1..=MAX_TOP).contains(&usize::from(*top)),
            }
    }
}

fn info(swarm: &SwarmId, host: &PeerId, prekey: &PrekeyId) -> Vec<u8> {
    [INFO_DOMAIN, swarm.as_bytes(), host.public_key(), prekey].concat()
}

fn associated_data(session: &SessionId, hop: u8) -> [u8; 17] {
    let mut aad = [0; 17];
    aad[..16].copy_from_slice(session.as_bytes());
    aad[16] = hop;
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn opening() -> Opening {
        Opening {
            model: ModelId::of(b"m"),
            span: Span::whole(30).unwrap(),
            numerics: Numerics::K1,
            receipts: true,
            prompt_len: 3,
            positions: 64,
            out: None,
            inward: None,
            prompt: vec![504, 3575, 282].try_into().unwrap(),
            answer: BoundedVec::new(),
            tail: Some(TailOpening {
                task: TailTask::Generate {
                    sampling: Sampling::greedy(),
                    end_ids: vec![2].try_into().unwrap(),
                    credit: 8,
                    logprobs: None,
                },
                prompt: BoundedVec::new(),
            }),
        }
    }

    fn sealed() -> (PrekeySecret, SwarmId, PeerId, Hello, Secret) {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let prekey = PrekeySecret::generate(&mut rng, UnixSeconds(100));
        let (swarm, host) = (SwarmId::public(), PeerId::from_public_key([5; 32]));
        let session = SessionId::from_bytes([1; 16]);
        let (hello, secret) =
            opening().seal(&swarm, &host, &prekey.public(), session, 0, &mut rng).unwrap();
        (prekey, swarm, host, hello, secret)
    }

    #[test]
    fn a_host_opens_what_is_sealed_to_it_and_shares_the_secret() {
        let (prekey, swarm, host, hello, secret) = sealed();
        let (read, shared) = prekey.open(&swarm, &host, &hello).unwrap();
        assert_eq!(read, opening());
        assert_eq!(shared, secret);
        assert!(read.is_consistent(0));
    }

    #[test]
    fn no_other_host_swarm_session_or_hop_opens_it() {
        let (prekey, swarm, host, hello, _) = sealed();
        let other = PeerId::from_public_key([6; 32]);
        assert!(prekey.open(&swarm, &other, &hello).is_err());
        assert!(prekey.open(&SwarmId::named("x"), &host, &hello).is_err());
        let moved = Hello { hop: 1, ..hello.clone() };
        assert!(prekey.open(&swarm, &host, &moved).is_err());
        let renamed = Hello { session: SessionId::from_bytes([2; 16]), ..hello.clone() };
        assert!(prekey.open(&swarm, &host, &renamed).is_err());
        let mut rng = ChaCha20Rng::seed_from_u64(8);
        let stranger = PrekeySecret::generate(&mut rng, UnixSeconds(100));
        assert!(stranger.open(&swarm, &host, &hello).is_err());
    }

    #[test]
    fn parts_that_contradict_each_other_are_noticed() {
        let good = opening();
        assert!(good.is_consistent(1), "a number says nothing of the place");
        assert!(!good.is_consistent(MAX_NUMBERS));
        let span = Span::new(0..20, 30).unwrap();
        assert!(!Opening { span, ..good.clone() }.is_consistent(0));
        let answer =
            |ids: usize| Opening { answer: BoundedVec::truncated(vec![9; ids]), ..good.clone() };
        assert!(answer(62).is_consistent(0));
        assert!(!answer(63).is_consistent(0), "more than there are positions");
        assert!(!Opening { prompt_len: 4, ..good.clone() }.is_consistent(0));
        assert!(!Opening { positions: 2, ..good.clone() }.is_consistent(0));
        assert!(!Opening { tail: None, ..good.clone() }.is_consistent(0));
        let mut twice = good.clone();
        twice.tail.as_mut().unwrap().prompt = twice.prompt.clone();
        assert!(!twice.is_consistent(0));
        let mut hot = good;
        if let Some(TailOpening { task: TailTask::Generate { sampling, .. }, .. }) = &mut hot.tail {
            sampling.temperature = f32::NAN;
        }
        assert!(!hot.is_consistent(0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = codec::decode::<Hello>(&bytes, MAX_OPENING);
            let _ = codec::decode::<Reply>(&bytes, MAX_OPENING);
            let _ = codec::decode::<Opening>(&bytes, MAX_OPENING);
        }
    }
}
