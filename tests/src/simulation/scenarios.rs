//! The scenarios: how each world is made, what is done to it, and what it promises.

use std::time::Duration;

use taimatsu_executor::ModelShape;
use taimatsu_peer::routing::Wish;
use taimatsu_peer::session::Finish;
use taimatsu_protocol::{ModelId, Span};

use super::asking::{Asking, Outcome, Question, Reader};
use super::events::{Action, Model};
use super::links::Weather;
use super::luck::Luck;
use super::worker::Speed;
use super::world::{AskId, NodeId, World};

mod large;
mod losses;
mod mending;
mod quiet;
mod rush;
mod storm;

/// One kind of world.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// As `--scenario` names it.
    pub name: &'static str,
    /// Makes the world and plans what is done to it; at most so many nodes.
    pub build: fn(&mut World, usize),
    /// What it promises beside the invariants of all worlds.
    pub judge: fn(&World) -> Result<(), String>,
    /// Asks are over this long after the last thing that is done.
    pub bound: Duration,
}

/// All of at most thirty nodes; a seed picks one.
pub const SCENARIOS: [Scenario; 24] = [
    quiet::ANSWERS,
    quiet::RELAYED,
    quiet::SLOW_READER,
    quiet::CANCEL,
    quiet::REPLAY,
    rush::CROWD,
    rush::FALSE_SPEED,
    rush::FALSE_SPEED_IN_CHAIN,
    losses::VANISHES,
    losses::VANISHES_EARLY,
    losses::GAP,
    losses::PARTITION,
    losses::HALF_OPEN,
    losses::RESTART,
    losses::DRAIN,
    losses::CHURN,
    mending::MENDS,
    mending::MENDS_PAIRS,
    mending::MENDS_LATE,
    mending::WAKES,
    mending::LANE_CUT,
    mending::LANE_HALF_OPEN,
    mending::LEAVES,
    storm::STORM,
];

/// Of a thousand nodes.
pub const LARGE: Scenario = large::THOUSAND;

/// Asks end in that time whatever happens: attempts that are each found dead slowly, and one that
/// waits as long as it may.
const BOUND: Duration = Duration::from_secs(210);

/// The scenario of this name.
#[must_use]
pub fn named(name: &str) -> Option<Scenario> {
    SCENARIOS.into_iter().chain([LARGE]).find(|scenario| scenario.name == name)
}

/// The weather of a seed: from a good network to a poor one.
pub(crate) fn weather(luck: &mut Luck) -> Weather {
    Weather {
        span_micros: luck.between(2_000, 120_000),
        jitter: luck.between(0, 400),
        loss: luck.between(0, 20),
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A model of so many blocks.
fn model(world: &mut World, blocks: u32) -> usize {
    let shape = ModelShape { hidden: 2, vocab: 97, blocks, context_length: 2_048 };
    let id = ModelId::of(format!("model {}", world.models.len()).as_bytes());
    world.models.push(Model { id, shape });
    world.models.len() - 1
}

/// A model of `blocks` blocks in so many spans.
fn spans(luck: &mut Luck, blocks: u32, parts: usize) -> Vec<Span> {
    let mut cuts: Vec<u32> = (1..blocks).collect();
    while cuts.len() + 1 > parts.max(1) {
        let at = luck.below(cuts.len() as u64) as usize;
        cuts.remove(at);
    }
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([blocks]);
    let span = |(start, end)| Span::new(start..end, blocks).expect("cuts are inside the model");
    starts.zip(ends).map(span).collect()
}

fn speed(luck: &mut Luck) -> Speed {
    Speed {
        decode_micros: luck.between(1_000, 15_000),
        prefill_micros: luck.between(50, 800),
        lie: None,
        capacity: 4_096,
    }
}

/// Hosts of these spans in turn, `count` in all.
fn hosts(world: &mut World, model: usize, spans: &[Span], count: usize) -> Vec<NodeId> {
    let spans = spans.iter().copied().cycle().take(count);
    let mut hosts = Vec::with_capacity(count);
    for span in spans {
        let speed = speed(&mut world.luck);
        hosts.push(world.add_host(model, span, speed));
    }
    hosts
}

/// A question of middling size.
fn question(world: &mut World, node: NodeId, model: usize) -> Question {
    let length = match world.luck.below(8) {
        0 => world.luck.between(100, 300),
        _ => world.luck.between(1, 40),
    };
    let prompt = (0..length).map(|_| world.luck.below(97) as u32).collect();
    let max_tokens = world.luck.between(8, 40) as u32;
    Question { node, model, prompt, max_tokens, wish: Wish::Any, reader: Reader::Eager }
}

/// Asks a question at its time.
fn ask_at(world: &mut World, at: Duration, question: Question) -> AskId {
    let ask = world.question(question);
    world.act(at, Action::Ask(ask));
    ask
}

/// All of these have ended well.
fn all_done<'a>(asks: impl IntoIterator<Item = (usize, &'a Asking)>) -> Result<(), String> {
    for (number, ask) in asks {
        if ask.outcome != Some(Outcome::Done(Finish::Length)) {
            return Err(format!("ask {number} ended with {:?}", ask.outcome));
        }
    }
    Ok(())
}

fn asks(world: &World) -> impl Iterator<Item = (usize, &Asking)> {
    world.asks.iter().enumerate()
}
