//! The machine that joins table, asks, hosting and admission.

use std::collections::{BTreeSet, VecDeque};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use taimatsu_protocol::receipt::{BrokenReceipts, Flaw};
use taimatsu_protocol::signed::{SignedBytes, Verified};
use taimatsu_protocol::{Announcement, ModelId, Moment, PeerId, Span, UnixSeconds};
use taimatsu_reputation::{Evidence, Fault, Reputation};
use taimatsu_routing::policy::{APART, MAX_ANSWERED, SUSPENSION};
use taimatsu_routing::{HostTable, Inserted, Outlook};

use crate::admission::Admission;
use crate::asks::Asks;
use crate::blame::{AnswerEnd, AnswerReport, Blame};
use crate::hosting::HostedSpans;
use crate::io::{Config, Hosting, Ignored, Input, OpeningSummary, Output, Privacy};
use crate::voice::{Scene, Voice};

/// A node's judgement. See the crate's page for the call order.
///
/// Outputs are taken after every input, so their queue is as long as one input makes it: at most
/// an answer per waiting ask and an announcement per hosted span.
#[derive(Debug)]
pub struct Peer {
    config: Config,
    table: HostTable,
    asks: Asks,
    hosted: HostedSpans,
    admission: Admission,
    reputation: Reputation,
    trusted: BTreeSet<PeerId>,
    rng: ChaCha20Rng,
    voice: Voice,
    ignored: Ignored,
    outputs: VecDeque<Output>,
}

