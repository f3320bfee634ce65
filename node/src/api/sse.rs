//! An answer as server-sent events.
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

use super::answers::refusal;
use super::asking::Asking;
use super::choice::{Choice, Piece};
use super::opening::{Opened, Opening};
use super::replies::{Head, Part, Reply, Usage};
use crate::engine::{EngineError, Event, Finished};

/// Silence after which a comment says that the answer is alive. Proxies and clients give up
/// after 30 s at the earliest; 15 is the most that our contract allows.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// An answer on its way to a client. Dropping it cancels the answer.
pub(super) struct AnswerStream {
    head: Head,
    phase: Phase,
    voices: Vec<Voice>,
    /// Choices per prompt.
    n: usize,
    /// The token counts so far, where they are wanted in the end.
    usage: Option<Usage>,
    /// Frames made and not asked for yet: a few, since one event makes at most five.
    ready: VecDeque<Bytes>,
    /// When silence has lasted too long.
    quiet_until: Instant,
}

/// A choice, and whether any of it was sent.
struct Voice {
    choice: Choice,
    heard: bool,
}

/// How far the answer is.
enum Phase {
    /// Nothing has come.
    Opening(Opening),
    /// Tokens come.
    Running(Asking),
    /// All is said.
    Done,
}

impl AnswerStream {
    /// An answer whose first token is here; `n` choices for each prompt.
    pub(super) fn opened(head: Head, n: usize, usage: bool, opened: Opened) -> Self {
        let mut stream = Self::new(head, n, usage, Phase::Done);
        stream.begin(opened);
        stream
    }

    /// An answer that is still awaited. The client hears at once that it is.
    pub(super) fn opening(head: Head, n: usize, usage: bool, opening: Opening) -> Self {
        let mut stream = Self::new(head, n, usage, Phase::Opening(opening));
        stream.ready.push_back(keepalive());
        stream
    }

    fn new(head: Head, n: usize, usage: bool, phase: Phase) -> Self {
        let quiet_until = Instant::now() + KEEPALIVE;
        let usage = usage.then(Usage::default);
        Self { head, phase, voices: Vec::new(), n, usage, ready: VecDeque::new(), quiet_until }
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
                match tokio::time::timeout_at(self.quiet_until, opening.opened()).await {
                    Ok(Ok(opened)) => self.begin(opened),
                    Ok(Err(error)) => self.fail(error),
                    Err(_) => self.ready.push_back(keepalive()),
                }
            }
            Phase::Running(asking) => {
                match tokio::time::timeout_at(self.quiet_until, asking.next()).await {
                    Ok(Some((number, event))) => self.event(number, event),
                    Ok(None) => self.end(),
                    Err(_) => self.ready.push_back(keepalive()),
                }
            }
        }
        Some(())
    }

    fn begin(&mut self, opened: Opened) {
        let Opened { choices, first: (number, event), asking } = opened;
        let voice = |choice| Voice { choice, heard: false };
        self.voices = choices.into_iter().map(voice).collect();
        self.phase = Phase::Running(asking);
        self.event(number, event);
    }

    fn event(&mut self, number: usize, event: Event) {
        let Some(event) = self.voices[number].choice.settle(event) else { return };
        if let Event::Failed(error) = event {
            return self.fail(error);
        }
        if !std::mem::replace(&mut self.voices[number].heard, true) {
            self.send(number, Part::role(self.head.shape, number));
            if let Some(echo) = self.voices[number].choice.echo() {
                self.piece(number, &echo);
            }
        }
        match event {
            Event::Token(token) => {
                let piece = self.voices[number].choice.token(token);
                self.piece(number, &piece);
            }
            Event::Finished(finished) => self.finish(number, finished),
            Event::Started(_) | Event::Rerouted(_) | Event::Failed(_) => {}
        }
    }

    /// Sends a piece. Half a character, or text held back, is nothing to say yet.
    fn piece(&mut self, number: usize, piece: &Piece) {
        if !piece.is_empty() {
            self.send(number, Some(Part::piece(self.head.shape, number, piece)));
        }
    }

    fn send(&mut self, number: usize, part: Option<Part<'_>>) {
        if part.is_some() {
            let started = &self.voices[number].choice.started;
            self.ready.push_back(data(&Reply::chunk(&self.head, started, part)));
        }
    }

    fn finish(&mut self, number: usize, mut finished: Finished) {
        let rest = self.voices[number].choice.finish(&mut finished);
        self.piece(number, &rest);
        let choice = &self.voices[number].choice;
        if let Some(usage) = &mut self.usage {
            usage.add(&choice.started, &finished, number.is_multiple_of(self.n));
        }
        let part = Part::end(self.head.shape, number, &finished);
        let chunk = Reply::chunk(&self.head, &choice.started, Some(part));
        self.ready.push_back(data(&chunk.labelled(&self.head, choice, &finished)));
    }

    /// Every choice has ended.
    fn end(&mut self) {
        self.phase = Phase::Done;
        if let (Some(usage), Some(voice)) = (self.usage, self.voices.first()) {
            let chunk = Reply::chunk(&self.head, &voice.choice.started, None);
            self.ready.push_back(data(&chunk.counted(usage)));
        }
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }

    /// The error, and nothing after it: no reason for the end, no `[DONE]`. What other choices are
    /// under way are cancelled.
    fn fail(&mut self, error: EngineError) {
        self.phase = Phase::Done;
        tracing::warn!(%error, id = self.head.id, "an answer broke off");
        self.ready.push_back(data(&refusal(error, self.head.shape).to_json()));
    }
}

