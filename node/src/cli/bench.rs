//! `taimatsu bench`: how fast this machine computes a model, and how near that is to its memory.

use std::time::Instant;

use serde_json::json;
use taimatsu_executor::{
    CpuExecutor, ExecutorError, Input, KvId, LayerExecutor, Threads, Want, Work,
};
use taimatsu_protocol::Span;

use super::{BenchArgs, BenchWhat, Global};
use crate::demo::{self, ChainPlan};
use crate::driver::hosting::{self, LoadError};
use crate::failure::{Code, Failure, chain};
use crate::local;
use crate::stdout::say;

/// What was measured.
struct Measured {
    /// Tokens a second of each run.
    rates: Vec<f64>,
    /// Bytes of weights that are read for a token.
    bytes_per_token: f64,
    /// Bytes a second that these threads can read from memory.
    bandwidth: f64,
}

/// Runs a benchmark and prints it.
pub(super) async fn bench(global: &Global, args: BenchArgs) -> Result<(), Failure> {
    let only = |flag: &str, of: &str| {
        Err(Failure::new(Code::Usage, format!("{flag} is for `bench {of}` alone"))
            .try_this(format!("taimatsu bench {of}")))
    };
    if args.sessions.is_some() && args.what != BenchWhat::Batch {
        return only("--sessions", "batch");
    }
    if args.what == BenchWhat::Chain {
        return chain_of_hosts(global, &args).await;
    }
    if args.hops.is_some() {
        return only("--hops", "chain");
    }
    let model = local::ensure_model(global, &args.model).await?;
    let threads = match args.threads {
        Some(threads) => usize::from(threads),
        None => global.settings.threads.value as usize,
    };
    let (name, what) = (model.known.name.clone(), args.what);
    let plan = Plan {
        what,
        tokens: args.tokens.unwrap_or_else(|| what.usual()),
        sessions: if what == BenchWhat::Batch { args.sessions.unwrap_or(8) } else { 1 },
        runs: args.runs,
    };
    let work = tokio::task::spawn_blocking(move || {
        let started = Threads::start(threads).map_err(LoadError::from)?;
        let span = Span::whole(model.known.manifest.blocks).map_err(LoadError::from)?;
        let room = (plan.tokens + 1) * plan.sessions;
        let executor = hosting::load_executor(&started, &model.known, span, room)?;
        measure(&started, executor, plan).map_err(LoadError::from)
    });
    let what_failed = format!("cannot measure {name}");
    let measured = work
        .await
        .map_err(|error| Failure::of(Code::Failure, what_failed.clone(), &error))?
        .map_err(|error| Failure::new(Code::Failure, what_failed).because(chain(&error)))?;
    tell(global, &name, plan, threads, measured)
}

/// Measures a chain of processes beside one, in turns.
async fn chain_of_hosts(global: &Global, args: &BenchArgs) -> Result<(), Failure> {
    let plan = ChainPlan {
        hops: args.hops.unwrap_or(3),
        threads: args.threads.map_or(1, usize::from),
        tokens: args.tokens.unwrap_or_else(|| args.what.usual()),
        runs: args.runs,
    };
    let rates = demo::rates(global, &args.model, plan).await?;
    let ratio = median(rates.iter().map(|(chain, one)| chain / one));
    let chain = median(rates.iter().map(|(chain, _)| *chain));
    let one = median(rates.iter().map(|(_, one)| *one));
    let ChainPlan { hops, threads, tokens, runs } = plan;
    if global.json {
        return say(json!({
            "schema_version": 1,
            "model": args.model,
            "what": args.what.word(),
            "hops": hops,
            "threads": threads,
            "tokens": tokens,
            "runs": runs,
            "ratio_to_one_node": ratio,
            "tokens_per_second": chain,
            "one_node_tokens_per_second": one,
        }));
    }
    say(format!(
        "{}: {hops} hosts of {threads} threads each: {chain:.1} tokens/s; one host of all blocks: \
         {one:.1}; {ratio:.2} of it (medians of {runs} runs of {tokens} tokens, in turns)",
        args.model,
    ))
}

