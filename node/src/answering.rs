//! From a question to an answer's events, whoever computes: tokens become text, stop texts cancel,
//! and the figures are taken.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use taimatsu_model::{Detokenizer, Tokenizer};
use taimatsu_peer::session::Finish;
use taimatsu_protocol::control::{HopStats, Token};
use tokio::sync::{mpsc, watch};

use crate::engine::{
    Answer, EVENTS, EngineError, Event, FinishReason, Finished, HopReport, ReceiptState, Route,
    RouteHost, RouteReport, Score, Scores, Started, TokenEvent,
};
use crate::run::{Made, Run, RunFailure};
use crate::text::StopGate;

/// Begins the runs of one question, and knows what their failures mean.
pub(crate) trait Source: Send + 'static {
    /// Begins a run. After a failure: another way than the one that failed, or the error that there
    /// is none.
    fn begin(&mut self) -> BoxFuture<'_, Result<Begun, EngineError>>;

    /// An answer ended well: what its receipts say.
    fn ended<'a>(&'a mut self, run: &'a Run) -> BoxFuture<'a, (Option<String>, ReceiptState)>;

    /// What a failure is to the caller.
    fn blame<'a>(&'a mut self, failure: &'a RunFailure) -> BoxFuture<'a, Blame>;
}

/// A run that has begun.
pub(crate) struct Begun {
    /// The run.
    pub(crate) run: Run,
    /// Who computes, in order: what is known before. Empty where a process computes alone.
    pub(crate) hops: Vec<HopReport>,
    /// It computes here, and nothing leaves this process.
    pub(crate) here: bool,
}

impl Begun {
    fn route(&self) -> Route {
        let host = |hop: &HopReport| RouteHost { peer: hop.peer.clone(), span: hop.span };
        let hosts = if self.here { Vec::new() } else { self.hops.iter().map(host).collect() };
        Route { hosts }
    }
}

/// A failure, named.
pub(crate) struct Blame {
    /// As the caller is told.
    pub(crate) error: EngineError,
    /// Whether another way may do better, and is to be tried.
    pub(crate) again: bool,
}

/// What an answer needs beside the run that makes it.
pub(crate) struct Frame {
    /// Told first.
    pub(crate) started: Started,
    /// The model's own.
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Texts that end the answer.
    pub(crate) stop: Vec<String>,
    /// Ids that end it; not shown.
    pub(crate) end_ids: Vec<u32>,
    /// When the question came.
    pub(crate) asked: Instant,
}

/// Begins a run, and sets a task to carry its tokens to the caller.
pub(crate) async fn answer(mut source: impl Source, frame: Frame) -> Result<Answer, EngineError> {
    let begun = source.begin().await?;
    let (events, receiver) = mpsc::channel(EVENTS);
    let (consumed, told) = watch::channel(0);
    tokio::spawn(async move {
        let end = tokio::select! {
            end = carry(begun, source, frame, &events, told) => end,
            // The caller is gone: dropping the run closes every stream, and the hops free all.
            () = events.closed() => return,
        };
        let _ = events.send(end).await;
    });
    Ok(Answer { events: receiver, consumed })
}

/// The answer to a question that wants no tokens.
pub(crate) fn nothing(frame: Frame) -> Answer {
    let (events, receiver) = mpsc::channel(EVENTS);
    let (consumed, _) = watch::channel(0);
    let finished = Finished {
        reason: FinishReason::Length,
        text: String::new(),
        completion_tokens: 0,
        report: RouteReport::default(),
    };
    // The queue is new and holds more than two.
    let _ = events.try_send(Event::Started(frame.started));
    let _ = events.try_send(Event::Finished(finished));
    Answer { events: receiver, consumed }
}

