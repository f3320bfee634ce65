//! Hosts that are lost in the middle of an answer: it is what it would have been, and only what was
//! lost is computed again. And clients that are lost: the hosts are free again.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;

use serde_json::{Value, json};
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Store, pull, store};
use taimatsu_tests::program::until;
use taimatsu_tests::recovery::{Answer, Arena, Ask, Fault};

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");
const MODEL: &str = "smollm2:135m";
const SPANS: [&str; 3] = ["0-9", "10-19", "20-29"];

/// Two hosts of each span.
const TWICE: [&str; 6] = ["0-9", "10-19", "20-29", "0-9", "10-19", "20-29"];

/// The store with the real model in it; pulled where it is not.
fn models() -> PathBuf {
    let dir = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap();
    dir
}

fn arena(spans: &[&str]) -> Arena {
    Arena::stand(PROGRAM, &models(), MODEL, spans)
}

/// A question whose answer is long enough to lose hosts in.
fn question(temperature: f64) -> Ask {
    let prompt = (0..200).map(|id| 400 + id * 37 % 9_000).collect();
    Ask { prompt, tokens: 48, temperature, seed: 7 }
}

/// Positions that an undisturbed answer needs on each hop.
fn needed(ask: &Ask) -> u64 {
    ask.prompt.len() as u64 + u64::from(ask.tokens) - 1
}

/// An answer that has begun: some of it has come.
fn under_way(arena: &Arena, ask: &Ask) -> Answer {
    let mut answer = arena.ask(ask);
    answer.until(6);
    assert_eq!(answer.error(), None);
    answer
}

/// The hosts of these places of an answer are struck, and it is whole all the same; who stayed has
/// computed nothing twice, and who came no more than the answer needs.
fn struck(arena: &mut Arena, fault: Fault, places: &[usize], temperature: f64) {
    let ask = question(temperature);
    let whole = arena.whole(&ask);
    arena.wait_until_known();
    let peers: Vec<String> = arena.hosts.iter().map(|host| host.peer.clone()).collect();
    let before = arena.computed(&peers);
    let mut answer = under_way(arena, &ask);
    let lost: Vec<String> = places.iter().map(|place| answer.route[*place].clone()).collect();
    for peer in &lost {
        arena.strike(fault, peer);
    }
    answer.to_end();
    let stayed: Vec<String> = peers.into_iter().filter(|peer| !lost.contains(peer)).collect();
    let after = arena.computed(&stayed);
    let report = answer.end.as_ref().unwrap()["finished"]["report"].clone();
    assert_eq!(answer.tokens_of_a_good_end(), whole, "{fault:?} of {places:?}");
    let hops = &report["hops"];
    let told: Vec<&str> =
        report["lost"].as_array().unwrap().iter().filter_map(|hop| hop["peer"].as_str()).collect();
    assert!(lost.iter().all(|peer| told.contains(&peer.as_str())), "who has seen it is told");
    for hop in hops.as_array().unwrap() {
        let peer = hop["peer"].as_str().unwrap();
        let computed = after.get(peer).map(|now| now - before[peer]);
        assert_eq!(computed, Some(needed(&ask)), "{fault:?} of {places:?}: {hop}");
    }
    for peer in lost.iter().filter(|_| fault == Fault::Stop) {
        // What it says now is of an older generation: nobody listens, and it frees all.
        arena.host(peer).signal("CONT");
    }
    if fault == Fault::Leave {
        arena.hosts.retain(|host| !lost.contains(&host.peer));
    }
    arena.wait_until_free();
}

#[test]
fn a_leader_that_is_killed_is_replaced() {
    struck(&mut arena(&TWICE), Fault::Kill, &[0], 0.0);
}

#[test]
fn a_middle_that_is_killed_is_replaced() {
    struck(&mut arena(&TWICE), Fault::Kill, &[1], 0.8);
}

#[test]
fn a_tail_that_is_killed_is_replaced() {
    struck(&mut arena(&TWICE), Fault::Kill, &[2], 0.8);
}

#[test]
fn neighbours_that_are_killed_at_once_are_replaced() {
    struck(&mut arena(&TWICE), Fault::Kill, &[1, 2], 0.0);
}

#[test]
fn hosts_that_stand_still_are_replaced_and_fenced_when_they_wake_up() {
    for (place, temperature) in [(0, 0.8), (1, 0.0), (2, 0.0)] {
        struck(&mut arena(&TWICE), Fault::Stop, &[place], temperature);
    }
}

#[test]
fn hosts_that_leave_hand_their_answers_on() {
    for place in [0, 1, 2] {
        struck(&mut arena(&TWICE), Fault::Leave, &[place], 0.0);
    }
}

#[test]
fn a_span_is_taken_by_two_and_lost_again() {
    let mut arena = arena(&["0-9", "10-19", "20-29", "10-14", "15-19", "13-19"]);
    let ask = question(0.0);
    let whole = arena.whole(&ask);
    let mut answer = under_way(&arena, &ask);
    let middle = answer.route[1].clone();
    arena.kill(&middle);
    answer.until(20);
    let second = arena.peer_of("15-19");
    arena.kill(&second);
    answer.to_end();
    let hops = answer.end.as_ref().unwrap()["finished"]["report"]["hops"].clone();
    assert_eq!(answer.tokens_of_a_good_end(), whole);
    let blocks: Vec<&Value> = hops.as_array().unwrap().iter().map(|hop| &hop["blocks"]).collect();
    assert_eq!(json!(blocks), json!([[0, 9], [10, 14], [15, 19], [20, 29]]));
}

#[test]
fn without_anybody_the_answer_waits_for_whoever_comes() {
    let mut arena = arena(&SPANS);
    let ask = question(0.8);
    let whole = arena.whole(&ask);
    let mut answer = under_way(&arena, &ask);
    let middle = answer.route[1].clone();
    arena.kill(&middle);
    // Another takes some seconds to stand.
    arena.join(SPANS[1]);
    answer.to_end();
    assert_eq!(answer.tokens_of_a_good_end(), whole);
}

#[test]
fn without_patience_the_answer_ends_with_the_host_that_was_lost() {
    let client = ["--patience-seconds", "0"];
    let mut arena = Arena::stand_with(PROGRAM, &models(), MODEL, &SPANS, &client);
    let ask = Ask { tokens: 2_000, ..question(0.0) };
    let mut answer = under_way(&arena, &ask);
    let middle = answer.route[1].clone();
    arena.kill(&middle);
    answer.to_end();
    let error = answer.error().expect("nobody takes its place").to_string();
    assert!(error.contains(&middle) && error.contains("peer_failed"), "{error}");
    arena.wait_until_free();
}

/// A streamed answer by the API that people use.
fn chat(arena: &Arena) -> reqwest::blocking::Response {
    let reply = arena.client.post(
        "/v1/chat/completions",
        &json!({
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me all about the sea."}],
            "max_tokens": 2_000,
            "ignore_eos": true,
            "stream": true,
        }),
    );
    assert_eq!(reply.status(), 200);
    until("an answer under way", || {
        arena.hosts.iter().all(|host| host.sessions() == 1).then_some(())
    });
    reply
}

#[test]
fn a_client_that_is_gone_frees_the_hosts() {
    let mut arena = arena(&SPANS);
    let closed = chat(&arena);
    drop(closed);
    arena.wait_until_free();
    assert_eq!(arena.client.get("/health").0, 200);
    let _killed = chat(&arena);
    arena.client.kill();
    arena.wait_until_free();
}
