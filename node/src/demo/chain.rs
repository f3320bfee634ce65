//! A chain of hosts on this machine beside one host of the whole model, asked in turns by the same
//! client.

use std::time::{Duration, Instant};

use taimatsu_protocol::sampling::Sampling;

use super::processes::{Member, Members};
use super::{STAND, asking, split};
use crate::api_keys::ApiKeys;
use crate::cli::Global;
use crate::engine::{Event, Privacy, Prompt, Question, RouteWish};
use crate::failure::{Code, Failure};
use crate::node_client::NodeClient;

/// How often the client is asked whether it knows of a chain.
const POLL: Duration = Duration::from_millis(100);

/// What shall be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainPlan {
    /// Hosts of the chain.
    pub(crate) hops: u32,
    /// Threads of each host, and of the one beside them.
    pub(crate) threads: usize,
    /// Tokens of a run.
    pub(crate) tokens: u32,
    pub(crate) runs: u32,
}

/// Tokens a second of the chain and of the one host, run by run.
///
/// # Errors
/// A process cannot be started, an answer fails, or the two answers differ.
pub(crate) async fn rates(
    global: &Global,
    model: &str,
    plan: ChainPlan,
) -> Result<Vec<(f64, f64)>, Failure> {
    let model = crate::local::ensure_model(global, model).await?;
    let (blocks, reference) = (model.manifest().blocks, model.reference().to_owned());
    let mut spans = split(blocks, plan.hops)?;
    spans.push([0, blocks - 1]);
    let mut members = Members::new(crate::config::models(global)?)?;
    let missing = |what: &str| Failure::new(Code::Failure, what.to_owned());
    let bootstrap = members.start(Member::bootstrap()).await?;
    let door = bootstrap.addresses.first();
    let door = door.ok_or_else(|| missing("the bootstrap node has no address"))?;
    let host = |span: &[u32; 2]| Member::host(&reference, span, plan.threads, door);
    let starting = spans.iter().map(host).chain([Member::client(door)]).collect();
    let ready = members.start_all(starting).await?;
    let api = ready.last().and_then(|client| client.api.as_deref());
    let api = api.ok_or_else(|| missing("the client has no API"))?;
    asking::wait_until_covered(api, &reference, STAND, &mut members).await?;
    let client = api.parse().ok().and_then(|address| NodeClient::new(address, &ApiKeys::default()));
    let client = client.ok_or_else(|| missing("the client cannot be asked"))?;
    let ask = |route, tokens| question(&reference, route, tokens);
    wait_until_chained(&client, || ask(RouteWish::Chain, 2)).await?;
    let mut rates = Vec::new();
    for _ in 0..plan.runs {
        let chain = timed(&client, ask(RouteWish::Chain, plan.tokens)).await?;
        let whole = timed(&client, ask(RouteWish::Whole, plan.tokens)).await?;
        if chain.0 != whole.0 {
            return Err(missing("the chain's answer is not that of the one host"));
        }
        rates.push((chain.1, whole.1));
    }
    members.stop().await;
    Ok(rates)
}

async fn wait_until_chained(
    client: &NodeClient,
    question: impl Fn() -> Question,
) -> Result<(), Failure> {
    let until = Instant::now() + STAND;
    loop {
        match timed(client, question()).await {
            Ok(_) => return Ok(()),
            Err(failure) if Instant::now() > until => return Err(failure),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

fn question(model: &str, route: RouteWish, tokens: u32) -> Question {
    Question {
        id: None,
        model: model.to_owned(),
        prompt: Prompt::Ids((1..17).collect()),
        sampling: Sampling::greedy(),
        max_tokens: Some(tokens),
        stop: Vec::new(),
        ignore_eos: true,
        logprobs: None,
        route,
        privacy: Privacy::default(),
    }
}

/// An answer's ids, and its tokens a second behind the first.
async fn timed(client: &NodeClient, question: Question) -> Result<(Vec<u32>, f64), Failure> {
    let mut events = client.run(question).await?;
    let (mut ids, mut first, mut last) = (Vec::new(), None, Instant::now());
    loop {
        match events.next().await? {
            Event::Token(token) => {
                last = Instant::now();
                first = first.or(Some(last));
                ids.push(token.id);
            }
            Event::Finished(_) => break,
            Event::Failed(error) => return Err(error.into()),
            Event::Started(_) | Event::Rerouted(_) => {}
        }
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    let rate = ids.len().saturating_sub(1) as f64 / seconds.max(f64::EPSILON);
    Ok((ids, rate))
}