/// Runs a scoring session to its end.
pub(crate) async fn scores(mut source: impl Source) -> Result<Scores, EngineError> {
    let mut begun = source.begin().await?;
    let (_consumed, mut told) = watch::channel(0);
    let mut rows = Vec::new();
    loop {
        match begun.run.next(&mut told).await {
            Made::Scored(row) => rows.push(Score { next: row.next, top: row.top.into_vec() }),
            Made::Token(_) => {}
            Made::Ended(Ok(_)) => {
                source.ended(&begun.run).await;
                return Ok(Scores { rows, route: begun.route() });
            }
            Made::Ended(Err(failure)) => {
                let Blame { error, again } = source.blame(&failure).await;
                if !again {
                    return Err(error);
                }
                rows.clear();
                begun = source.begin().await.map_err(|_| error)?;
            }
        }
    }
}

async fn carry(
    mut begun: Begun,
    mut source: impl Source,
    frame: Frame,
    events: &mpsc::Sender<Event>,
    mut told: watch::Receiver<u32>,
) -> Event {
    let started = Started { route: begun.route(), ..frame.started.clone() };
    if events.send(Event::Started(started)).await.is_err() {
        begun.run.cancel();
    }
    let mut text = Assembly::new(&frame);
    let mut pace = Pace::new(frame.asked);
    let finish = loop {
        match begun.run.next(&mut told).await {
            Made::Token(token) => {
                if !text.gate.stopped() {
                    pace.token();
                }
                let Some(event) = text.token(token) else { continue };
                // Room is certain: the chain's credit is smaller than the queue.
                if events.send(Event::Token(event)).await.is_err() || text.gate.stopped() {
                    begun.run.cancel();
                }
            }
            Made::Scored(_) => {}
            Made::Ended(Ok(finish)) => break finish,
            Made::Ended(Err(failure)) => {
                let Blame { error, again } = source.blame(&failure).await;
                // What the caller has seen is not taken back: only an answer without a token
                // begins again.
                if !again || pace.tokens > 0 {
                    return Event::Failed(error);
                }
                match source.begin().await {
                    Ok(other) => begun = other,
                    Err(_) => return Event::Failed(error),
                }
                // A caller who is gone is noticed by whoever waits for this task.
                let _ = events.send(Event::Rerouted(begun.route())).await;
            }
        }
    };
    let stopped = text.gate.stopped() || finish == Finish::End;
    let reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
    if let Some(hops) = begun.run.hops() {
        begun.hops = hops.iter().map(|hop| HopReport::of(hop.peer, hop.span)).collect();
    }
    let mut report = pace.report(begun.hops, &begun.run.stats(), begun.run.forwarded());
    report.lost = begun.run.lost().iter().map(|hop| HopReport::of(hop.peer, hop.span)).collect();
    (report.session, report.receipts) = source.ended(&begun.run).await;
    Event::Finished(Finished {
        reason,
        text: text.finish(),
        completion_tokens: pace.tokens,
        report,
    })
}

/// Tokens on their way to text.
struct Assembly<'a> {
    tokenizer: &'a Tokenizer,
    detokenizer: Detokenizer,
    gate: StopGate,
    end_ids: &'a [u32],
}

impl<'a> Assembly<'a> {
    fn new(frame: &'a Frame) -> Self {
        Self {
            tokenizer: &frame.tokenizer,
            detokenizer: Detokenizer::new(),
            gate: StopGate::new(frame.stop.clone()),
            end_ids: &frame.end_ids,
        }
    }

    /// The token's event; none for an end token, and for what ran past a stop text.
    fn token(&mut self, token: Token) -> Option<TokenEvent> {
        if self.gate.stopped() || self.end_ids.contains(&token.id) {
            return None;
        }
        let text = self.gate.push(&self.detokenizer.push(self.tokenizer.token_bytes(token.id)));
        let Token { id, logprob, top } = token;
        Some(TokenEvent { id, text, logprob, top: top.into_vec() })
    }

    fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.detokenizer).finish();
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
        RouteReport {
            hops,
            ttft_ms: ttft,
            tokens_per_second: rate,
            forwarded_frames: forwarded,
            ..RouteReport::default()
        }
    }
}
