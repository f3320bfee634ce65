//! A hop's opening on its way: said, answered, and said once more to a host that has turned its
//! keys.

use taimatsu_network::{FrameReader, StreamKind};
use taimatsu_protocol::opening::{Hello, Opening, Prekey, Refusal, Reply};
use taimatsu_protocol::sealed::{Channel, Direction, Place, Secret};
use taimatsu_protocol::{Announcement, PeerId, SessionId, codec};

use super::{Caller, Line};
use crate::driver::streams::FrameQueue;

/// The longest reply to a hello, in bytes.
const MAX_REPLY: usize = 16 * 1024;

/// One hop's opening.
pub(super) struct Knock {
    pub(super) caller: Caller,
    pub(super) session: SessionId,
    pub(super) hop: u8,
    pub(super) peer: PeerId,
    pub(super) prekey: Prekey,
    pub(super) opening: Opening,
}

impl Knock {
    /// Opens the hop's control stream. `Err(None)`: it cannot be reached.
    pub(super) async fn open(mut self) -> Result<(Line, FrameReader), Option<Refusal>> {
        match self.attempt().await {
            // The host has turned its keys since it was heard of: once more, with the new one.
            Err(Some(Refusal::StalePrekey(announcement))) => {
                let verified = announcement.verify::<Announcement>().map_err(|_| None)?;
                if verified.record().host != self.peer {
                    return Err(None);
                }
                self.prekey = verified.record().prekey;
                self.attempt().await
            }
            answer => answer,
        }
    }

    async fn attempt(&self) -> Result<(Line, FrameReader), Option<Refusal>> {
        let (hello, secret) = self.seal().ok_or(None)?;
        let Caller { network, .. } = &self.caller;
        let opened = network.open(self.peer, StreamKind::Control).await;
        let (mut reader, mut writer) = opened.map_err(|error| {
            tracing::debug!(peer = %self.peer, %error, "cannot open a control stream");
            None
        })?;
        writer.write(codec::encode(&hello)).await.map_err(|_| None)?;
        let frame = reader.read().await.ok().flatten().ok_or(None)?;
        match codec::decode::<Reply>(&frame, MAX_REPLY) {
            Ok(Reply::Accepted { nonce }) => {
                let place = Place::Control { hop: self.hop };
                let channel = Channel::new(&secret, self.session, place, Direction::Forth, &nonce);
                Ok((Line { channel, queue: FrameQueue::over(writer) }, reader))
            }
            Ok(Reply::Refused(refusal)) => Err(Some(refusal)),
            Err(_) => Err(None),
        }
    }

    fn seal(&self) -> Option<(Hello, Secret)> {
        let Self { caller, session, hop, peer, prekey, opening } = self;
        let rng = &mut crate::entropy::rng();
        opening.seal(&caller.swarm, peer, prekey, *session, *hop, rng).ok()
    }
}
