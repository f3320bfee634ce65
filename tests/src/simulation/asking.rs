//! A question from its asking to its outcome, as `node/src/{answering,swarm_engine}.rs` have it:
//! another way where nothing was handed on yet, and otherwise a failure that names a host.

use std::time::Duration;

use taimatsu_executor::EchoExecutor;
use taimatsu_peer::policy::RETRY_MS;
use taimatsu_peer::retry::Attempts;
use taimatsu_peer::routing::{Chain, Part, PlanError, Wish};
use taimatsu_peer::session::{Failure, Finish};
use taimatsu_peer::{AnswerEnd, AnswerReport, Ask, Input, Observed, Privacy, RouteError};
use taimatsu_protocol::control::{HopStats, Token};
use taimatsu_protocol::opening::Refusal;
use taimatsu_protocol::{Moment, Span};

use super::events::{Event, name};
use super::run::Run;
use super::streams::Hello;
use super::world::{AskId, NodeId, World};

/// How the asker reads.
#[derive(Debug, Clone, Copy)]
pub enum Reader {
    /// At once.
    Eager,
    /// A token at a time.
    Paced(Duration),
    /// Not for a while, once it has so many tokens; then at once.
    Pauses {
        /// After how many tokens.
        after: usize,
        /// For how long.
        pause: Duration,
    },
    /// Has enough after so many tokens, and says so.
    Cancels(usize),
    /// Is gone after so many tokens.
    Leaves(usize),
}

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who asks.
    pub node: NodeId,
    /// Which of the world's models.
    pub model: usize,
    /// The prompt; never empty.
    pub prompt: Vec<u32>,
    /// Tokens wanted.
    pub max_tokens: u32,
    /// How it may be spread.
    pub wish: Wish,
    /// How it is read.
    pub reader: Reader,
}

/// How a question ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done(Finish),
    /// Blocks have no host.
    Uncovered(Vec<[u32; 2]>),
    /// Hosts, but no such way.
    NoSuchRoute,
    /// No room, and when to ask again.
    Busy(u32),
    /// It does not fit.
    TooLong,
    /// A host failed.
    Failed {
        /// Which.
        host: NodeId,
        /// What it computed.
        span: Span,
        /// How.
        failure: Failure,
    },
    /// The asker, or its whole machine, is gone.
    Gone,
}

/// A question under way, or over.
#[derive(Debug)]
pub struct Asking {
    /// What was asked.
    pub question: Question,
    /// What came, in order.
    pub tokens: Vec<u32>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When it was asked.
    pub asked: Option<Moment>,
    /// When it ended.
    pub ended: Option<Moment>,
    /// The hosts of each attempt.
    pub chains: Vec<Vec<NodeId>>,
    pub(crate) attempts: Attempts,
    pub(crate) run: Option<Run>,
    /// Hops that its answer has lost, and went on without.
    pub losses: usize,
    /// The failure that the present attempt follows.
    failure: Option<Outcome>,
    pub(crate) consumed: u32,
    reading: bool,
    paused: bool,
    /// Openings on their way.
    pub(crate) sent: Vec<(NodeId, Hello)>,
    /// Openings that were accepted, for whoever wants to send them again.
    pub(crate) accepted: Vec<(NodeId, Hello)>,
    /// What is to happen once so many tokens are there.
    pub(crate) hooks: Vec<(usize, super::events::Action)>,
}

impl Asking {
    /// Whether it has its outcome.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.outcome.is_some()
    }
}

impl World {
    /// A question that will be asked ([`super::Action::Ask`]).
    pub fn question(&mut self, question: Question) -> AskId {
        self.asks.push(Asking {
            question,
            tokens: Vec::new(),
            outcome: None,
            asked: None,
            ended: None,
            chains: Vec::new(),
            attempts: Attempts::new(),
            losses: 0,
            run: None,
            failure: None,
            consumed: 0,
            reading: false,
            paused: false,
            sent: Vec::new(),
            accepted: Vec::new(),
            hooks: Vec::new(),
        });
        self.asks.len() - 1
    }

    /// Does something as soon as the answer has so many tokens (0: as soon as it has a chain).
    pub fn hook(&mut self, ask: AskId, tokens: usize, action: super::events::Action) {
        self.asks[ask].hooks.push((tokens, action));
    }

    pub(crate) fn ask(&mut self, ask: AskId) {
        let node = self.asks[ask].question.node;
        self.asks[ask].asked = Some(self.now);
        if !self.nodes[node].up {
            return self.end_ask(ask, Outcome::Gone);
        }
        self.seek(ask, None);
    }

