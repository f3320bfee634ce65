//! Swarms in virtual time, by the thousand; and one, aloud, by its seed.
//!
//! ```text
//! cargo test -p taimatsu-tests --test simulation                        # all of it
//! cargo test -p taimatsu-tests --test simulation -- --seed 7            # one run, told
//! cargo test -p taimatsu-tests --test simulation -- --seed 7 --scenario churn --nodes 12
//! cargo test -p taimatsu-tests --test simulation -- --seeds 5000        # more
//! ```

use std::process::ExitCode;
use std::time::Instant;

use taimatsu_tests::simulation::scenarios::{LARGE, named};
use taimatsu_tests::simulation::{Report, SCENARIOS, Scenario, campaign, play, replay_command};

/// Seeds of worlds of at most thirty nodes.
const SEEDS: u64 = 1_000;

/// Seeds of worlds of a thousand.
const LARGE_SEEDS: u64 = 5;

/// Runs that once broke something, with what it was. The worlds have changed since; the machines'
/// own tests hold the bugs down, these keep the neighbourhood in sight.
const ONCE_BROKEN: [(&str, u64, usize); 9] = [
    // A reader that paused for a minute: its host was called stalled.
    ("slow_reader", 18, 17),
    // `Relay` was sent to a hop that had not accepted yet, and was lost.
    ("relayed", 385, 6),
    // The neighbour of the dead host's neighbour spoke first, and an innocent was blamed.
    ("vanishes", 999, 11),
    // A second attempt was given up, because no other host had been looked for.
    ("vanishes_early", 729, 4),
    // Of equal hosts all asks went to the one that was nearest by a hair.
    ("crowd", 842, 27),
    // A liar in a chain was excused by distances that nobody had measured.
    ("false_speed_in_chain", 583, 20),
    // A token came before the word that the last lane stands; the loss after it ended the answer.
    ("mends", 1378, 13),
    // A new leader that was not done with its rebuild, when the answer was whole, was disputed.
    ("mends", 233, 20),
    // A new tail signed of ids that it had been told as if nothing had come of their positions.
    ("vanishes", 110, 23),
];

/// What the command line asks for. What is not ours is the test harness's, and means nothing here.
#[derive(Debug, Default)]
struct Arguments {
    seed: Option<u64>,
    seeds: Option<u64>,
    scenario: Option<String>,
    nodes: Option<usize>,
    list: bool,
    filter: Option<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut read = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let (flag, joined) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || joined.clone().or_else(|| words.next());
        let mut number = || {
            let text = value().unwrap_or_default();
            text.parse::<u64>().map_err(|_| format!("{flag} takes a number, not `{text}`"))
        };
        match flag.as_str() {
            "--seed" => read.seed = Some(number()?),
            "--seeds" => read.seeds = Some(number()?),
            "--nodes" => read.nodes = Some(number()? as usize),
            "--scenario" => read.scenario = value(),
            "--list" => read.list = true,
            "--skip" | "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => {
                let _ = value();
            }
            flag if flag.starts_with('-') => {}
            filter => read.filter = Some(filter.to_owned()),
        }
    }
    Ok(read)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.list {
        println!("simulation: test\n\n1 test, 0 benchmarks");
        return ExitCode::SUCCESS;
    }
    if arguments.filter.as_ref().is_some_and(|filter| !"simulation".contains(filter.as_str())) {
        println!("0 of 1 simulations are called so");
        return ExitCode::SUCCESS;
    }
    let scenario = match &arguments.scenario {
        None => None,
        Some(name) => match named(name) {
            Some(scenario) => Some(scenario),
            None => {
                let names = SCENARIOS.iter().chain([&LARGE]).map(|scenario| scenario.name);
                eprintln!(
                    "no scenario `{name}`; there are {}",
                    names.collect::<Vec<_>>().join(", ")
                );
                return ExitCode::FAILURE;
            }
        },
    };
    match arguments.seed {
        Some(seed) => one(seed, scenario, arguments.nodes),
        None => all(&arguments, scenario),
    }
}

fn one(seed: u64, scenario: Option<Scenario>, nodes: Option<usize>) -> ExitCode {
    let report = play(seed, scenario, nodes, true);
    let Report { scenario, nodes, hash, events, .. } = &report;
    println!("{scenario}, seed {seed}, {nodes} nodes: {events} events, trace {hash:016x}");
    told(&[report])
}

fn all(arguments: &Arguments, scenario: Option<Scenario>) -> ExitCode {
    let seeds = arguments.seeds.unwrap_or(SEEDS);
    let small = scenario.is_none_or(|scenario| scenario.name != LARGE.name);
    let mut broken = Vec::new();
    if small {
        if !deterministic(scenario, arguments.nodes) {
            return ExitCode::FAILURE;
        }
        if scenario.is_none() {
            let again = ONCE_BROKEN
                .iter()
                .map(|(name, seed, nodes)| play(*seed, named(name), Some(*nodes), false));
            broken.extend(again);
        }
        broken.extend(timed(0..seeds, scenario, arguments.nodes));
    }
    if !small || (scenario.is_none() && arguments.seeds.is_none()) {
        let seeds = arguments.seeds.unwrap_or(LARGE_SEEDS);
        broken.extend(timed(0..seeds, Some(LARGE), arguments.nodes));
    }
    told(&broken)
}

fn timed(
    seeds: std::ops::Range<u64>,
    scenario: Option<Scenario>,
    nodes: Option<usize>,
) -> Vec<Report> {
    let began = Instant::now();
    let count = seeds.end - seeds.start;
    let (broken, events) = campaign(seeds, scenario, nodes);
    let (took, name) = (began.elapsed().as_secs_f64(), scenario.map_or("all", |s| s.name));
    println!("{count} seeds of {name}: {events} events in {took:.1} s, {} broken", broken.len());
    broken
}

/// The same seed is the same run.
fn deterministic(scenario: Option<Scenario>, nodes: Option<usize>) -> bool {
    let seeds = 0..SCENARIOS.len() as u64;
    let differ = seeds
        .into_iter()
        .find(|seed| play(*seed, scenario, nodes, false) != play(*seed, scenario, nodes, false));
    if let Some(seed) = differ {
        eprintln!("seed {seed} played twice is not the same run");
    }
    differ.is_none()
}

/// Says what broke, and how to see it again.
fn told(reports: &[Report]) -> ExitCode {
    let broken: Vec<_> = reports.iter().filter(|report| report.breach.is_some()).collect();
    for report in broken.iter().take(20) {
        let Report { scenario, seed, nodes, breach, .. } = report;
        let breach = breach.as_deref().unwrap_or_default();
        eprintln!("{scenario}, seed {seed}, {nodes} nodes: {breach}");
        eprintln!("  again: {}", replay_command(report));
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
