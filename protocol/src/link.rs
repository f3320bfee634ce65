//! Messages between neighbours on a lane (docs/protocol.md 3.1 and 3.3).

use serde::{Deserialize, Serialize};

use crate::codec::BoundedVec;
use crate::ids::SessionId;
use crate::opening::LaneOpening;
use crate::sealed::{Channel, Direction, Place, Secret};
use crate::signed::SignedBytes;

/// The most positions of one step.
pub const MAX_STEP: u32 = 512;

/// The first frame of a lane, upstream to downstream, in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkHello {
    /// The session.
    pub session: SessionId,
    /// The lane.
    pub lane: u8,
    /// Its generation, as the client set it.
    pub generation: u32,
    /// The upstream hop's randomness.
    pub nonce: [u8; 32],
    /// That it holds the lane's secret.
    pub proof: [u8; 32],
}

/// The answer, in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkReply {
    /// The lane stands.
    Accepted {
        /// The downstream hop's randomness.
        nonce: [u8; 32],
        /// That it holds the lane's secret, and means this hello.
        proof: [u8; 32],
    },
    /// No such session, lane or generation here, or the proof is wrong.
    Refused,
}

/// Upstream to downstream, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Downstream {
    /// Hidden states of `count` positions; the first is the frame's mark's `step`.
    Step {
        /// Positions, 1 to [`MAX_STEP`].
        count: u32,
        /// Positions below this are final: no draft will ever roll them back.
        committed_through: u32,
    },
    /// From the tail to the leader: final ids at the frame's mark's `step` and after it.
    Accepted {
        /// The ids.
        ids: BoundedVec<u32, 64>,
        /// As above.
        committed_through: u32,
    },
    /// The sender's receipt for the positions before the frame's mark's `step`.
    Receipt(SignedBytes),
}

/// Downstream to upstream, sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkAck {
    /// Positions received.
    pub received: u32,
    /// Positions computed.
    pub kv_len: u32,
    /// Positions that may be sent in all.
    pub until: u32,
}

/// Half a handshake: the upstream hop has said hello and waits.
#[derive(Debug)]
pub struct Greeting {
    hello: LinkHello,
    secret: Secret,
}

impl Greeting {
    /// Makes the hello of a lane with fresh randomness.
    #[must_use]
    pub fn new(session: SessionId, opening: &LaneOpening, nonce: [u8; 32]) -> Self {
        let mut hello = LinkHello {
            session,
            lane: opening.lane,
            generation: opening.generation,
            nonce,
            proof: [0; 32],
        };
        hello.proof = opening.secret.prove(&transcript(b"hello", &hello, &[]));
        Self { hello, secret: opening.secret.clone() }
    }

    /// What to send.
    #[must_use]
    pub const fn hello(&self) -> &LinkHello {
        &self.hello
    }

    /// The upstream end of the lane, if the reply is by one who holds the secret.
    #[must_use]
    pub fn finish(self, reply: &LinkReply) -> Option<Channel> {
        let LinkReply::Accepted { nonce, proof } = reply else { return None };
        let proven = self.secret.verify(&transcript(b"reply", &self.hello, nonce), proof);
        proven.then(|| channel(&self.secret, &self.hello, nonce, Direction::Forth))
    }
}

impl LinkHello {
    /// Answers a hello for the lane that was opened as `opening`: the reply, and the downstream
    /// end of the lane where the hello is good.
    #[must_use]
    pub fn answer(&self, opening: &LaneOpening, nonce: [u8; 32]) -> (LinkReply, Option<Channel>) {
        let unproven = Self { proof: [0; 32], ..self.clone() };
        let good = self.generation == opening.generation
            && opening.secret.verify(&transcript(b"hello", &unproven, &[]), &self.proof);
        if !good {
            return (LinkReply::Refused, None);
        }
        let proof = opening.secret.prove(&transcript(b"reply", self, &nonce));
        let channel = channel(&opening.secret, self, &nonce, Direction::Back);
        (LinkReply::Accepted { nonce, proof }, Some(channel))
    }
}

fn channel(secret: &Secret, hello: &LinkHello, nonce: &[u8; 32], end: Direction) -> Channel {
    let place = Place::Lane { lane: hello.lane, generation: hello.generation };
    Channel::new(secret, hello.session, place, end, &[hello.nonce, *nonce].concat())
}

fn transcript(step: &[u8], hello: &LinkHello, reply_nonce: &[u8]) -> Vec<u8> {
    let mut bytes = b"taimatsu 2026 link 1 ".to_vec();
    bytes.extend_from_slice(step);
    bytes.extend_from_slice(hello.session.as_bytes());
    bytes.push(hello.lane);
    bytes.extend_from_slice(&hello.generation.to_le_bytes());
    bytes.extend_from_slice(&hello.nonce);
    bytes.extend_from_slice(reply_nonce);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::ids::PeerId;
    use crate::sealed::Mark;
    use proptest::prelude::*;

    fn opening(secret: u8, generation: u32) -> LaneOpening {
        LaneOpening {
            lane: 0,
            peer: PeerId::from_public_key([1; 32]),
            secret: Secret::from_bytes([secret; 32]),
            generation,
            fresh: true,
        }
    }

    #[test]
    fn neighbours_with_the_same_secret_make_one_lane() {
        let session = SessionId::from_bytes([1; 16]);
        let greeting = Greeting::new(session, &opening(1, 1), [2; 32]);
        let (reply, down) = greeting.hello().answer(&opening(1, 1), [3; 32]);
        let mut down = down.unwrap();
        let mut up = greeting.finish(&reply).unwrap();
        let frame = up.sealer.seal(Mark::default(), &5_u32, None).unwrap();
        assert_eq!(down.opener.open::<u32>(frame.into()).unwrap().message, 5);
        let back = down.sealer.seal(Mark::default(), &6_u32, None).unwrap();
        assert_eq!(up.opener.open::<u32>(back.into()).unwrap().message, 6);
    }

    #[test]
    fn a_wrong_secret_generation_or_reply_makes_none() {
        let session = SessionId::from_bytes([1; 16]);
        let greet = || Greeting::new(session, &opening(1, 1), [2; 32]);
        assert_eq!(greet().hello().answer(&opening(2, 1), [3; 32]).0, LinkReply::Refused);
        assert_eq!(greet().hello().answer(&opening(1, 2), [3; 32]).0, LinkReply::Refused);
        assert!(greet().finish(&LinkReply::Refused).is_none());
        let forged = LinkReply::Accepted { nonce: [3; 32], proof: [0; 32] };
        assert!(greet().finish(&forged).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = codec::decode::<LinkHello>(&bytes, 1024);
            let _ = codec::decode::<LinkReply>(&bytes, 1024);
            let _ = codec::decode::<Downstream>(&bytes, 1024);
            let _ = codec::decode::<crate::control::ToHop>(&bytes, 1024);
            let _ = codec::decode::<crate::control::ToClient>(&bytes, 1024);
            let _ = codec::decode::<crate::announcement::Query>(&bytes, 1024);
            let _ = codec::decode::<crate::announcement::Answer>(&bytes, 1024);
            let _ = codec::decode::<crate::announcement::Announcement>(&bytes, 1024);
        }
    }
}
