//! A swarm on the bench, and the answers that it gives.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taimatsu_tests::program::HANGS;
use taimatsu_tests::swarm::{Member, Swarm, question};

use super::{Means, TaskError, text};
use crate::bench::{Bench, Host};

/// The model that all tasks ask.
pub(super) const MODEL: &str = "smollm2:135m";

/// Its prompt: "The capital of France is".
pub(super) const PROMPT: [u32; 5] = [504, 3575, 282, 4649, 314];

/// The spans of three hosts.
pub(super) const SPANS: [&str; 3] = ["0-9", "10-19", "20-29"];

/// Where hosts of a chain live, in its order.
pub(super) const CHAIN: [&str; 3] = ["a", "b", "c"];

/// What newcomers dial.
pub(super) const DOOR: &str = "door";

/// Who asks.
pub(super) const CLIENT: &str = "user";

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answer {
    /// Token ids.
    pub(super) ids: Vec<u64>,
    /// From the question to the first token.
    pub(super) first: Duration,
    /// Tokens a second from the first to the last.
    pub(super) rate: f64,
    /// The last event's report.
    pub(super) report: Value,
}

/// Asks a node from where its API can be reached; the loopback's can be reached from here.
pub(super) fn ask(
    place: Option<Host<'_>>,
    node: &Member,
    route: &str,
    tokens: u32,
) -> Result<Answer, TaskError> {
    let mut question = question(MODEL, &PROMPT, tokens, route);
    question["ignore_eos"] = json!(true);
    let begun = Instant::now();
    match place {
        Some(host) => read(host.post(node, RUN, &question), begun),
        None => read(node.post(RUN, &question), begun),
    }
}

/// Where a question is asked for its events.
const RUN: &str = "/taimatsu/v1/run";

/// Asks until the swarm covers the model.
pub(super) fn ask_when_it_stands(
    place: Option<Host<'_>>,
    node: &Member,
    route: &str,
    tokens: u32,
) -> Result<Answer, TaskError> {
    let begun = Instant::now();
    loop {
        // An ask waits for a lookup, so this turns slowly.
        match ask(place, node, route, tokens) {
            Err(_) if begun.elapsed() < HANGS => {}
            done => return done,
        }
    }
}

fn read(reply: impl Read, begun: Instant) -> Result<Answer, TaskError> {
    let (mut ids, mut times) = (Vec::new(), Vec::new());
    let mut last = Value::Null;
    for line in BufReader::new(reply).lines() {
        let line = line.map_err(|error| TaskError::NoAnswer(error.to_string()))?;
        let event: Value = serde_json::from_str(&line)
            .map_err(|_| TaskError::NoAnswer(format!("not an event: {line}")))?;
        if let Some(id) = event["token"]["id"].as_u64() {
            ids.push(id);
            times.push(begun.elapsed());
        }
        last = event;
    }
    let report = last["finished"]["report"].clone();
    let (true, Some(&first), Some(&end)) = (report.is_object(), times.first(), times.last()) else {
        return Err(TaskError::NoAnswer(last.to_string()));
    };
    let rate = (times.len() - 1) as f64 / (end - first).as_secs_f64();
    Ok(Answer { ids, first, rate, report })
}

/// A swarm on the bench.
pub(super) struct Standing<'a> {
    bench: &'a Bench,
    /// In the order that they were asked for.
    pub(super) hosts: Vec<Member>,
    /// Hosts nothing.
    pub(super) client: Member,
    _door: Member,
}

impl<'a> Standing<'a> {
    /// A bootstrap node at [`DOOR`], hosts of these spans (none: of the whole model) at their
    /// places, and a client at [`CLIENT`].
    pub(super) fn start(bench: &'a Bench, means: &Means, hosts: &[(&str, Option<&str>)]) -> Self {
        let models = text(&means.models);
        let door = bench.host(DOOR);
        let door = door.member(&means.program, &["--models", &models, "--bootstrap-only"]);
        let base = ["--models", &models, "--bootstrap", &door.addresses[0]];
        let hosts = hosts.iter().map(|(place, span)| {
            let serve = span.map_or_else(|| MODEL.to_owned(), |span| format!("{MODEL}@{span}"));
            let more = ["--threads", "1", "--serve", &serve];
            bench.host(place).member(&means.program, &[&base[..], &more].concat())
        });
        let hosts = hosts.collect();
        let client = bench.host(CLIENT).member(&means.program, &base);
        Self { bench, hosts, client, _door: door }
    }

    /// Asks the client, when there is somebody to answer it.
    pub(super) fn ask(&self, route: &str, tokens: u32) -> Result<Answer, TaskError> {
        ask_when_it_stands(Some(self.bench.host(CLIENT)), &self.client, route, tokens)
    }
}

/// A chain of the same three spans, on loopback.
pub(super) struct Near {
    client: Member,
    _hosts: [Member; 3],
    _swarm: Swarm,
}

impl Near {
    pub(super) fn start(means: &Means) -> Self {
        let mut swarm = Swarm::start(&text(&means.program), &means.models);
        let spans = SPANS.map(|span| format!("{MODEL}@{span}"));
        let (hosts, client) = swarm.hosts_and_client(&spans);
        Self { client, _hosts: hosts, _swarm: swarm }
    }

    pub(super) fn ask(&self, tokens: u32) -> Result<Answer, TaskError> {
        ask_when_it_stands(None, &self.client, "chain", tokens)
    }
}
