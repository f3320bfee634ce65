//! Frames on a stream: `[u32 LE length][bytes]`, each bounded by its stream's kind.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use libp2p::Stream;
use taimatsu_protocol::PeerId;

use crate::pace::Pace;

/// What a stream is for; each has a protocol name and a bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// Openings, verdicts, credit: small, and never behind bulk.
    Control,
    /// Activations, pushed from hop to hop.
    Link,
}

impl StreamKind {
    /// The longest frame, in bytes without the length before it.
    #[must_use]
    pub const fn max_frame(self) -> usize {
        match self {
            Self::Control => 256 << 10,
            Self::Link => 8 << 20,
        }
    }
}

/// Which way a frame travels, seen from the node whose tap hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the peer, before it is written.
    Out,
    /// From the peer, before its reader sees it.
    In,
}

/// A test's ear, and hand, at exactly what the network is handed inside Noise.
///
/// Called once for every frame of every stream in either direction, in order within a stream and
/// direction. It must not block. What it leaves in `frame` is what travels on.
pub trait FrameTap: Send + Sync {
    /// Hears a frame, and may alter it.
    fn frame(&self, direction: Direction, peer: PeerId, kind: StreamKind, frame: &mut Vec<u8>);
}

/// Why a stream of frames cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A frame longer than the stream's kind allows, in either direction.
    #[error("a frame of {length} bytes is over the limit of {limit}; drop this stream")]
    TooLong {
        /// Bytes that were claimed, or were to be written.
        length: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended {missing} bytes before its frame did; the peer is gone")]
    Truncated {
        /// Bytes that had been promised.
        missing: usize,
    },
    /// The stream broke.
    #[error("the stream broke; open another: {0}")]
    Broken(#[from] io::Error),
}

/// The receiving half of a stream.
pub struct FrameReader {
    io: ReadHalf<Stream>,
    assembly: Assembly,
    wire: Wire,
}

impl FrameReader {
    /// The next frame; `None` when the peer closed the stream, or the connection, between frames.
    ///
    /// Cancel safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// See [`FrameError`]; after one the stream is of no more use.
    pub async fn read(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(frame) = self.assembly.next(&mut self.io).await? else { return Ok(None) };
        let Some(tap) = &self.wire.tap else { return Ok(Some(frame)) };
        let mut frame = Vec::from(frame);
        tap.frame(Direction::In, self.wire.peer, self.wire.kind, &mut frame);
        Ok(Some(frame.into()))
    }

    /// The peer at the other end, as the handshake proved it.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.wire.peer
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameReader({:?} {})", self.wire.kind, self.wire.peer)
    }
}

/// The sending half of a stream. Dropping it without [`close`](Self::close) resets the stream once
/// its reader is dropped too.
pub struct FrameWriter {
    io: WriteHalf<Stream>,
    buffer: Vec<u8>,
    pace: Pace,
    wire: Wire,
}

impl FrameWriter {
    /// Writes one frame and flushes it. Waits while the peer does not read; a caller that must
    /// not wait puts a deadline around it. Not cancel safe: after a dropped call, drop the stream.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] before anything is written; [`FrameError::Broken`] when the peer is
    /// gone.
    pub async fn write(&mut self, frame: impl AsRef<[u8]> + Send) -> Result<(), FrameError> {
        assemble(&mut self.buffer, frame.as_ref(), &self.wire)?;
        drop(frame);
        self.pace.write(&mut self.io, &self.buffer).await?;
        self.io.flush().await?;
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes: its reader sees `None`.
    ///
    /// # Errors
    /// [`FrameError::Broken`] when the peer is gone.
    pub async fn close(mut self) -> Result<(), FrameError> {
        self.io.close().await.map_err(Into::into)
    }

    /// The peer at the other end, as the handshake proved it.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.wire.peer
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameWriter({:?} {})", self.wire.kind, self.wire.peer)
    }
}

/// Whose stream this is, of which kind, and who listens in.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) peer: PeerId,
    pub(crate) kind: StreamKind,
    pub(crate) tap: Option<Arc<dyn FrameTap>>,
}

/// The two halves of a negotiated stream; they may live in different tasks.
pub(crate) fn split(stream: Stream, pace: Pace, wire: Wire) -> (FrameReader, FrameWriter) {
    let (read, write) = stream.split();
    let assembly = Assembly::new(wire.kind.max_frame());
    (
        FrameReader { io: read, assembly, wire: wire.clone() },
        FrameWriter { io: write, buffer: Vec::new(), pace, wire },
    )
}

/// One whole frame, for exchanges of a single one; the stream may end only after it.
pub(crate) async fn read_one<R>(io: &mut R, limit: usize) -> Result<Vec<u8>, FrameError>
where
    R: AsyncRead + Unpin + Send,
{
    let frame = Assembly::new(limit).next(io).await?;
    frame.map(Vec::from).ok_or(FrameError::Truncated { missing: HEADER })
}

