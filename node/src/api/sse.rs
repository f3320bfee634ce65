//! A chat answer as server-sent events.
//!
//! Frames are made when the connection asks for them and not before: a slow client holds back the
//! reading, the reading holds back the credit, and the chain waits. A failure is an event too, and
//! nothing follows it: clients take a mere end for success.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::Instant;

use super::error::ApiError;
use super::reading::{Opened, Opening, Reading};
use super::replies::{Chunk, Delta, Head, Label, Usage};
use crate::engine::{EngineError, Event, Finished, Started};

/// Silence after which a comment says that the answer is alive. Proxies and clients give up
/// after 30 s at the earliest; 15 is the most that our contract allows.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What the request asked for beside the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes {
    /// A last chunk with the token counts.
    pub(super) usage: bool,
    /// Our label on the chunk that ends the answer.
    pub(super) label: bool,
}

/// An answer on its way to a client. Dropping it cancels the answer.
pub(super) struct ChatStream {
    head: Head,
    wishes: Wishes,
    phase: Phase,
    /// Frames made and not asked for yet: a few, since one event makes at most four.
    ready: VecDeque<Bytes>,
    /// When silence has lasted too long.
    quiet_until: Instant,
    /// The answer's ids, for the label; empty where none is wanted.
    tokens: Vec<u32>,
}

/// How far the answer is.
enum Phase {
    /// Nothing has come.
    Opening(Opening),
    /// Tokens come.
    Running(Started, Reading),
    /// All is said.
    Done,
}

impl ChatStream {
    /// An answer whose first token is here.
    pub(super) fn opened(head: Head, wishes: Wishes, opened: Opened) -> Self {
        let mut stream = Self::new(head, wishes, Phase::Done);
        stream.begin(opened);
        stream
    }

    /// An answer that is still awaited. The client hears at once that it is.
    pub(super) fn opening(head: Head, wishes: Wishes, opening: Opening) -> Self {
        let mut stream = Self::new(head, wishes, Phase::Opening(opening));
        stream.ready.push_back(keepalive());
        stream
    }

    fn new(head: Head, wishes: Wishes, phase: Phase) -> Self {
        let quiet_until = Instant::now() + KEEPALIVE;
        Self { head, wishes, phase, ready: VecDeque::new(), quiet_until, tokens: Vec::new() }
    }

    /// The next frame for the client; none after the end.
    async fn frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.quiet_until = Instant::now() + KEEPALIVE;
                return Some(frame);
            }
            self.advance().await?;
        }
    }

    /// Waits for the next thing to happen, and makes its frames; none after the end.
    async fn advance(&mut self) -> Option<()> {
        match &mut self.phase {
            Phase::Done => return None,
            Phase::Opening(opening) => {
                match tokio::time::timeout_at(self.quiet_until, opening.as_mut()).await {
                    Ok(Ok(opened)) => self.begin(opened),
                    Ok(Err(error)) => self.fail(error),
                    Err(_) => self.ready.push_back(keepalive()),
                }
            }
            Phase::Running(_, reading) => {
                match tokio::time::timeout_at(self.quiet_until, reading.next()).await {
                    Ok(event) => self.event(event),
                    Err(_) => self.ready.push_back(keepalive()),
                }
            }
        }
        Some(())
    }

    fn begin(&mut self, opened: Opened) {
        let Opened { started, first, reading } = opened;
        self.phase = Phase::Running(started, reading);
        self.piece(Delta::role());
        self.event(first);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Token(token) => {
                if self.wishes.label {
                    self.tokens.push(token.id);
                }
                // Half a character, or text held back: nothing to say yet.
                if !token.text.is_empty() {
                    self.piece(Delta::content(&token.text));
                }
            }
            Event::Finished(finished) => self.finish(&finished),
            Event::Failed(error) => self.fail(error),
            Event::Started(_) => self.fail(EngineError::Internal("an answer began twice".into())),
        }
    }

    fn piece(&mut self, delta: Delta<'_>) {
        if let Phase::Running(started, _) = &self.phase {
            self.ready.push_back(data(&Chunk::piece(&self.head, &started.model, delta)));
        }
    }

    fn finish(&mut self, finished: &Finished) {
        if !finished.text.is_empty() {
            self.piece(Delta::content(&finished.text));
        }
        let Phase::Running(started, _) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return;
        };
        let label = self.wishes.label.then(|| Label::new(&started, &self.tokens, &finished.report));
        self.ready.push_back(data(&Chunk::end(&self.head, &started.model, finished, label)));
        if self.wishes.usage {
            let usage = Usage::new(&started, finished);
            self.ready.push_back(data(&Chunk::usage(&self.head, &started.model, usage)));
        }
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }

    /// The error, and nothing after it: no reason for the end, no `[DONE]`.
    fn fail(&mut self, error: EngineError) {
        self.phase = Phase::Done;
        tracing::warn!(%error, id = self.head.id, "an answer broke off");
        self.ready.push_back(data(&ApiError::from(error).to_json()));
    }
}

impl IntoResponse for ChatStream {
    fn into_response(self) -> Response {
        let frames = futures::stream::unfold(self, |mut stream| async move {
            let frame = stream.frame().await?;
            Some((Ok::<_, Infallible>(frame), stream))
        });
        let mut reply = Response::new(Body::from_stream(frames));
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Some proxies gather a whole reply before they pass it on.
        headers
            .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        reply
    }
}

/// An event with this JSON, which has no line breaks outside its strings, and none bare in them.
fn data(value: &impl Serialize) -> Bytes {
    let mut frame = b"data: ".to_vec();
    serde_json::to_writer(&mut frame, value).expect("our own types are JSON");
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// A comment: every client ignores it.
fn keepalive() -> Bytes {
    Bytes::from_static(b": keepalive\n\n")
}