impl Peer {
    /// A peer that knows nobody and hosts nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            table: HostTable::new(),
            asks: Asks::new(config.me, config.seed),
            hosted: HostedSpans::default(),
            admission: Admission::new(config.max_sessions),
            reputation: Reputation::new(),
            trusted: BTreeSet::new(),
            rng: ChaCha20Rng::seed_from_u64(config.seed),
            voice: Voice::new(config),
            ignored: Ignored::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Moment, wall: UnixSeconds, input: Input) {
        self.table.expire(now, wall);
        match input {
            Input::Announced(verified) => self.announced(wall, *verified),
            Input::Signed(verified) => {
                if !self.hosted.signed(*verified) {
                    self.ignored.stale += 1;
                }
            }
            Input::Hosting(hosting) => self.host(hosting),
            Input::Unhosting { model, span } => self.unhost(now, wall, model, span),
            Input::Load(load) => self.hosted.load(&load),
            Input::Rtt { peer, micros } => self.table.measured(peer, micros),
            Input::Prekey(prekey) => {
                self.voice.set_prekey(prekey);
                self.hosted.terms_changed();
            }
            Input::Ask(ask) => {
                let outlook = self.outlook(wall, ask.model, ask.privacy);
                self.asks.ask(now, &self.table, &outlook, (ask, None), &mut self.outputs);
            }
            Input::Mend { ask, part } => {
                let outlook = self.outlook(wall, ask.model, ask.privacy);
                self.asks.ask(now, &self.table, &outlook, (ask, Some(*part)), &mut self.outputs);
            }
            Input::Answered(report) => self.answered(now, wall, &report),
            Input::Trust(hosts) => self.trusted = hosts,
            Input::Remembered { peer, model, standing } => {
                let gone = self.reputation.restore(peer, model, *standing);
                self.forget(gone);
            }
            Input::HostFailed { host } => self.table.suspend(host, now + SUSPENSION),
            Input::Observed(seen) => {
                self.table.observed(now, seen.model, &seen.hops, seen.lap);
            }
            Input::LookupDone { model } => {
                for privacy in [Privacy::Trusted, Privacy::Anyone] {
                    let outlook = self.outlook(wall, model, privacy);
                    let of = (model, privacy);
                    self.asks.looked_up(now, &self.table, &outlook, of, &mut self.outputs);
                }
            }
            Input::Opening(opening) => self.open(wall, &opening),
            Input::SessionEnded { session } => {
                if self.admission.ended(&mut self.hosted, &session) {
                    self.hosted.load_changed();
                }
            }
            Input::Drain => {
                if !self.admission.is_draining() {
                    self.admission.drain();
                    self.hosted.terms_changed();
                }
            }
        }
        self.catch_up(now, wall);
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let due = self.hosted.due(self.admission.is_draining());
        let announcement = due.filter(|_| self.voice.can_speak());
        self.asks.poll_timeout().into_iter().chain(announcement).min()
    }

    /// The moment of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Moment, wall: UnixSeconds) {
        self.table.expire(now, wall);
        self.catch_up(now, wall);
    }

    /// What hosts have announced.
    #[must_use]
    pub const fn table(&self) -> &HostTable {
        &self.table
    }

    /// What this node has seen of others.
    #[must_use]
    pub const fn reputation(&self) -> &Reputation {
        &self.reputation
    }

    /// What this node hosts.
    pub fn hosting(&self) -> impl Iterator<Item = &Hosting> {
        self.hosted.all()
    }

    /// This node's own announcements in force, signed.
    pub fn own_announcements(&self, wall: UnixSeconds) -> impl Iterator<Item = &SignedBytes> {
        self.own(wall).map(Verified::wire)
    }

    /// The answer to a query for announcements, of one model or of all: this node's own first, at
    /// most [`MAX_ANSWERED`].
    #[must_use]
    pub fn answer(&self, model: Option<ModelId>, wall: UnixSeconds) -> Vec<SignedBytes> {
        let asked = |held: &&Verified<Announcement>| model.is_none_or(|m| m == held.record().model);
        let own = self.own(wall).filter(asked).map(|held| held.wire().clone());
        own.chain(self.table.all(model)).take(MAX_ANSWERED).collect()
    }

    /// Sessions admitted and not ended.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.admission.running()
    }

    /// Sessions remembered against replay.
    #[must_use]
    pub fn remembered_sessions(&self) -> usize {
        self.admission.remembered()
    }

    /// Asks that wait for a lookup.
    #[must_use]
    pub fn waiting_asks(&self) -> usize {
        self.asks.waiting()
    }

    /// What was not taken in.
    #[must_use]
    pub const fn ignored(&self) -> Ignored {
        self.ignored
    }

    /// Whether the node is leaving.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.admission.is_draining()
    }

    fn own(&self, wall: UnixSeconds) -> impl Iterator<Item = &Verified<Announcement>> {
        self.hosted.announcements().filter(move |held| held.record().in_force(wall))
    }

    fn announced(&mut self, wall: UnixSeconds, verified: Verified<Announcement>) {
        let record = verified.record();
        if record.swarm != self.config.swarm {
            self.ignored.other_swarm += 1;
            return;
        }
        if record.host == self.config.me {
            self.ignored.own += 1;
            return;
        }
        match self.table.insert(verified, wall) {
            Inserted::New | Inserted::Newer => {}
            Inserted::Stale => self.ignored.stale += 1,
            Inserted::NotInForce => self.ignored.not_in_force += 1,
            Inserted::Malformed => self.ignored.malformed += 1,
            Inserted::Full => self.ignored.full += 1,
        }
    }

    /// What routing is told of a model's hosts; drawn anew for each ask.
    fn outlook(&mut self, wall: UnixSeconds, model: ModelId, privacy: Privacy) -> Outlook {
        let mut outlook = Outlook::default();
        if privacy == Privacy::Trusted {
            outlook.restrict(self.trusted.clone());
        }
        for host in self.table.hosts(model).map(|said| said.host) {
            outlook.expect(host, self.reputation.odds(wall, &host, &model, &mut self.rng));
            if self.reputation.is_distrusted(wall, &host, &model) {
                outlook.distrust(host);
            }
        }
        outlook
    }

    fn answered(&mut self, now: Moment, wall: UnixSeconds, report: &AnswerReport) {
        let AnswerReport { model, hosts, end } = report;
        match end {
            AnswerEnd::Well { receipts } => {
                for host in hosts {
                    self.table.unsuspend(host);
                    self.remember(wall, *host, *model, Evidence::InTime);
                    if receipts == &Some(Ok(())) {
                        self.remember(wall, *host, *model, Evidence::Receipted);
                    }
                }
                let Some(Err(BrokenReceipts { hop, flaw })) = receipts else { return };
                if matches!(flaw, Flaw::Disagree { .. }) {
                    let before =
                        hop.checked_sub(1).unwrap_or_else(|| hosts.len().saturating_sub(1));
                    self.keep_apart(now, hosts, (before, *hop));
                } else if let Some(host) = hosts.get(*hop) {
                    self.remember(wall, *host, *model, Evidence::Fault(Fault::Receipts));
                }
            }
            AnswerEnd::Failed(failure) => {
                let blame = Blame::of(failure, hosts.len());
                let Some(host) = hosts.get(blame.hop) else { return };
                self.table.suspend(*host, now + SUSPENSION);
                if let Some(evidence) = blame.evidence {
                    self.remember(wall, *host, *model, evidence);
                }
                if let Some(two) = blame.apart {
                    self.keep_apart(now, hosts, two);
                }
            }
        }
    }

    /// Two that did not agree, where nobody can tell who is wrong.
    fn keep_apart(&mut self, now: Moment, hosts: &[PeerId], (one, other): (usize, usize)) {
        if let (Some(one), Some(other)) = (hosts.get(one), hosts.get(other)) {
            self.table.keep_apart(*one, *other, now + APART);
        }
    }

    fn remember(&mut self, wall: UnixSeconds, peer: PeerId, model: ModelId, evidence: Evidence) {
        let (standing, gone) = self.reputation.add(wall, peer, model, evidence);
        let standing = Box::new(standing.clone());
        self.forget(gone);
        self.outputs.push_back(Output::Remember { peer, model, standing });
    }

    fn forget(&mut self, gone: Option<(PeerId, ModelId)>) {
        let forget = |(peer, model)| Output::Forget { peer, model };
        self.outputs.extend(gone.map(forget));
    }

    fn host(&mut self, hosting: Hosting) {
        let Hosting { span, blocks, .. } = hosting;
        if Span::new(span.blocks(), blocks) != Ok(span) {
            self.ignored.malformed += 1;
        } else if !self.hosted.host(hosting) {
            self.ignored.full += 1;
        }
    }

    fn unhost(&mut self, now: Moment, wall: UnixSeconds, model: ModelId, span: Span) {
        let Some(mut hosted) = self.hosted.unhost(model, span) else { return };
        if hosted.was_announced() {
            let sessions = self.admission.running();
            let scene = Scene { now, wall, sessions, table: &self.table, draining: true };
            self.outputs.extend(self.voice.announce(&scene, &mut hosted));
        }
    }

    fn open(&mut self, wall: UnixSeconds, opening: &OpeningSummary) {
        let id = opening.id;
        self.outputs.push_back(match self.admission.admit(wall, &mut self.hosted, opening) {
            Ok(within) => {
                self.hosted.load_changed();
                Output::Admit { id, within }
            }
            Err(refusal) => Output::Refuse { id, refusal },
        });
    }

    /// What has become due: answers to asks that waited long enough, and announcements.
    fn catch_up(&mut self, now: Moment, wall: UnixSeconds) {
        for (model, privacy) in self.asks.late(now) {
            let outlook = self.outlook(wall, model, privacy);
            let of = (model, privacy);
            self.asks.answer_late(now, &self.table, &outlook, of, &mut self.outputs);
        }
        let draining = self.admission.is_draining();
        let sessions = self.admission.running();
        let scene = Scene { now, wall, sessions, table: &self.table, draining };
        for hosted in self.hosted.due_by(now, draining) {
            self.outputs.extend(self.voice.announce(&scene, hosted));
        }
    }
}