    /// Asks the node's judgement for a chain, or for others in the places of a run's lost hops.
    pub(crate) fn seek(&mut self, ask: AskId, part: Option<(u32, Part)>) {
        let Question { node, model, ref prompt, max_tokens, wish, .. } = self.asks[ask].question;
        let positions = prompt.len() as u32 + max_tokens.saturating_sub(1);
        let (model, blocks) = (self.models[model].id, self.models[model].shape.blocks);
        let this = &mut self.nodes[node];
        this.next += 1;
        let id = this.next;
        this.routes.insert(id, (ask, part.as_ref().map(|(seek, _)| *seek)));
        this.blocks.insert(model, blocks);
        let ask = Ask { id, model, blocks, wish, positions, privacy: Privacy::Anyone };
        self.tell(
            node,
            match part {
                None => Input::Ask(ask),
                Some((_, part)) => Input::Mend { ask, part: Box::new(part) },
            },
        );
    }

    pub(crate) fn routed(&mut self, ask: AskId, chain: Chain) {
        if self.asks[ask].is_over() {
            return;
        }
        if !self.asks[ask].attempts.may_use(&chain) {
            return self.no_way(ask, Outcome::NoSuchRoute);
        }
        let hops = chain.hops();
        let hosts: Vec<NodeId> = hops.iter().filter_map(|hop| self.node_of(&hop.peer)).collect();
        self.trace.say(self.now, || {
            let hops =
                hops.iter().map(|hop| format!("{}={}", name(&self.names, &hop.peer), hop.span));
            format!("ask {ask} goes by {}", hops.collect::<Vec<_>>().join(" "))
        });
        self.asks[ask].chains.push(hosts);
        self.begin_run(ask, &chain);
        self.pull_hooks(ask);
    }

    pub(crate) fn unroutable(&mut self, ask: AskId, error: RouteError) {
        if self.asks[ask].is_over() {
            return;
        }
        let outcome = match error {
            RouteError::Plan(PlanError::Uncovered { missing }) => Outcome::Uncovered(missing),
            RouteError::Plan(PlanError::NoSuchRoute) => Outcome::NoSuchRoute,
            RouteError::Plan(PlanError::NoCapacity) | RouteError::Busy => Outcome::Busy(RETRY_MS),
        };
        self.no_way(ask, outcome);
    }

    /// There is no other way: then the failure of the last one is what the asker hears.
    fn no_way(&mut self, ask: AskId, outcome: Outcome) {
        let outcome = self.asks[ask].failure.take().unwrap_or(outcome);
        self.end_ask(ask, outcome);
    }

    pub(crate) fn token(&mut self, ask: AskId, token: &Token) {
        let model = self.models[self.asks[ask].question.model];
        let this = &mut self.asks[ask];
        let mut ids = this.question.prompt.clone();
        ids.extend(&this.tokens);
        let right = EchoExecutor::next_token(model.shape, &ids);
        this.tokens.push(token.id);
        let number = this.tokens.len();
        if token.id != right {
            self.fail(|| format!("ask {ask}: token {number} is {}, not {right}", token.id));
        }
        self.check_credit(ask);
        self.read(ask);
        self.pull_hooks(ask);
    }

    fn read(&mut self, ask: AskId) {
        let this = &mut self.asks[ask];
        let delay = match this.question.reader {
            Reader::Cancels(after) if this.tokens.len() >= after => return self.cancel_run(ask),
            Reader::Leaves(after) if this.tokens.len() >= after => {
                return self.end_ask(ask, Outcome::Gone);
            }
            Reader::Paced(pace) => pace,
            Reader::Pauses { after, pause } if this.tokens.len() >= after && !this.paused => {
                this.paused = true;
                pause
            }
            _ => Duration::from_micros(100),
        };
        if !std::mem::replace(&mut this.reading, true) {
            self.after(delay, Event::Consume { ask });
        }
    }

    pub(crate) fn consume(&mut self, ask: AskId) {
        let this = &mut self.asks[ask];
        this.reading = false;
        if this.is_over() {
            return;
        }
        let have = this.tokens.len() as u32;
        this.consumed = match this.question.reader {
            Reader::Paced(_) => have.min(this.consumed + 1),
            _ => have,
        };
        let consumed = this.consumed;
        if consumed < have
            && let Reader::Paced(pace) = this.question.reader
        {
            this.reading = true;
            self.after(pace, Event::Consume { ask });
        }
        self.consumed(ask, consumed);
    }

