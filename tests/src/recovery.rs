//! Answers that lose their hosts: swarms of real processes with hosts to spare, faults at named
//! moments, and the undisturbed answer beside the disturbed one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::program::until;
use crate::swarm::{Member, Swarm, post};

/// A swarm, its hosts, and who asks.
pub struct Arena {
    /// The hosts that run, those that stand still included.
    pub hosts: Vec<Member>,
    /// Who asks.
    pub client: Member,
    swarm: Swarm,
    model: String,
    /// Which span each host was started with.
    spans: BTreeMap<String, String>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The prompt's ids.
    pub prompt: Vec<u32>,
    /// Tokens wanted.
    pub tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// For whoever is not.
    pub seed: u32,
}

/// An answer that is under way.
pub struct Answer {
    lines: BufReader<Response>,
    /// Who computes, leader first.
    pub route: Vec<String>,
    /// The ids so far.
    pub tokens: Vec<u64>,
    /// When the last one came.
    last: Instant,
    /// The longest time between two of them, and to the first one.
    pub gap: Duration,
    /// The report at the end, or the error.
    pub end: Option<Value>,
}

impl Arena {
    /// Hosts of these spans (`A-B`), and a client that can ask them.
    #[must_use]
    pub fn stand(program: &str, models: &Path, model: &str, spans: &[&str]) -> Self {
        Self::stand_with(program, models, model, spans, &[])
    }

    /// The same with more arguments for the client.
    #[must_use]
    pub fn stand_with(
        program: &str,
        models: &Path,
        model: &str,
        spans: &[&str],
        client: &[&str],
    ) -> Self {
        Self::stand_as(program, models, model, spans, &[], client)
    }

    /// The same with more arguments for the hosts, too.
    #[must_use]
    pub fn stand_as(
        program: &str,
        models: &Path,
        model: &str,
        spans: &[&str],
        host: &[&str],
        client: &[&str],
    ) -> Self {
        let mut swarm = Swarm::start(program, models);
        let named: Vec<String> = spans.iter().map(|span| format!("{model}@{span}")).collect();
        let (hosts, client) = swarm.all_and_client(&named, host, client);
        client.wait_until_covered();
        let told = hosts.iter().zip(spans);
        let spans = told.map(|(host, span)| (host.peer.clone(), (*span).to_owned())).collect();
        let arena = Self { hosts, client, swarm, model: model.to_owned(), spans };
        arena.wait_until_known();
        arena
    }

    /// Waits until the client knows of all hosts, and would ask each.
    pub fn wait_until_known(&self) {
        until("all hosts", || {
            let (_, map) = self.client.get(&format!("/taimatsu/v1/map?model={}", self.model));
            let spans = map["spans"].as_array()?;
            let good = |host: &Member| {
                let is = |span: &Value| span["peer"] == *host.peer && span["suspended"] == false;
                spans.iter().any(is)
            };
            self.hosts.iter().all(good).then_some(())
        });
    }

    /// One more host.
    pub fn join(&mut self, span: &str) {
        let member = self.swarm.host(&format!("{}@{span}", self.model));
        self.spans.insert(member.peer.clone(), span.to_owned());
        self.hosts.push(member);
    }

    /// The span that a host was started with.
    ///
    /// # Panics
    /// It is none of this swarm.
    #[must_use]
    pub fn span_of(&self, peer: &str) -> String {
        self.spans[peer].clone()
    }

    /// A host that was started with this span, and runs.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn peer_of(&self, span: &str) -> String {
        let found = self.hosts.iter().find(|host| self.spans[&host.peer] == span);
        found.expect("somebody hosts it").peer.clone()
    }

    /// The host of this id.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn host(&self, peer: &str) -> &Member {
        self.hosts.iter().find(|host| host.peer == peer).expect("it is a host of this swarm")
    }

    /// Ends a host as `kill -9` does.
    ///
    /// # Panics
    /// There is none of this id.
    pub fn kill(&mut self, peer: &str) {
        let place = self.hosts.iter().position(|host| host.peer == peer);
        let mut host = self.hosts.remove(place.expect("it is a host of this swarm"));
        host.kill();
    }

    /// Begins an answer; its first word has come.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn ask(&self, ask: &Ask) -> Answer {
        self.asker().ask(ask)
    }

    /// Who asks, for threads of their own.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker { api: self.client.api.clone(), model: self.model.clone() }
    }

    /// The whole answer, undisturbed.
    ///
    /// # Panics
    /// It does not end well.
    #[must_use]
    pub fn whole(&self, ask: &Ask) -> Vec<u64> {
        let mut answer = self.ask(ask);
        while answer.step() {}
        answer.tokens_of_a_good_end()
    }

    /// Positions that each host has computed so far, but for those that do not answer.
    #[must_use]
    pub fn computed(&self, of: &[String]) -> BTreeMap<String, u64> {
        let status = |peer: &String| {
            let (_, status) = self.host(peer).get("/taimatsu/v1/status");
            let computed = status["hosting"][0]["computed_positions"].as_u64();
            (peer.clone(), computed.unwrap_or_default())
        };
        of.iter().map(status).collect()
    }

    /// Waits until nothing of an answer is left on the hosts.
    pub fn wait_until_free(&self) {
        for host in &self.hosts {
            until("a host without sessions", || (host.sessions() == 0).then_some(()));
        }
    }
}

