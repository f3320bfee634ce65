//! How near a chain over three continents comes to one token a lap.

use serde_json::json;

use super::asking::{CHAIN, CLIENT, DOOR, Near, SPANS, Standing};
use super::{Means, Outcome, TaskError, median, rounded};
use crate::bench::Bench;
use crate::setting::Setting;

/// Tokens of an answer: some eight seconds of laps.
const TOKENS: u32 = 64;

/// Answers over the links, in turns with as many on loopback.
const ROUNDS: usize = 3;

/// What [`lap`] must reach, of one token in the time of a lap and its computing.
const BAR: f64 = 0.9;

/// One stream through three hosts of a third of the model each, none of them on one continent with
/// another. The lap is what the links are set to, computing what the same chain takes on loopback.
///
/// # Errors
/// There is no bench, or no answer.
pub fn lap(means: &Means) -> Result<Outcome, TaskError> {
    let setting = Setting::ThreeContinents;
    let places = [&CHAIN[..], &[CLIENT, DOOR]].concat();
    let bench = Bench::start(setting, &places, &means.root)?;
    let near = Near::start(means);
    let spans: Vec<_> = CHAIN.into_iter().zip(SPANS.map(Some)).collect();
    let far = Standing::start(&bench, means, &spans);
    let (mut loopback, mut rates, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
    // The first one of each stands for finding and connecting.
    near.ask(TOKENS)?;
    far.ask("chain", TOKENS)?;
    for round in 0..ROUNDS {
        let here = near.ask(TOKENS)?;
        let there = far.ask("chain", TOKENS)?;
        if here.ids != there.ids {
            return Err(TaskError::OtherTokens("the chain".to_owned(), there.ids, here.ids));
        }
        eprintln!(
            "round {}: {:.2} tokens/s, the first after {:.0} ms; on loopback {:.1} tokens/s; {}",
            round + 1,
            there.rate,
            there.first.as_secs_f64() * 1e3,
            here.rate,
            there.report["hops"],
        );
        loopback.push(1.0 / here.rate);
        rates.push(there.rate);
        firsts.push(there.first.as_secs_f64() * 1e3);
    }
    let (lap, compute) = (setting.lap(&CHAIN).as_secs_f64(), median(loopback));
    let rate = median(rates);
    let mut outcome = Outcome::default();
    outcome.figure("lap_ms", lap * 1e3);
    outcome.figure("compute_ms", rounded(compute * 1e3));
    outcome.figure("first_token_ms", rounded(median(firsts)));
    outcome.figure("tokens_per_second", rounded(rate));
    outcome.bar("lap", rate * (lap + compute), BAR);
    let late = bench.lateness();
    let delivered = bench.counts().delivered;
    outcome.figure(
        "router",
        json!({
            "delivered": delivered,
            "late_us_mean": rounded(late.sum.as_secs_f64() * 1e6 / delivered.max(1) as f64),
        }),
    );
    Ok(outcome)
}