impl IntoResponse for AnswerStream {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{self, Fake};
    use axum::body::BodyDataStream;
    use axum::http::StatusCode;
    use futures::StreamExt;
    use serde_json::{Value, json};

    /// A streamed request; its events as JSON, and the rest as text.
    async fn events(fake: Fake, options: Value) -> Vec<Value> {
        let request = fake::chat(json!({"stream": true, "stream_options": options}));
        let (status, headers, body) = fake::reply(fake.router(), request).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(headers["cache-control"], "no-cache");
        assert_eq!(headers["x-accel-buffering"], "no");
        assert!(headers.contains_key("x-request-id"));
        let text = std::str::from_utf8(&body).unwrap();
        let events = text.strip_suffix("\n\n").unwrap().split("\n\n");
        events.map(|event| read(event.as_bytes())).collect()
    }

    fn read(frame: &[u8]) -> Value {
        let text = std::str::from_utf8(frame).unwrap().trim_end_matches('\n');
        let data = text.strip_prefix("data: ");
        data.and_then(|data| serde_json::from_str(data).ok()).unwrap_or_else(|| json!(text))
    }

    /// The body of a streamed request, to be read frame by frame.
    async fn open(fake: Fake) -> BodyDataStream {
        let reply = fake::send(fake.router(), fake::chat(json!({"stream": true}))).await;
        assert_eq!(reply.status(), StatusCode::OK);
        reply.into_body().into_data_stream()
    }

    async fn next(body: &mut BodyDataStream) -> Option<Value> {
        body.next().await.map(|frame| read(&frame.unwrap()))
    }

    fn said() -> Vec<Event> {
        vec![
            fake::started_on(fake::two_hosts()),
            fake::token(11, "Tor"),
            fake::token(12, ""),
            fake::token(13, "ché\n\n🔥"),
            fake::finished("!", fake::two_hops()),
        ]
    }

