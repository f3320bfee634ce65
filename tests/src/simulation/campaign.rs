//! Many runs, each by its seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::luck::Luck;
use super::scenarios::{self, LARGE, SCENARIOS, Scenario};
use super::world::World;

/// Quiet after the last answer: longer than the longest silence that a host bears.
const REST: Duration = Duration::from_secs(16);

/// The most nodes of a small world.
const SMALL: u64 = 30;

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which scenario.
    pub scenario: &'static str,
    /// Which seed.
    pub seed: u64,
    /// How many nodes it was given.
    pub nodes: usize,
    /// Equal for equal runs.
    pub hash: u64,
    /// Events.
    pub events: u64,
    /// What was broken.
    pub breach: Option<String>,
}

/// The scenario that a seed picks.
fn picked(seed: u64) -> Scenario {
    SCENARIOS[(seed % SCENARIOS.len() as u64) as usize]
}

/// Plays one seed; a scenario and a number of nodes may be given.
#[must_use]
pub fn play(seed: u64, scenario: Option<Scenario>, nodes: Option<usize>, aloud: bool) -> Report {
    let scenario = scenario.unwrap_or_else(|| picked(seed));
    let mut luck = Luck::of(seed ^ 0x7461_696d_6174_7375);
    let weather = scenarios::weather(&mut luck);
    let drawn = luck.between(4, SMALL) as usize;
    let nodes = nodes.unwrap_or(if scenario.name == LARGE.name { 1_000 } else { drawn });
    let mut world = World::new(seed, weather, aloud);
    let played = catch_unwind(AssertUnwindSafe(|| {
        (scenario.build)(&mut world, nodes);
        world.run(scenario.bound, REST).and_then(|()| (scenario.judge)(&world))
    }));
    let breach = match played {
        Ok(played) => played.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    let (hash, events) = (world.trace.hash(), world.trace.events());
    Report { scenario: scenario.name, seed, nodes, hash, events, breach }
}

/// How to see a run again.
#[must_use]
pub fn replay_command(report: &Report) -> String {
    let Report { scenario, seed, nodes, .. } = report;
    format!(
        "cargo test -p taimatsu-tests --test simulation -- --seed {seed} --scenario {scenario} \
         --nodes {nodes}"
    )
}

/// Plays these seeds on as many threads as there are processors; the runs that broke something,
/// by seed, and how many events there were.
#[must_use]
pub fn campaign(
    seeds: std::ops::Range<u64>,
    scenario: Option<Scenario>,
    nodes: Option<usize>,
) -> (Vec<Report>, u64) {
    let next = AtomicU64::new(seeds.start);
    let events = AtomicU64::new(0);
    let broken = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = play(seed, scenario, nodes, false);
                    events.fetch_add(report.events, Ordering::Relaxed);
                    if report.breach.is_some() {
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                    }
                }
            });
        }
    });
    let mut broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    broken.sort_by_key(|report| report.seed);
    (broken, events.into_inner())
}