/// Asks the client of an arena.
#[derive(Debug, Clone)]
pub struct Asker {
    api: String,
    model: String,
}

impl Asker {
    /// Begins an answer; its first word has come.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn ask(&self, ask: &Ask) -> Answer {
        let question = json!({
            "model": self.model,
            "prompt_ids": ask.prompt,
            "max_tokens": ask.tokens,
            "temperature": ask.temperature,
            "seed": ask.seed,
            "ignore_eos": true,
            "route": "chain",
        });
        let reply = post(&self.api, "/taimatsu/v1/run", question.to_string());
        let mut answer = Answer {
            lines: BufReader::new(reply),
            route: Vec::new(),
            tokens: Vec::new(),
            last: Instant::now(),
            gap: Duration::ZERO,
            end: None,
        };
        while answer.route.is_empty() && answer.step() {}
        answer
    }
}

/// What befalls a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`.
    Kill,
    /// SIGSTOP; it wakes up when the answer is there.
    Stop,
    /// SIGTERM: it leaves in good order.
    Leave,
    /// `kill -9`, and whoever would be next is full.
    KillAndRefuse,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// As soon as hosts are chosen.
    Open,
    /// The host has begun with the prompt.
    FirstChunk,
    /// The host is in the middle of the prompt.
    MiddleChunk,
    /// After the first token.
    FirstToken,
    /// In the middle of the answer.
    MiddleToken,
    /// Before the last token.
    LastToken,
}

impl Fault {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Stop, Self::Leave, Self::KillAndRefuse];

    /// As it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Leave => "leave",
            Self::KillAndRefuse => "kill_and_refuse",
        }
    }
}

impl When {
    /// All, in order.
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::FirstChunk,
        Self::MiddleChunk,
        Self::FirstToken,
        Self::MiddleToken,
        Self::LastToken,
    ];

    /// As it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FirstChunk => "first_chunk",
            Self::MiddleChunk => "middle_chunk",
            Self::FirstToken => "first_token",
            Self::MiddleToken => "middle_token",
            Self::LastToken => "last_token",
        }
    }
}

impl Arena {
    /// Waits until the moment is there for a host of the answer.
    pub fn wait(&self, answer: &mut Answer, ask: &Ask, when: When, peer: &str, before: u64) {
        let tokens = ask.tokens as usize;
        let computes = |positions: u64| {
            let peer = [peer.to_owned()];
            until("a host that computes", || {
                let now = self.computed(&peer)[&peer[0]];
                (now >= before + positions).then_some(())
            });
        };
        match when {
            When::Open => {}
            When::FirstChunk => computes(1),
            When::MiddleChunk => computes(ask.prompt.len() as u64 / 2),
            When::FirstToken => answer.until(1),
            When::MiddleToken => answer.until(tokens / 2),
            When::LastToken => answer.until(tokens - 1),
        }
    }

    /// Strikes a host.
    pub fn strike(&mut self, fault: Fault, peer: &str) {
        match fault {
            Fault::Kill | Fault::KillAndRefuse => self.kill(peer),
            Fault::Stop => self.host(peer).signal("STOP"),
            Fault::Leave => self.host(peer).signal("TERM"),
        }
    }
}

impl Answer {
    /// Takes the next event; false at the end.
    ///
    /// # Panics
    /// The stream does not end in order.
    pub fn step(&mut self) -> bool {
        let mut line = String::new();
        if self.lines.read_line(&mut line).expect("the stream ends in order") == 0 {
            return false;
        }
        let event: Value = serde_json::from_str(&line).expect("events are JSON");
        if let Some(id) = event["token"]["id"].as_u64() {
            self.gap = self.gap.max(self.last.elapsed());
            self.last = Instant::now();
            self.tokens.push(id);
        }
        for route in [&event["started"]["route"], &event["rerouted"]] {
            if let Some(hosts) = route["hosts"].as_array() {
                let peer = |host: &Value| host["peer"].as_str().unwrap_or_default().to_owned();
                self.route = hosts.iter().map(peer).collect();
            }
        }
        for end in ["finished", "failed"] {
            if !event[end].is_null() {
                self.end = Some(event.clone());
            }
        }
        true
    }

    /// Forgets how long tokens took so far.
    pub const fn restart_gap(&mut self) {
        self.gap = Duration::ZERO;
    }

    /// Reads on until there are so many tokens, or the end.
    pub fn until(&mut self, tokens: usize) {
        while self.tokens.len() < tokens && self.end.is_none() && self.step() {}
    }

    /// Reads on to the end.
    pub fn to_end(&mut self) {
        while self.step() {}
    }

    /// The error that it ended with.
    #[must_use]
    pub fn error(&self) -> Option<&Value> {
        self.end.as_ref().map(|end| &end["failed"]).filter(|failed| !failed.is_null())
    }

    /// All ids.
    ///
    /// # Panics
    /// It ended badly, or not at all.
    #[must_use]
    pub fn tokens_of_a_good_end(self) -> Vec<u64> {
        let end = self.end.expect("an answer has an end");
        assert!(end["finished"].is_object(), "{end}");
        let receipts = &end["finished"]["report"]["receipts"];
        assert!(!receipts.to_string().contains("broken"), "{receipts}");
        self.tokens
    }
}
