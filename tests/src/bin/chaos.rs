//! A swarm whose hosts are killed and come back, under clients that go on asking: `chaos --json`.
//!
//! ```text
//! cargo run -p taimatsu-tests --release --bin chaos -- --seconds 600 --json
//! ```
//! Two hosts of each third of SmolLM2; every ten seconds one of the six is killed, and five seconds
//! later another with its span joins. Four clients ask in turns, greedy and sampled. An answer is
//! identical if its tokens are those of the same question before the first kill.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taimatsu_tests::recovery::{Arena, Ask, Asker};
use taimatsu_tests::swarm::{TWICE, program_and_models};

const MODEL: &str = "smollm2:135m";
const CLIENTS: usize = 4;

/// Between two kills.
const PERIOD: Duration = Duration::from_secs(10);

/// From a kill to the host that takes the place.
const ABSENCE: Duration = Duration::from_secs(5);

/// Of the time without kills, against which the rate is held.
const CALM: Duration = Duration::from_secs(60);

struct Arguments {
    seconds: u64,
    seed: u64,
    json: bool,
}

/// What became of the questions of one client, or of all.
#[derive(Debug, Default)]
struct Outcome {
    asked: usize,
    identical: usize,
    tokens: usize,
    failures: Vec<String>,
}

/// A question, and its undisturbed answer.
struct Known {
    ask: Ask,
    tokens: Vec<u64>,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("chaos [--seconds N] [--seed N] [--json]");
        return ExitCode::FAILURE;
    };
    let (program, models) = match program_and_models() {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut arena = Arena::stand(&program, &models, MODEL, &TWICE);
    let known: Vec<Known> = (0..8)
        .map(|number| {
            let prompt = (0..20 + number * 25).map(|id| 400 + (id * 37 + number) % 9_000).collect();
            let temperature = if number % 2 == 0 { 0.0 } else { 0.8 };
            let ask = Ask { prompt, tokens: 64, temperature, seed: number };
            Known { tokens: arena.whole(&ask), ask }
        })
        .collect();
    let calm = CALM.min(Duration::from_secs(arguments.seconds));
    let (undisturbed, _) = under_load(&mut arena, &known, calm, None);
    let time = Duration::from_secs(arguments.seconds);
    let (disturbed, kills) = under_load(&mut arena, &known, time, Some(arguments.seed));
    let rate = |outcome: &Outcome, time: Duration| outcome.tokens as f64 / time.as_secs_f64();
    let (before, after) = (rate(&undisturbed, calm), rate(&disturbed, time));
    let failed = disturbed.asked - disturbed.identical;
    let told = json!({"schema_version": 1, "chaos": {
        "seconds": arguments.seconds,
        "kills": kills,
        "asked": disturbed.asked,
        "identical": disturbed.identical,
        "failed": failed,
        "failures": disturbed.failures,
        "tokens_per_second": after,
        "undisturbed_tokens_per_second": before,
        "ratio": after / before,
    }});
    tell(&arguments, &told);
    if failed == 0 && undisturbed.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell(arguments: &Arguments, told: &Value) {
    if arguments.json {
        println!("{told}");
    } else {
        println!("{:#}", told["chaos"]);
    }
}

fn arguments() -> Option<Arguments> {
    let mut read = Arguments { seconds: 600, seed: 1, json: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => read.json = true,
            "--seconds" => read.seconds = words.next()?.parse().ok()?,
            "--seed" => read.seed = words.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some(read)
}

/// Has all clients ask for so long, and kills hosts meanwhile where there is a seed; how many.
fn under_load(
    arena: &mut Arena,
    known: &[Known],
    time: Duration,
    seed: Option<u64>,
) -> (Outcome, usize) {
    let until = Instant::now() + time;
    let asker = arena.asker();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let asker = asker.clone();
                scope.spawn(move || ask_on(&asker, known, client, until))
            })
            .collect();
        let kills = seed.map_or(0, |seed| kill_on(arena, seed, until));
        let mut all = Outcome::default();
        for client in clients {
            match client.join() {
                Ok(outcome) => {
                    all.asked += outcome.asked;
                    all.identical += outcome.identical;
                    all.tokens += outcome.tokens;
                    all.failures.extend(outcome.failures);
                }
                Err(_) => {
                    all.asked += 1;
                    all.failures.push("a client ended".into());
                }
            }
        }
        (all, kills)
    })
}

fn ask_on(asker: &Asker, known: &[Known], client: usize, until: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    for Known { ask, tokens } in known.iter().cycle().skip(client * 2) {
        if Instant::now() >= until {
            break;
        }
        let mut answer = asker.ask(ask);
        while answer.step() {}
        outcome.asked += 1;
        outcome.tokens += answer.tokens.len();
        match answer.error() {
            None if answer.tokens == *tokens => outcome.identical += 1,
            None => outcome.failures.push(format!("{:?}: {:?}", answer.end, answer.tokens)),
            Some(error) => outcome.failures.push(error.to_string()),
        }
    }
    outcome
}

/// Kills a host every [`PERIOD`], and has another take its place.
fn kill_on(arena: &mut Arena, mut seed: u64, until: Instant) -> usize {
    let mut kills = 0;
    let mut next = Instant::now() + PERIOD;
    while next + ABSENCE < until {
        wait(next);
        // Knuth's MMIX.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = (seed >> 33) as usize % arena.hosts.len();
        let peer = arena.hosts[index].peer.clone();
        let span = arena.span_of(&peer);
        arena.kill(&peer);
        kills += 1;
        wait(next + ABSENCE);
        arena.join(&span);
        next += PERIOD;
    }
    kills
}

fn wait(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
