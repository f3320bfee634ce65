//! From a question to an answer's events, whoever computes: tokens become text, stop texts cancel,
//! and the figures are taken.

use std::time::Instant;

use taimatsu_model::{Detokenizer, Tokenizer};
use taimatsu_peer::session::Finish;
use taimatsu_protocol::control::{HopStats, Token};
use tokio::sync::{mpsc, watch};

use crate::engine::{
    Answer, EVENTS, EngineError, Event, FinishReason, Finished, HopReport, RouteReport, Scores,
    Started, TokenEvent,
};
use crate::run::{Made, Run, RunFailure};
use crate::text::StopGate;

/// What an answer needs beside the run that makes it.
pub(crate) struct Frame {
    /// Told first.
    pub(crate) started: Started,
    /// The model's own.
    pub(crate) tokenizer: std::sync::Arc<Tokenizer>,
    /// Texts that end the answer.
    pub(crate) stop: Vec<String>,
    /// Ids that end it; not shown.
    pub(crate) end_ids: Vec<u32>,
    /// Who computes, in order: the parts that are known before. Empty in this process.
    pub(crate) hops: Vec<HopReport>,
    /// When the question came.
    pub(crate) asked: Instant,
}

/// Names the failure of a run to its caller.
pub(crate) type Blame = Box<dyn Fn(&RunFailure) -> EngineError + Send>;

/// Sets a task to carry the run's tokens to the caller.
pub(crate) fn answer(run: Run, frame: Frame, blame: Blame) -> Answer {
    let (events, receiver) = mpsc::channel(EVENTS);
    let (consumed, told) = watch::channel(0);
    tokio::spawn(async move {
        let end = tokio::select! {
            end = carry(run, frame, blame, &events, told) => end,
            // The caller is gone: dropping the run closes every stream, and the hops free all.
            () = events.closed() => return,
        };
        let _ = events.send(end).await;
    });
    Answer { events: receiver, consumed }
}

/// Runs a scoring session to its end.
pub(crate) async fn scores(mut run: Run, blame: Blame) -> Result<Scores, EngineError> {
    let (_consumed, mut told) = watch::channel(0);
    let mut rows = Scores::new();
    loop {
        match run.next(&mut told).await {
            Made::Scored(row) => rows.push(row),
            Made::Token(_) => {}
            Made::Ended(Ok(_)) => return Ok(rows),
            Made::Ended(Err(failure)) => return Err(blame(&failure)),
        }
    }
}

async fn carry(
    mut run: Run,
    frame: Frame,
    blame: Blame,
    events: &mpsc::Sender<Event>,
    mut told: watch::Receiver<u32>,
) -> Event {
    if events.send(Event::Started(frame.started.clone())).await.is_err() {
        run.cancel();
    }
    let mut text = Assembly::new(&frame);
    let mut pace = Pace::new(frame.asked);
    let finish = loop {
        match run.next(&mut told).await {
            Made::Token(token) => {
                if !text.gate.stopped() {
                    pace.token();
                }
                let Some(event) = text.token(token) else { continue };
                // Room is certain: the chain's credit is smaller than the queue.
                if events.send(Event::Token(event)).await.is_err() || text.gate.stopped() {
                    run.cancel();
                }
            }
            Made::Scored(_) => {}
            Made::Ended(Ok(finish)) => break finish,
            Made::Ended(Err(failure)) => return Event::Failed(blame(&failure)),
        }
    };
    let stopped = text.gate.stopped() || finish == Finish::End;
    let reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
    let report = pace.report(frame.hops, &run.stats(), run.forwarded());
    Event::Finished(Finished { reason, text: text.finish(), completion_tokens: pace.tokens, report })
}

/// Tokens on their way to text.
struct Assembly<'a> {
    detokenizer: Detokenizer<'a>,
    gate: StopGate,
    end_ids: &'a [u32],
}

impl<'a> Assembly<'a> {
    fn new(frame: &'a Frame) -> Self {
        Self {
            detokenizer: Detokenizer::new(&frame.tokenizer),
            gate: StopGate::new(frame.stop.clone()),
            end_ids: &frame.end_ids,
        }
    }

    /// The token's event; none for an end token, and for what ran past a stop text.
    fn token(&mut self, token: Token) -> Option<TokenEvent> {
        if self.gate.stopped() || self.end_ids.contains(&token.id) {
            return None;
        }
        let text = self.gate.push(&self.detokenizer.push(token.id));
        let Token { id, logprob, top } = token;
        Some(TokenEvent { id, text, logprob, top: top.into_vec() })
    }

    fn finish(&mut self) -> String {
        let rest = self.detokenizer.finish();
        let mut text = self.gate.push(&rest);
        if !self.gate.stopped() {
            text.push_str(&self.gate.finish());
        }
        text
    }
}

/// When tokens came.
struct Pace {
    asked: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    tokens: u32,
}

impl Pace {
    const fn new(asked: Instant) -> Self {
        Self { asked, first: None, last: None, tokens: 0 }
    }

    fn token(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.tokens += 1;
    }

    fn report(&self, mut hops: Vec<HopReport>, stats: &[HopStats], forwarded: u32) -> RouteReport {
        for (hop, stats) in hops.iter_mut().zip(stats) {
            let steps = f64::from(stats.decode_steps.max(1));
            hop.ms_per_token = stats.decode_micros as f64 / 1000.0 / steps;
            hop.direct_frames = stats.direct_frames;
            hop.relayed_frames = stats.relayed_frames;
        }
        let ttft = self.first.map_or(0.0, |first| (first - self.asked).as_secs_f64() * 1000.0);
        let decode = match (self.first, self.last) {
            (Some(first), Some(last)) if self.tokens > 1 => (last - first).as_secs_f64(),
            _ => 0.0,
        };
        let rate = if decode > 0.0 { f64::from(self.tokens - 1) / decode } else { 0.0 };
        RouteReport { hops, ttft_ms: ttft, tokens_per_second: rate, forwarded_frames: forwarded }
    }
}