    /// A run is over.
    pub(crate) fn made_end(&mut self, ask: AskId, ended: Result<Finish, Failure>) {
        match ended {
            Ok(finish) => {
                self.learn(ask);
                self.end_ask(ask, Outcome::Done(finish));
            }
            Err(failure) => self.blame(ask, &failure),
        }
    }

    fn learn(&mut self, ask: AskId) {
        let this = &self.asks[ask];
        let Some(run) = &this.run else { return };
        let hops = run.hops(run.machine.ring());
        let stats: Vec<HopStats> = run.machine.stats().collect();
        let (node, model) = (this.question.node, self.models[this.question.model].id);
        let seen = Observed::of(model, &hops, stats.iter().copied(), run.pace.lap());
        let hosts = hops.iter().map(|hop| hop.peer).collect();
        let receipts = run.receipts(model, &this.question.prompt);
        let needed = this.question.prompt.len() + this.tokens.len() - 1 + run.machine.late().len();
        let computed = |stats: &HopStats| stats.prefill_positions + stats.decode_steps;
        // Nothing is computed twice: not by who stayed, and not by who came. What a chain had in
        // hand when it was cancelled is not known.
        let whole = this.tokens.len() == this.question.max_tokens as usize;
        let twice = stats.iter().position(|stats| computed(stats) as usize > needed);
        if let Some(hop) = twice.filter(|_| whole) {
            let (all, losses) = (computed(&stats[hop]), this.losses);
            let said = format!("hop {hop} has computed {all} positions of {needed}, {losses} lost");
            return self.fail(|| said);
        }
        if let Some(Err(broken)) = &receipts {
            let broken = broken.clone();
            self.fail(|| format!("the receipts of ask {ask} do not hold: {broken}"));
        }
        if let Some(seen) = seen {
            self.tell(node, Input::Observed(Box::new(seen)));
        }
        let report = AnswerReport { model, hosts, end: AnswerEnd::Well { receipts } };
        self.tell(node, Input::Answered(report));
    }

    fn blame(&mut self, ask: AskId, failure: &Failure) {
        let this = &mut self.asks[ask];
        let Some(run) = &this.run else { return };
        let (ring, told) = run.machine.blamed();
        let hops = run.hops(ring);
        let fault = this.attempts.failed(&hops, failure).expect("a chain has hops");
        let (hop, node) = (fault.hop, this.question.node);
        let again = fault.again && this.tokens.is_empty();
        let said = format!("ask {ask}: {} is to blame: {failure}", name(&self.names, &hop.peer));
        self.trace.say(self.now, || said);
        let hosts = hops.iter().map(|hop| hop.peer).collect();
        let model = self.models[self.asks[ask].question.model].id;
        if !told {
            let end = AnswerEnd::Failed(failure.clone());
            self.tell(node, Input::Answered(AnswerReport { model, hosts, end }));
        }
        let host = self.node_of(&hop.peer).unwrap_or(usize::MAX);
        let failed = Outcome::Failed { host, span: hop.span, failure: failure.clone() };
        let outcome = match failure {
            Failure::Refused { refusal: Refusal::Busy { retry_ms }, .. } => {
                Outcome::Busy(*retry_ms)
            }
            Failure::Refused { refusal: Refusal::NoKv { .. } | Refusal::Draining, .. } => {
                Outcome::Busy(RETRY_MS)
            }
            Failure::Refused { refusal: Refusal::TooLong { .. }, .. } => Outcome::TooLong,
            _ => failed,
        };
        if again {
            self.asks[ask].failure = Some(outcome);
            self.seek(ask, None);
        } else {
            self.end_ask(ask, outcome);
        }
    }

    pub(crate) fn end_ask(&mut self, ask: AskId, outcome: Outcome) {
        if self.asks[ask].is_over() {
            return self.fail(|| format!("ask {ask} ends twice"));
        }
        self.trace.say(self.now, || {
            let tokens = self.asks[ask].tokens.len();
            format!("ask {ask} ends after {tokens} tokens: {outcome:?}")
        });
        self.asks[ask].outcome = Some(outcome);
        self.asks[ask].ended = Some(self.now);
        self.drop_run(ask);
    }

    fn pull_hooks(&mut self, ask: AskId) {
        let have = self.asks[ask].tokens.len();
        let hooks = std::mem::take(&mut self.asks[ask].hooks);
        let (due, later) = hooks.into_iter().partition(|(tokens, _)| *tokens <= have);
        self.asks[ask].hooks = later;
        let due: Vec<_> = due;
        for (_, action) in due {
            self.after(Duration::ZERO, Event::Act(action));
        }
    }
}