    #[tokio::test]
    async fn chunks_come_in_the_order_of_the_contract() {
        let events = events(Fake::saying(said()), json!({})).await;
        let deltas: Vec<&Value> =
            events[..events.len() - 1].iter().map(|e| &e["choices"][0]["delta"]).collect();
        let wanted = [
            json!({"role": "assistant", "content": ""}),
            json!({"content": "Tor"}),
            json!({"content": "ché\n\n🔥"}),
            json!({"content": "!"}),
            json!({}),
        ];
        assert_eq!(deltas, wanted.iter().collect::<Vec<_>>());
        let reasons: Vec<&Value> =
            events[..5].iter().map(|e| &e["choices"][0]["finish_reason"]).collect();
        assert_eq!(
            reasons,
            [&Value::Null, &Value::Null, &Value::Null, &Value::Null, &json!("stop")]
        );
        assert_eq!(events[5], "data: [DONE]");
        for event in &events[..5] {
            assert_eq!(event["object"], "chat.completion.chunk");
            assert_eq!(event["model"], "smollm2:135m");
            assert_eq!(
                (&event["id"], &event["created"]),
                (&events[0]["id"], &events[0]["created"])
            );
            assert!(event.get("usage").is_none());
            assert_eq!(event["system_fingerprint"], "fp_1");
        }
    }

