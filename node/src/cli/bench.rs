//! `taimatsu bench`: how fast this machine computes a model, and how near that is to its memory.

use std::time::Instant;

use serde_json::json;
use taimatsu_executor::{
    CpuExecutor, ExecutorError, Input, KvId, LayerExecutor, Threads, Want, Work,
};
use taimatsu_protocol::Span;

use super::{BenchArgs, BenchWhat, Global};
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
    if args.sessions.is_some() && args.what != BenchWhat::Batch {
        return Err(Failure::new(Code::Usage, "--sessions is for `bench batch` alone")
            .try_this("taimatsu bench batch --sessions 8"));
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
        BenchWhat::Batch => sessions,
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
