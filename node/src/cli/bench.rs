//! `taimatsu bench`: how fast this machine computes a model, and how near that is to its memory.

use std::time::Instant;

use serde_json::json;
use taimatsu_executor::{CpuExecutor, Input, KvId, LayerExecutor, Output, Threads, Want, Work};
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
    let model = local::ensure_model(global, &args.model).await?;
    let threads = match args.threads {
        Some(threads) => usize::from(threads),
        None => global.settings.threads.value as usize,
    };
    let (name, what, runs) = (model.known.name.clone(), args.what, args.runs);
    let tokens = args.tokens.unwrap_or_else(|| what.usual());
    let work = tokio::task::spawn_blocking(move || {
        let started = Threads::start(threads).map_err(LoadError::from)?;
        let span = Span::whole(model.known.manifest.blocks).map_err(LoadError::from)?;
        let executor = hosting::load_executor(&started, &model.known, span, tokens + 1)?;
        measure(&started, executor, what, tokens, runs).map_err(LoadError::from)
    });
    let what_failed = format!("cannot measure {name}");
    let measured = work
        .await
        .map_err(|error| Failure::of(Code::Failure, what_failed.clone(), &error))?
        .map_err(|error| Failure::new(Code::Failure, what_failed).because(chain(&error)))?;
    tell(global, &name, args.what, (threads, tokens), measured)
}

fn measure(
    threads: &Threads,
    mut executor: CpuExecutor,
    what: BenchWhat,
    tokens: u32,
    runs: u32,
) -> Result<Measured, taimatsu_executor::ExecutorError> {
    let vocab = executor.shape().vocab;
    let ids: Vec<u32> = (0..tokens).map(|index| index * 31 % vocab.min(500)).collect();
    let kv = executor.open(tokens + 1, executor.span())?;
    // Once before, so that weights and pages are in memory.
    step(&mut executor, kv, 0, &ids[..ids.len().min(16)])?;
    let mut rates = Vec::new();
    for _ in 0..runs {
        let mut before = 0;
        executor.truncate(kv, 0)?;
        if what == BenchWhat::Decode {
            step(&mut executor, kv, 0, &ids[..1])?;
            before = 1;
        }
        let began = Instant::now();
        match what {
            BenchWhat::Prefill => step(&mut executor, kv, 0, &ids)?,
            BenchWhat::Decode => {
                for (position, id) in (before..).zip(&ids) {
                    step(&mut executor, kv, position, &[*id])?;
                }
            }
        }
        rates.push(f64::from(tokens) / began.elapsed().as_secs_f64());
    }
    let bytes = executor.weight_bytes() as f64;
    let bytes_per_token = match what {
        BenchWhat::Decode => bytes,
        BenchWhat::Prefill => bytes / f64::from(tokens),
    };
    Ok(Measured { rates, bytes_per_token, bandwidth: threads.bandwidth() })
}

fn step(
    executor: &mut CpuExecutor,
    kv: KvId,
    start: u32,
    ids: &[u32],
) -> Result<(), taimatsu_executor::ExecutorError> {
    let work = Work { kv, start, input: Input::Tokens(ids), want: Want::LastLogits };
    executor.step(&[work]).pop().unwrap_or(Ok(Output::Nothing)).map(drop)
}

fn tell(
    global: &Global,
    model: &str,
    what: BenchWhat,
    (threads, tokens): (usize, u32),
    measured: Measured,
) -> Result<(), Failure> {
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
            "tokens_per_second": median,
            "spread": [least, most],
            "threads": threads,
            "runs": rates.len(),
            "bytes_per_token": bytes_per_token,
            "bandwidth": bandwidth,
            "share_of_bandwidth": share,
        }));
    }
    say(format!(
        "{model}: {} of {tokens} tokens on {threads} threads: {median:.1} tokens/s ({least:.1} to \
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