    /// Of each choice: its text, and its chunks that end it.
    fn choices(events: &[Value], count: usize) -> Vec<(String, usize)> {
        let of = |index: usize| {
            let choices = events.iter().flat_map(|event| event["choices"].as_array());
            let mine: Vec<&Value> = choices.flatten().filter(|c| c["index"] == index).collect();
            let text = |choice: &Value| {
                let piece = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str());
                piece.unwrap_or("").to_owned()
            };
            let ends = mine.iter().filter(|choice| choice["finish_reason"].is_string()).count();
            (mine.iter().map(|choice| text(choice)).collect(), ends)
        };
        (0..count).map(of).collect()
    }

    fn answer(text: &str) -> Vec<Event> {
        let pieces = text.char_indices().map(|(at, c)| fake::token(at as u32, &c.to_string()));
        let end = fake::finished("", fake::two_hops());
        [fake::started()].into_iter().chain(pieces).chain([end]).collect()
    }

    #[tokio::test]
    async fn choices_come_side_by_side_each_with_its_index_and_its_end() {
        let texts = ["first", "2nd", "three", "IV", "5", "sixth answer", "7", "eight"];
        let fake = Fake::saying_each(texts.map(answer).into());
        let change = json!({
            "stream": true, "n": 8, "stream_options": {"include_usage": true, "taimatsu": true},
        });
        let (_, _, body) = fake::reply(fake.router(), fake::chat(change)).await;
        let text = std::str::from_utf8(&body).unwrap();
        let events: Vec<Value> =
            text.trim_end().split("\n\n").map(|e| read(e.as_bytes())).collect();
        let wanted = texts.map(|text| (text.to_owned(), 1));
        assert_eq!(choices(&events, 8), wanted);
        let roles = events.iter().filter(|e| e["choices"][0]["delta"]["role"].is_string());
        assert_eq!(roles.count(), 8);
        let labels = events.iter().filter(|event| event["taimatsu"]["route"].is_array());
        assert_eq!(labels.count(), 8);
        let [.., usage, done] = events.as_slice() else { panic!("{events:?}") };
        let usage = &usage["usage"];
        assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(3), &json!(24)));
        assert_eq!(done, "data: [DONE]");
    }

    #[tokio::test]
    async fn a_choice_that_fails_ends_the_stream() {
        let bad = vec![fake::started(), fake::token(1, "x"), Event::Failed(fake::peer_failed())];
        let fake = Fake::saying_each(vec![answer("a long one"), bad]);
        let change = json!({"stream": true, "n": 2});
        let (_, _, body) = fake::reply(fake.router(), fake::chat(change)).await;
        let text = std::str::from_utf8(&body).unwrap();
        let last = text.trim_end().rsplit("\n\n").next().unwrap();
        assert_eq!(read(last.as_bytes())["error"]["code"], "peer_failed");
        assert!(!text.contains("[DONE]"));
    }

    #[tokio::test]
    async fn a_text_is_streamed_with_its_prompt_and_its_log_probabilities() {
        let body = json!({
            "model": "m", "prompt": "ab", "stream": true, "echo": true, "logprobs": 0, "seed": 1,
        });
        // The prompt's ids are asked for first, then its scores, then the answer.
        let ids = Event::Started(crate::engine::Started {
            prompt_tokens: vec![97, 98],
            ..Default::default()
        });
        let fake = Fake::saying_each(vec![vec![ids], answer("cd")]);
        let (_, _, body) =
            fake::reply(fake.router(), fake::request("/v1/completions", Some(body))).await;
        let text = std::str::from_utf8(&body).unwrap();
        let events: Vec<Value> =
            text.trim_end().split("\n\n").map(|e| read(e.as_bytes())).collect();
        assert_eq!(choices(&events, 1), [("abcd".to_owned(), 1)]);
        assert_eq!(events[0]["object"], "text_completion");
        assert_eq!(events[0]["choices"][0]["logprobs"]["token_logprobs"], json!([null, -0.5]));
        assert_eq!(events[1]["choices"][0]["logprobs"]["text_offset"], json!([2]));
    }

    #[tokio::test]
    async fn usage_comes_in_a_chunk_of_its_own_before_the_end() {
        let events = events(Fake::saying(said()), json!({"include_usage": true})).await;
        let [.., end, usage, done] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(end["choices"][0]["finish_reason"], "stop");
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["total_tokens"], 6);
        assert_eq!(usage["id"], end["id"]);
        assert_eq!(done, "data: [DONE]");
    }

    #[tokio::test]
    async fn the_label_is_on_the_chunk_that_ends_the_answer() {
        let options = json!({"taimatsu": true, "include_usage": true});
        let events = events(Fake::saying(said()), options).await;
        let labelled: Vec<&Value> =
            events.iter().filter(|event| event.get("taimatsu").is_some()).collect();
        assert_eq!(labelled.len(), 1);
        assert_eq!(labelled[0]["choices"][0]["finish_reason"], "stop");
        let tokens = "prompt and answer, as tokens";
        let hop = |peer, blocks, saw| {
            json!({
                "peer": peer, "blocks": blocks, "ms_per_token": 2.5, "direct_frames": 4,
                "relayed_frames": 1, "saw": saw,
            })
        };
        let wanted = json!({
            "route": [hop("a", [0, 9], tokens), hop("b", [10, 29], tokens)],
            "lost": [hop("c", [0, 9], tokens)],
            "privacy": "trusted", "tokens": [11, 12, 13], "prompt_tokens": [1, 2, 3], "ttft_ms": 12.5,
            "tokens_per_second": 40.25, "forwarded_frames": 1, "sealed": true, "seed": 7,
        });
        assert_eq!(labelled[0]["taimatsu"], wanted);
    }

    #[tokio::test]
    async fn an_answer_made_here_was_not_sealed() {
        let said = vec![fake::started(), fake::finished("", Default::default())];
        let events = events(Fake::saying(said), json!({"taimatsu": true})).await;
        assert_eq!(events.len(), 3, "role, end, [DONE]: {events:?}");
        assert_eq!(events[1]["taimatsu"]["sealed"], false);
        assert_eq!(events[1]["taimatsu"]["route"], json!([]));
    }

    #[tokio::test]
    async fn a_failure_before_the_first_token_is_a_status() {
        let failed = || Event::Failed(fake::peer_failed());
        for fake in [
            Fake::refusing(fake::peer_failed()),
            Fake::saying(vec![failed()]),
            Fake::saying(vec![fake::started(), failed()]),
        ] {
            let request = fake::chat(json!({"stream": true}));
            let (status, _, body) = fake::json_reply(fake.router(), request).await;
            assert_eq!(status, StatusCode::BAD_GATEWAY);
            assert_eq!(body["error"]["code"], "peer_failed");
        }
    }

    #[tokio::test]
    async fn a_failure_after_it_is_the_last_event_and_looks_like_no_end() {
        let said = vec![fake::started(), fake::token(1, "a"), Event::Failed(fake::peer_failed())];
        let events = events(Fake::saying(said), json!({"include_usage": true})).await;
        let [role, content, error] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(role["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(content["choices"][0]["delta"]["content"], "a");
        assert_eq!(error["error"]["code"], "peer_failed");
        assert_eq!(error["error"]["type"], "server_error");
        assert!(error["error"]["message"].as_str().unwrap().contains("connection lost"));
    }

    #[tokio::test]
    async fn an_engine_that_falls_silent_for_ever_is_an_error_too() {
        let events = events(Fake::saying(vec![fake::started(), fake::token(1, "a")]), json!({}));
        let events = events.await;
        assert_eq!(events.last().unwrap()["error"]["code"], "internal");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_beginning_is_committed_to_and_kept_alive() {
        let (fake, hand) = Fake::in_hand();
        let before = Instant::now();
        let mut body = open(fake).await;
        assert_eq!(before.elapsed(), Duration::from_secs(10));
        assert_eq!(next(&mut body).await.unwrap(), ": keepalive");
        assert_eq!(before.elapsed(), Duration::from_secs(10), "the first comes at once");
        for _ in 0..3 {
            let quiet = Instant::now();
            assert_eq!(next(&mut body).await.unwrap(), ": keepalive");
            assert!(quiet.elapsed() <= Duration::from_secs(15));
        }
        hand.events.send(fake::started()).await.unwrap();
        hand.events.send(fake::token(1, "a")).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap()["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(next(&mut body).await.unwrap()["choices"][0]["delta"]["content"], "a");
        // Silence between tokens, and tokens that say nothing, are silence as well.
        hand.events.send(fake::token(2, "")).await.unwrap();
        let quiet = Instant::now();
        assert_eq!(next(&mut body).await.unwrap(), ": keepalive");
        assert!(quiet.elapsed() <= Duration::from_secs(15) && !quiet.elapsed().is_zero());
        hand.events.send(fake::finished("", Default::default())).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap()["choices"][0]["finish_reason"], "stop");
        assert_eq!(next(&mut body).await.unwrap(), "data: [DONE]");
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_after_a_slow_beginning_is_an_event() {
        let (fake, hand) = Fake::in_hand();
        hand.events.send(fake::started()).await.unwrap();
        let mut body = open(fake).await;
        assert_eq!(next(&mut body).await.unwrap(), ": keepalive");
        hand.events.send(Event::Failed(fake::peer_failed())).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap()["error"]["code"], "peer_failed");
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test]
    async fn the_engine_hears_of_a_token_when_the_client_has_it() {
        let (fake, hand) = Fake::in_hand();
        for event in [fake::started(), fake::token(1, "a"), fake::token(2, "b")] {
            hand.events.send(event).await.unwrap();
        }
        let mut body = open(fake).await;
        let taken = || *hand.consumed.borrow();
        next(&mut body).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap()["choices"][0]["delta"]["content"], "a");
        assert_eq!(taken(), 0, "the frame is made, and not yet known to be written");
        assert_eq!(next(&mut body).await.unwrap()["choices"][0]["delta"]["content"], "b");
        assert_eq!(taken(), 1);
        hand.events.send(fake::finished("", Default::default())).await.unwrap();
        next(&mut body).await.unwrap();
        assert_eq!(taken(), 2);
    }

    #[tokio::test]
    async fn dropping_the_body_cancels_the_answer() {
        let (fake, hand) = Fake::in_hand();
        hand.events.send(fake::started()).await.unwrap();
        hand.events.send(fake::token(1, "a")).await.unwrap();
        let mut body = open(fake).await;
        next(&mut body).await.unwrap();
        assert!(!hand.events.is_closed());
        drop(body);
        assert!(hand.events.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_body_before_the_first_token_cancels_too() {
        let (fake, hand) = Fake::in_hand();
        let body = open(fake).await;
        assert!(!hand.events.is_closed());
        drop(body);
        assert!(hand.events.is_closed());
    }
}