/// The middle one; of an even number the upper.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// What shall be measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    what: BenchWhat,
    /// Of each session.
    tokens: u32,
    sessions: u32,
    runs: u32,
}

fn measure(
    threads: &Threads,
    mut executor: CpuExecutor,
    plan: Plan,
) -> Result<Measured, ExecutorError> {
    let Plan { what, tokens, sessions, runs } = plan;
    let vocab = executor.shape().vocab;
    let ids: Vec<u32> = (0..tokens).map(|index| index * 31 % vocab.min(500)).collect();
    let span = executor.span();
    let kvs =
        (0..sessions).map(|_| executor.open(tokens + 1, span)).collect::<Result<Vec<_>, _>>()?;
    // Once before, so that weights and pages are in memory.
    step(&mut executor, &kvs, 0, &ids[..ids.len().min(16)])?;
    let mut rates = Vec::new();
    for _ in 0..runs {
        kvs.iter().try_for_each(|kv| executor.truncate(*kv, 0))?;
        let decodes = what != BenchWhat::Prefill;
        if decodes {
            step(&mut executor, &kvs, 0, &ids[..1])?;
        }
        let began = Instant::now();
        if decodes {
            for (position, id) in (1..).zip(&ids) {
                step(&mut executor, &kvs, position, &[*id])?;
            }
        } else {
            step(&mut executor, &kvs, 0, &ids)?;
        }
        rates.push(f64::from(tokens * sessions) / began.elapsed().as_secs_f64());
    }
    let at_once = match what {
        BenchWhat::Decode => 1,
        BenchWhat::Prefill => tokens,
        BenchWhat::Batch | BenchWhat::Chain => sessions,
    };
    let bytes_per_token = executor.weight_bytes() as f64 / f64::from(at_once);
    Ok(Measured { rates, bytes_per_token, bandwidth: threads.bandwidth() })
}

/// The same ids for all sessions, each with its own KV.
fn step(
    executor: &mut CpuExecutor,
    kvs: &[KvId],
    start: u32,
    ids: &[u32],
) -> Result<(), ExecutorError> {
    let work =
        |kv: &KvId| Work { kv: *kv, start, input: Input::Tokens(ids), want: Want::LastLogits };
    let works: Vec<Work<'_>> = kvs.iter().map(work).collect();
    executor.step(&works).into_iter().try_for_each(|answer| answer.map(drop))
}

fn tell(
    global: &Global,
    model: &str,
    plan: Plan,
    threads: usize,
    measured: Measured,
) -> Result<(), Failure> {
    let Plan { what, tokens, sessions, .. } = plan;
    let Measured { mut rates, bytes_per_token, bandwidth } = measured;
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    let (least, most) = (rates[0], rates[rates.len() - 1]);
    let share = bytes_per_token * median / bandwidth;
    if global.json {
        return say(json!({
            "schema_version": 1,
            "model": model,
            "what": what.word(),
            "tokens": tokens,
            "sessions": sessions,
            "tokens_per_second": median,
            "spread": [least, most],
            "threads": threads,
            "runs": rates.len(),
            "bytes_per_token": bytes_per_token,
            "bandwidth": bandwidth,
            "share_of_bandwidth": share,
        }));
    }
    let many =
        if sessions > 1 { format!(" in each of {sessions} sessions") } else { String::new() };
    let all = if sessions > 1 { " in all" } else { "" };
    say(format!(
        "{model}: {} of {tokens} tokens{many} on {threads} threads: {median:.1} tokens/s{all} ({least:.1} to \
         {most:.1} in {} runs)",
        what.word(),
        rates.len(),
    ))?;
    say(format!(
        "weights read at {:.1} GB/s, {:.0} % of the {:.1} GB/s that these threads read from memory",
        bytes_per_token * median / 1e9,
        share * 100.0,
        bandwidth / 1e9,
    ))
}
