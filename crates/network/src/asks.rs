//! Small rare questions: one frame there, one back, on a substream of its own.

use std::io;

use futures::{AsyncRead, AsyncWrite};
use libp2p::request_response::{self, Codec, Message, OutboundFailure};
use libp2p::{PeerId, StreamProtocol};
use taimatsu_protocol::announcement::{MAX_ANSWER, MAX_QUERY};
use tokio::sync::oneshot;

use crate::addresses::ours;
use crate::behaviour::ASK_DEADLINE;
use crate::errors::{AskError, OpenError};
use crate::event_loop::{EventLoop, Incoming};
use crate::frames::{FrameError, read_one, write_one};
use crate::pace::Pace;

/// Reads and writes opaque questions and answers, each bounded before it is read.
#[derive(Debug, Clone)]
pub(crate) struct AskCodec {
    pub(crate) pace: Pace,
}

impl Codec for AskCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_one(io, MAX_QUERY).await.map_err(into_io)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_one(io, MAX_ANSWER).await.map_err(into_io)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        query: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_one(io, &query, MAX_QUERY, &self.pace).await.map_err(into_io)
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_one(io, &answer, MAX_ANSWER, &self.pace).await.map_err(into_io)
    }
}

/// The node's answer to a question, and the way back; `None` refuses.
pub(crate) type Answered = (request_response::ResponseChannel<Vec<u8>>, Option<Vec<u8>>);

impl EventLoop {
    pub(crate) fn on_ask(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => self.on_query(peer, request, channel),
                Message::Response { request_id, response } => {
                    if let Some(reply) = self.asks.remove(&request_id) {
                        drop(reply.send(Ok(response)));
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                if let Some(reply) = self.asks.remove(&request_id) {
                    drop(reply.send(Err(why_no_answer(error))));
                }
            }
            _ => {}
        }
    }

    fn on_query(
        &mut self,
        peer: PeerId,
        bytes: Vec<u8>,
        channel: request_response::ResponseChannel<Vec<u8>>,
    ) {
        // Dropping the channel refuses the question.
        let Some(peer) = ours(peer) else { return };
        if self.answers.len() >= MAX_ANSWERS {
            return tracing::warn!(%peer, "too many questions wait; refused one");
        }
        let (reply, answer) = oneshot::channel();
        if self.incoming.try_send(Incoming::Query { peer, bytes, reply }).is_err() {
            return tracing::warn!(%peer, "the node does not keep up; refused a question");
        }
        self.answers.push(Box::pin(async move {
            let answer = tokio::time::timeout(ASK_DEADLINE, answer).await;
            (channel, answer.ok().and_then(Result::ok))
        }));
    }
}

fn into_io(error: FrameError) -> io::Error {
    match error {
        FrameError::Broken(source) => source,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

fn why_no_answer(error: OutboundFailure) -> AskError {
    let peer = match error {
        OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => OpenError::Lost,
        OutboundFailure::Timeout => OpenError::Late,
        OutboundFailure::UnsupportedProtocols => OpenError::NotSpoken,
        OutboundFailure::Io(error) => return AskError::NoAnswer { cause: error.to_string() },
    };
    AskError::Peer(peer)
}

/// Questions of peers that may wait for the node's answer. More are refused.
const MAX_ANSWERS: usize = 64;
