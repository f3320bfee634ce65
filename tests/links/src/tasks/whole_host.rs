//! Whether one host of the whole model streams at its own speed, however far it is.

use super::asking::{Answer, CLIENT, DOOR, Standing, ask};
use super::{Means, Outcome, TaskError, median, rounded};
use crate::bench::Bench;
use crate::path::Link;
use crate::setting::Setting;

/// Tokens of an answer: far more than are under way in a round trip.
const TOKENS: u32 = 400;

/// Answers from afar, in turns with as many from near and from its own machine.
const ROUNDS: usize = 9;

/// What [`whole_host`] must reach of the host's own tokens a second.
const BAR: f64 = 0.95;

/// As near as hosts of one place are.
const BESIDE: Link = Link::of_round_trip(5);

/// A host at `c`, a client at `a`'s place: a round trip of 150 ms between them.
const HOST: &str = "c";

/// One stream from a host of the whole model, a round trip of 150 ms away, beside what the same
/// host streams to who asks it on its own machine.
///
/// # Errors
/// There is no bench, or no answer.
pub fn whole_host(means: &Means) -> Result<Outcome, TaskError> {
    let bench = Bench::start(Setting::ThreeContinents, &[HOST, CLIENT, DOOR], &means.root)?;
    let swarm = Standing::start(&bench, means, &[(HOST, None)]);
    let distance = bench.way(HOST, CLIENT);
    let ask_from = |link| {
        bench.change(HOST, CLIENT, link);
        swarm.ask("whole", TOKENS)
    };
    let local = || ask(Some(bench.host(HOST)), &swarm.hosts[0], "local", TOKENS);
    ask_from(distance)?;
    local()?;
    let (mut own, mut near, mut far) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (here, beside, there) = (local()?, ask_from(BESIDE)?, ask_from(distance)?);
        if here.ids != there.ids {
            return Err(TaskError::OtherTokens("the host".to_owned(), there.ids, here.ids));
        }
        eprintln!(
            "round {}: {:.1} tokens/s from afar, the first after {:.0} ms; {:.1} from near, {:.1} \
             from its own machine",
            round + 1,
            there.rate,
            there.first.as_secs_f64() * 1e3,
            beside.rate,
            here.rate,
        );
        own.push(here);
        near.push(beside);
        far.push(there);
    }
    // The least disturbed of each: another program's turn on the cores makes a round slow, and
    // nothing makes it fast.
    let best = |answers: &[Answer]| answers.iter().map(|answer| answer.rate).fold(0.0, f64::max);
    let first = median(far.iter().map(|answer| answer.first.as_secs_f64() * 1e3).collect());
    let pairs = |of: &[Answer], to: &[Answer]| {
        median(of.iter().zip(to).map(|(of, to)| of.rate / to.rate).collect())
    };
    let mut outcome = Outcome::default();
    outcome.figure("local_tokens_per_second", rounded(best(&own)));
    outcome.figure("tokens_per_second", rounded(best(&far)));
    outcome.figure("first_token_ms", rounded(first));
    // What of it is the distance, and what comes with any other machine.
    outcome.figure("far_to_near", rounded(best(&far) / best(&near)));
    outcome.figure("near_to_local", rounded(best(&near) / best(&own)));
    outcome.figure("whole_host_median", rounded(pairs(&far, &own)));
    outcome.bar("whole_host", best(&far) / best(&own), BAR);
    Ok(outcome)
}
