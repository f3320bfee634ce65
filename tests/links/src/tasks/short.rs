//! The short form, for the gate: that there is a bench, that its links are links, and that three
//! hosts behind good and bad ones answer as one node does.

use std::time::{Duration, Instant};

use super::asking::{CHAIN, CLIENT, DOOR, SPANS, Standing, ask};
use super::{Means, Outcome, TaskError, rounded};
use crate::bench::Bench;
use crate::measure::echo;
use crate::path::Link;
use crate::setting::Setting;

/// Tokens of an answer.
const TOKENS: u32 = 16;

/// Nothing here takes longer than this; what does is not as it was.
const LONGEST: Duration = Duration::from_secs(90);

/// A chain in a village and one with a bad peer in its middle; a node beside them answers alone.
///
/// # Errors
/// There is no bench, no answer, or other tokens.
pub fn short(means: &Means) -> Result<Outcome, TaskError> {
    let begun = Instant::now();
    let mut outcome = Outcome::default();
    let mut alone = None;
    for setting in [Setting::Village, Setting::OneBadPeer] {
        let places = [&CHAIN[..], &[CLIENT, DOOR, LONE]].concat();
        let root = means.root.join(setting.name());
        let bench = Bench::start(setting, &places, &root)?;
        cuts(&bench, &mut outcome)?;
        let mut hosts: Vec<_> = CHAIN.into_iter().zip(SPANS.map(Some)).collect();
        if alone.is_none() {
            hosts.push((LONE, None));
        }
        let swarm = Standing::start(&bench, means, &hosts);
        let expected = match alone.take() {
            Some(expected) => expected,
            None => ask(Some(bench.host(LONE)), &swarm.hosts[CHAIN.len()], "local", TOKENS)?.ids,
        };
        let answer = swarm.ask("chain", TOKENS)?;
        if answer.ids != expected {
            let who = format!("the chain ({})", setting.name());
            return Err(TaskError::OtherTokens(who, answer.ids, expected));
        }
        eprintln!("{}: {} tokens, as one node's", setting.name(), answer.ids.len());
        alone = Some(expected);
    }
    let seconds = begun.elapsed();
    outcome.figure("token_identical", true);
    outcome.figure("seconds", rounded(seconds.as_secs_f64()));
    if seconds > LONGEST {
        outcome.miss(format!("it took {seconds:?}"));
    }
    Ok(outcome)
}

/// Who answers alone.
const LONE: &str = "lone";

/// A cut way brings nothing, a healed one takes its time, and a changed one its new time.
fn cuts(bench: &Bench, outcome: &mut Outcome) -> Result<(), TaskError> {
    let (from, to) = ("a", "c");
    let echo = |count| echo(bench.host(from), bench.host(to), count, Duration::from_millis(5));
    let failed = |source| TaskError::Measuring { from: from.into(), to: to.into(), source };
    let near = bench.way(from, to);
    bench.cut_one_way(to, from);
    if echo(10).is_ok() {
        outcome.miss("an echo came over a cut way".to_owned());
    }
    bench.heal(from, to);
    for link in [Link::of_round_trip(60), near] {
        bench.change(from, to, link);
        let median = echo(50).map_err(failed)?.median;
        if median < link.delay * 2 || median > link.delay * 2 + AMISS {
            outcome.miss(format!("a round trip of {:?} takes {median:?}", link.delay * 2));
        }
    }
    Ok(())
}

/// What tells one length from the other, on the busiest machine.
const AMISS: Duration = Duration::from_millis(50);
