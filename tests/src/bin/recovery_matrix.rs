//! Every fault at every moment in every place, on real processes: `recovery_matrix --json`.
//!
//! ```text
//! cargo run -p taimatsu-tests --release --bin recovery_matrix -- --json
//! cargo run -p taimatsu-tests --bin recovery_matrix -- --only kill/middle_token --delays 5
//! ```
//! A cell is a swarm with two hosts of each span, an answer of SmolLM2 with 200 tokens in, and one
//! host of it that is struck. It is identical if its tokens are those of the same question asked
//! undisturbed. `added_delay_ms` is the longest pause between two tokens of an answer that loses a
//! host by `kill -9`, less the same answer's when it is undisturbed.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use taimatsu_tests::recovery::{Arena, Ask, Fault, When};
use taimatsu_tests::swarm::{TWICE, program_and_models};

const MODEL: &str = "smollm2:135m";
const PLACES: [&str; 3] = ["leader", "middle", "tail"];

/// Answers whose delay is measured, unless asked otherwise.
const DELAYS: usize = 12;

struct Arguments {
    json: bool,
    only: Option<String>,
    delays: usize,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let bench = match program_and_models() {
        Ok((program, models)) => Bench { program, models },
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut cells = Vec::new();
    for fault in Fault::ALL {
        for when in When::ALL {
            for (place, called) in PLACES.into_iter().enumerate() {
                for temperature in [0.0, 0.8] {
                    let choice = if temperature == 0.0 { "greedy" } else { "sampled" };
                    let (fault_name, moment) = (fault.name(), when.name());
                    let name = format!("{fault_name}/{moment}/{called}/{choice}");
                    if arguments.only.as_ref().is_some_and(|only| !name.contains(only)) {
                        continue;
                    }
                    let (identical, note) = bench.cell(fault, when, place, temperature);
                    eprintln!("{name}: {note}");
                    cells.push(json!({"cell": name, "identical": identical, "note": note}));
                }
            }
        }
    }
    let delays = bench.delays(arguments.delays);
    report(&arguments, &cells, &delays)
}

fn arguments() -> Result<Arguments, String> {
    let mut read = Arguments { json: false, only: None, delays: DELAYS };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => read.json = true,
            "--only" => read.only = Some(words.next().ok_or("--only takes part of a cell's name")?),
            "--delays" => {
                let number = words.next().and_then(|text| text.parse().ok());
                read.delays = number.ok_or("--delays takes a number")?;
            }
            other => return Err(format!("`{other}` is not understood")),
        }
    }
    Ok(read)
}

fn report(arguments: &Arguments, cells: &[Value], delays: &[f64]) -> ExitCode {
    let identical = cells.iter().filter(|cell| cell["identical"] == true).count();
    let quantile = |permille: usize| {
        let last = delays.len().checked_sub(1)?;
        delays.get((last * permille).div_ceil(1_000)).copied()
    };
    let (median, p95) = (quantile(500), quantile(950));
    let told = json!({
        "schema_version": 1,
        "recovery_matrix": {"tried": cells.len(), "identical": identical, "cells": cells},
        "added_delay_ms": {"median": median, "p95": p95, "answers": delays.len(), "all": delays},
    });
    if arguments.json {
        println!("{told}");
    } else {
        println!("{identical} of {} cells identical", cells.len());
        println!("added delay: median {median:?} ms, p95 {p95:?} ms, of {}", delays.len());
    }
    if identical == cells.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Bench {
    program: String,
    models: PathBuf,
}

impl Bench {
    fn arena(&self, spans: &[&str], host: &[&str]) -> Arena {
        Arena::stand_as(&self.program, &self.models, MODEL, spans, host, &[])
    }

    /// Strikes once: whether the answer is what it would have been, and what is to be said of it.
    fn cell(&self, fault: Fault, when: When, place: usize, temperature: f64) -> (bool, String) {
        // One session at a time: whoever serves another answer refuses.
        let refuses = fault == Fault::KillAndRefuse;
        let host: &[&str] = if refuses { &["--max-sessions", "1"] } else { &[] };
        let mut arena = self.arena(&TWICE, host);
        let ask = question(200, 32, temperature);
        let whole = arena.whole(&ask);
        arena.wait_until_free();
        let peers: Vec<String> = arena.hosts.iter().map(|host| host.peer.clone()).collect();
        let before = arena.computed(&peers);
        let mut answer = arena.ask(&ask);
        let Some(peer) = answer.route.get(place).cloned() else {
            return (false, format!("no route: {:?}", answer.end));
        };
        // The spares are all in another answer, which ends when the struck one has waited a while.
        let other = refuses.then(|| arena.ask(&question(20, 160, 0.0)));
        arena.wait(&mut answer, &ask, when, &peer, before[&peer]);
        arena.strike(fault, &peer);
        let drained = other.map(|mut other| std::thread::spawn(move || other.to_end()));
        answer.to_end();
        if let Some(drained) = drained {
            let _ = drained.join();
        }
        if fault == Fault::Stop {
            arena.host(&peer).signal("CONT");
        }
        let gap = answer.gap.as_millis();
        match answer.error() {
            Some(error) => (false, format!("ended with {error}")),
            None if answer.tokens == whole => (true, format!("identical, longest pause {gap} ms")),
            None => (false, format!("{:?} is not {whole:?}", answer.tokens)),
        }
    }

    /// Milliseconds that a kill adds to an answer, in rising order.
    fn delays(&self, answers: usize) -> Vec<f64> {
        let mut delays = Vec::new();
        for number in 0..answers {
            let mut arena = self.arena(&TWICE, &[]);
            let ask = question(200, 48, 0.0);
            // Both chains are warm, as they would be in a swarm that works.
            let mut undisturbed = arena.ask(&ask);
            undisturbed.until(1);
            undisturbed.restart_gap();
            undisturbed.to_end();
            arena.wait_until_free();
            let mut answer = arena.ask(&ask);
            answer.until(8);
            answer.restart_gap();
            let peer = answer.route[number % PLACES.len()].clone();
            arena.kill(&peer);
            answer.to_end();
            let added = answer.gap.saturating_sub(undisturbed.gap);
            eprintln!("added delay, {}: {} ms", PLACES[number % PLACES.len()], added.as_millis());
            delays.push(added.as_secs_f64() * 1_000.0);
        }
        delays.sort_by(f64::total_cmp);
        delays
    }
}

fn question(prompt: u32, tokens: u32, temperature: f64) -> Ask {
    let prompt = (0..prompt).map(|id| 400 + id * 37 % 9_000).collect();
    Ask { prompt, tokens, temperature, seed: 7 }
}
