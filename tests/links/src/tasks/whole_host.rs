//! Whether one host of the whole model streams at its own speed, however far it is.

use super::asking::{Answer, CLIENT, DOOR, Standing, ask};
use super::{Means, Outcome, TaskError, median, rounded};
use crate::bench::Bench;
use crate::setting::Setting;

/// Tokens of an answer: far more than are under way in a round trip.
const TOKENS: u32 = 400;

/// Answers from far, in turns with as many from near.
const ROUNDS: usize = 5;

/// What [`whole_host`] must reach of the host's own tokens a second.
const BAR: f64 = 0.95;

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
    let local = || ask(Some(bench.host(HOST)), &swarm.hosts[0], "local", TOKENS);
    swarm.ask("whole", TOKENS)?;
    local()?;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (here, there) = (local()?, swarm.ask("whole", TOKENS)?);
        if here.ids != there.ids {
            return Err(TaskError::OtherTokens("the host".to_owned(), there.ids, here.ids));
        }
        eprintln!(
            "round {}: {:.1} tokens/s from afar, the first after {:.0} ms; {:.1} tokens/s local",
            round + 1,
            there.rate,
            there.first.as_secs_f64() * 1e3,
            here.rate,
        );
        near.push(here);
        far.push(there);
    }
    let rates = |answers: &[Answer]| median(answers.iter().map(|answer| answer.rate).collect());
    let first = median(far.iter().map(|answer| answer.first.as_secs_f64() * 1e3).collect());
    // Each beside the one of its own moment: the machine is not equally fast in all.
    let pairs = near.iter().zip(&far).map(|(near, far)| far.rate / near.rate);
    let mut outcome = Outcome::default();
    outcome.figure("local_tokens_per_second", rounded(rates(&near)));
    outcome.figure("tokens_per_second", rounded(rates(&far)));
    outcome.figure("first_token_ms", rounded(first));
    outcome.bar("whole_host", median(pairs.collect()), BAR);
    Ok(outcome)
}
