//! Hosts that are lost in the middle of an answer: the answer is what it would have been.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;

use serde_json::Value;
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Store, pull, store};
use taimatsu_tests::recovery::{Arena, Ask};

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");
const MODEL: &str = "smollm2:135m";
const TWICE: [&str; 6] = ["0-9", "10-19", "20-29", "0-9", "10-19", "20-29"];

/// The store with the real model in it; pulled where it is not.
fn models() -> PathBuf {
    let dir = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap();
    dir
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|id| 400 + id * 37 % 9_000).collect()
}

fn greedy(length: u32, tokens: u32) -> Ask {
    Ask { prompt: prompt(length), tokens, temperature: 0.0, seed: 1 }
}

#[test]
fn a_middle_that_is_killed_is_replaced() {
    let mut arena = Arena::stand(PROGRAM, &models(), MODEL, &TWICE);
    let ask = greedy(200, 40);
    let whole = arena.whole(&ask);
    let mut answer = arena.ask(&ask);
    answer.until(15);
    let peer = answer.route[1].clone();
    arena.kill(&peer);
    answer.to_end();
    eprintln!("gap {:?} end {:?}", answer.gap, answer.end);
    assert_eq!(answer.tokens_of_a_good_end(), whole);
}
