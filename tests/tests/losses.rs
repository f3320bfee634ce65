//! Hosts that are lost in the middle of an answer, and clients that are: what the other side hears,
//! and that it goes on.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use serde_json::{Value, json};
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Store, pull, store};
use taimatsu_tests::program::until;
use taimatsu_tests::swarm::{Member, Swarm};

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");
const MODEL: &str = "smollm2:135m";
const SPANS: [&str; 3] = ["0-9", "10-19", "20-29"];

/// Tokens asked for: far more than come before the loss.
const LONG: u32 = 2_000;

/// The store with the real model in it; pulled where it is not.
fn models() -> PathBuf {
    let dir = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap();
    dir
}

/// A chain of three, and who asks it.
struct Chain {
    hosts: [Member; 3],
    client: Member,
    swarm: Swarm,
}

impl Chain {
    fn start() -> Self {
        let mut swarm = Swarm::start(PROGRAM, &models());
        let (hosts, client) = swarm.hosts_and_client(&SPANS.map(|span| format!("{MODEL}@{span}")));
        client.wait_until_covered();
        Self { hosts, client, swarm }
    }

    /// A long answer that is under way: some of it has come.
    fn ask(&self) -> Stream {
        let reply = self.client.post(
            "/v1/chat/completions",
            &json!({
                "model": MODEL,
                "messages": [{"role": "user", "content": "Tell me all about the sea."}],
                "max_tokens": LONG,
                "ignore_eos": true,
                "stream": true,
            }),
        );
        assert_eq!(reply.status(), 200);
        let mut stream = Stream(BufReader::new(reply));
        for _ in 0..4 {
            let event = stream.next().expect("the answer goes on");
            assert!(event["choices"].is_array(), "{event}");
        }
        stream
    }

    /// Every host that is left has freed what the answer held.
    fn is_free(&self, hosts: &[usize]) {
        for host in hosts {
            until("a host without sessions", || (self.hosts[*host].sessions() == 0).then_some(()));
        }
    }
}

/// The events of a streamed answer. Dropping it closes the socket.
struct Stream(BufReader<reqwest::blocking::Response>);

impl Stream {
    /// The next event's data; a text where it is not JSON.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        while self.0.read_line(&mut line).expect("the stream ends in order") > 0 {
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap_or_else(|_| json!(data)));
            }
            line.clear();
        }
        None
    }
}

/// The rest of an answer whose host is lost: it ends with an error that names that host, and with
/// no other end.
fn breaks_off(mut stream: Stream, lost: &str) {
    let mut events = Vec::from_iter(std::iter::from_fn(|| stream.next()));
    let last = events.pop().expect("there is a last word");
    let message = last["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {last}"));
    assert!(message.contains(lost), "{message} does not name {lost}");
    assert!(["peer_failed", "peer_timeout"].contains(&last["error"]["code"].as_str().unwrap()));
    for event in &events {
        assert!(event["error"].is_null() && *event != "[DONE]", "{event}");
        assert!(event["choices"][0]["finish_reason"].is_null(), "{event}");
    }
}

/// What is asked of a chain that has lost a host.
fn again() -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "And now?"}],
        "max_tokens": 2,
    })
}

/// The node that asked has not suffered: it says that it cannot answer.
fn goes_on(chain: &Chain) {
    let reply = chain.client.post("/v1/chat/completions", &again());
    assert!(reply.status().is_server_error(), "{}", reply.status());
    let error: Value = reply.json().unwrap();
    assert!(error["error"]["message"].is_string(), "{error}");
    let (status, health) = chain.client.get("/health");
    assert!([200, 503].contains(&status), "{health}");
}

fn killed(number: usize) -> Chain {
    let mut chain = Chain::start();
    let stream = chain.ask();
    chain.hosts[number].kill();
    breaks_off(stream, &chain.hosts[number].peer);
    let left: Vec<usize> = (0..3).filter(|host| *host != number).collect();
    chain.is_free(&left);
    goes_on(&chain);
    chain
}

fn stopped(number: usize) {
    let chain = Chain::start();
    let stream = chain.ask();
    chain.hosts[number].signal("STOP");
    breaks_off(stream, &chain.hosts[number].peer);
    let left: Vec<usize> = (0..3).filter(|host| *host != number).collect();
    chain.is_free(&left);
    chain.hosts[number].signal("CONT");
    chain.is_free(&[number]);
}

#[test]
fn a_leader_that_is_killed_is_named() {
    let _ = killed(0);
}

#[test]
fn a_middle_that_is_killed_is_named_and_may_be_replaced() {
    let mut chain = killed(1);
    chain.hosts[1] = chain.swarm.host(&format!("{MODEL}@{}", SPANS[1]));
    until("an answer with the new host", || {
        let reply = chain.client.post("/v1/chat/completions", &again());
        (reply.status() == 200).then_some(())
    });
}

#[test]
fn a_tail_that_is_killed_is_named() {
    let _ = killed(2);
}

#[test]
fn a_leader_that_stands_still_is_named() {
    stopped(0);
}

#[test]
fn a_middle_that_stands_still_is_named() {
    stopped(1);
}

#[test]
fn a_tail_that_stands_still_is_named() {
    stopped(2);
}

#[test]
fn a_client_that_closes_its_socket_frees_the_hosts() {
    let chain = Chain::start();
    let stream = chain.ask();
    for host in &chain.hosts {
        assert_eq!(host.sessions(), 1, "the answer is under way");
    }
    drop(stream);
    chain.is_free(&[0, 1, 2]);
    assert_eq!(chain.client.get("/health").0, 200);
}

#[test]
fn a_client_that_is_killed_frees_the_hosts() {
    let mut chain = Chain::start();
    let _stream = chain.ask();
    chain.client.kill();
    chain.is_free(&[0, 1, 2]);
}
