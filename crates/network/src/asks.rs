//! Small rare questions: one frame there, one back, on a substream of its own.

use std::io;

use futures::{AsyncRead, AsyncWrite};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;
use taimatsu_protocol::announcement::{MAX_ANSWER, MAX_QUERY};

use crate::frames::{FrameError, read_one, write_one};

/// Reads and writes opaque questions and answers, each bounded before it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskCodec;

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
        write_one(io, &query, MAX_QUERY).await.map_err(into_io)
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
        write_one(io, &answer, MAX_ANSWER).await.map_err(into_io)
    }
}

fn into_io(error: FrameError) -> io::Error {
    match error {
        FrameError::Broken(source) => source,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