/// Writes one frame of at most `limit` bytes and closes the writing side.
pub(crate) async fn write_one<W>(
    io: &mut W,
    frame: &[u8],
    limit: usize,
    pace: &Pace,
) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin + Send,
{
    let header = header(frame.len(), limit)?;
    io.write_all(&header).await?;
    pace.write(io, frame).await?;
    io.close().await.map_err(Into::into)
}

/// A frame that is being put together from what arrives; keeps its place between calls.
struct Assembly {
    limit: usize,
    header: [u8; HEADER],
    header_filled: usize,
    /// As long as what has arrived and a chunk more, never as long as what is merely claimed.
    body: BytesMut,
    body_filled: usize,
}

impl Assembly {
    fn new(limit: usize) -> Self {
        let body = BytesMut::new();
        Self { limit, header: [0; HEADER], header_filled: 0, body, body_filled: 0 }
    }

    async fn next<R>(&mut self, io: &mut R) -> Result<Option<Bytes>, FrameError>
    where
        R: AsyncRead + Unpin + Send,
    {
        while self.header_filled < HEADER {
            match io.read(&mut self.header[self.header_filled..]).await? {
                0 if self.header_filled == 0 => return Ok(None),
                0 => return Err(FrameError::Truncated { missing: HEADER - self.header_filled }),
                n => self.header_filled += n,
            }
        }
        let length = u32::from_le_bytes(self.header) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        while self.body_filled < length {
            if self.body_filled == self.body.len() {
                let grown = (2 * self.body_filled).max(FIRST_CHUNK).min(length);
                self.body.resize(grown, 0);
            }
            match io.read(&mut self.body[self.body_filled..]).await? {
                0 => return Err(FrameError::Truncated { missing: length - self.body_filled }),
                n => self.body_filled += n,
            }
        }
        (self.header_filled, self.body_filled) = (0, 0);
        Ok(Some(std::mem::take(&mut self.body).freeze()))
    }
}

fn assemble(buffer: &mut Vec<u8>, frame: &[u8], wire: &Wire) -> Result<(), FrameError> {
    let limit = wire.kind.max_frame();
    let mut push = |frame: &[u8]| {
        let header = header(frame.len(), limit)?;
        buffer.clear();
        buffer.extend_from_slice(&header);
        buffer.extend_from_slice(frame);
        Ok(())
    };
    let Some(tap) = &wire.tap else { return push(frame) };
    let mut frame = frame.to_vec();
    tap.frame(Direction::Out, wire.peer, wire.kind, &mut frame);
    push(&frame)
}

fn header(length: usize, limit: usize) -> Result<[u8; HEADER], FrameError> {
    match u32::try_from(length) {
        Ok(short) if length <= limit => Ok(short.to_le_bytes()),
        _ => Err(FrameError::TooLong { length, limit }),
    }
}

/// Bytes of the length before a frame.
const HEADER: usize = 4;

/// What a peer's mere claim of a long frame may cost.
const FIRST_CHUNK: usize = 64 << 10;

/// A buffer that grew beyond this for one long frame is given back.
const KEPT_BUFFER: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], limit: usize) -> (Vec<Bytes>, Result<(), FrameError>, usize) {
        let (mut assembly, mut io) = (Assembly::new(limit), Cursor::new(bytes));
        let mut frames = Vec::new();
        let end = loop {
            match block_on(assembly.next(&mut io)) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (frames, end, assembly.body.capacity())
    }

    #[test]
    fn frames_read_back() {
        let mut bytes = Vec::new();
        for frame in [&b"one"[..], b"", &[7; 200_000]] {
            bytes.extend(header(frame.len(), 1 << 20).unwrap());
            bytes.extend(frame);
        }
        let (frames, end, _) = all(&bytes, 1 << 20);
        assert!(end.is_ok());
        assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), [3, 0, 200_000]);
    }

    #[test]
    fn an_oversized_claim_allocates_nothing() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let (frames, end, capacity) = all(&bytes, 8 << 20);
        assert!(frames.is_empty());
        assert!(matches!(end, Err(FrameError::TooLong { length: 0xffff_ffff, .. })));
        assert_eq!(capacity, 0);
    }

    #[test]
    fn a_permitted_claim_allocates_by_what_arrives() {
        let mut bytes = (8_u32 << 20).to_le_bytes().to_vec();
        bytes.extend([1; 100]);
        let (_, end, capacity) = all(&bytes, 8 << 20);
        assert!(
            matches!(end, Err(FrameError::Truncated { missing }) if missing == (8 << 20) - 100)
        );
        assert!(capacity <= FIRST_CHUNK);
    }

    #[test]
    fn a_frame_over_the_limit_is_not_written() {
        assert!(matches!(header(11, 10), Err(FrameError::TooLong { length: 11, limit: 10 })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            small in proptest::collection::vec(0_u8..8, 0..40),
        ) {
            for bytes in [bytes, small] {
                let (frames, _, capacity) = all(&bytes, 1 << 16);
                let total: usize = frames.iter().map(|frame| HEADER + frame.len()).sum();
                prop_assert!(total <= bytes.len() && capacity <= FIRST_CHUNK);
            }
        }
    }
}
