//! `taimatsu demo`: a bootstrap node, three hosts and a client, each a process with its own key
//! and home, that meet through the DHT alone; one question; one answer.

use std::time::Duration;

use serde_json::{Value, json};

use taimatsu_model::catalogue::SMOLLM2_135M;

use crate::cli::{DemoArgs, Global};
use crate::failure::{Code, Failure};
use crate::stages::{Stages, short};
use crate::stdout::say;

mod asking;
mod chain;
mod processes;

pub(crate) use chain::{ChainPlan, rates};

use processes::{Member, Members};
pub(crate) use processes::{Ready, Starting, end_with_parent, is_over};

/// How long the swarm may take to stand. Loading takes a second or two; the rest is for slow disks.
const STAND: Duration = Duration::from_secs(90);

/// Hosts of the demo.
const HOSTS: u32 = 3;

/// Runs the demo to its end; with `--keep`, until Ctrl-C.
///
/// # Errors
/// Whatever stands in the way, named; nothing is left behind in any case.
pub(crate) async fn demo(global: &Global, args: DemoArgs) -> Result<(), Failure> {
    let stages = Stages::start(global.quiet);
    let stop = crate::signals::stop();
    tokio::pin!(stop);
    let mut stood = tokio::select! {
        stood = play(global, &args, &stages) => stood?,
        () = &mut stop => {
            return Err(Failure::new(Code::Interrupted, "stopped").because("Ctrl-C"));
        }
    };
    if args.keep {
        how_to_use(&stages, &stood, &args.model);
        tokio::select! {
            () = &mut stop => stages.line("  stopped"),
            failure = stood.members.first_dead() => {
                stood.members.stop().await;
                return Err(failure);
            }
        }
    }
    stood.members.stop().await;
    Ok(())
}

/// A swarm that has answered.
struct Stood {
    members: Members,
    /// Where the client's API is.
    api: String,
    /// Where the bootstrap node is.
    door: String,
    /// The model has a chat template.
    chats: bool,
}

async fn play(global: &Global, args: &DemoArgs, stages: &Stages) -> Result<Stood, Failure> {
    let model = crate::local::ensure_model(global, &args.model).await?;
    let blocks = model.manifest().blocks;
    stages.done("model", &format!("{} · {} blocks · stored", model.name(), blocks));
    let spans = split(blocks, HOSTS)?;
    let missing = |what: &str| Failure::new(Code::Failure, what.to_owned());
    let mut members = Members::new(crate::config::models(global)?)?;
    let bootstrap = members.start(Member::bootstrap()).await?;
    stages.done("bootstrap", &format!("{} · its own process", short(&bootstrap.peer)));
    let door = bootstrap.addresses.first().cloned();
    let door = door.ok_or_else(|| missing("the bootstrap node has no address"))?;
    let reference = model.reference().to_owned();
    let mut starting: Vec<Member> =
        spans.iter().map(|span| Member::host(&reference, span, 1, &door)).collect();
    starting.push(Member::client(&door));
    let ready = members.start_all(starting).await?;
    for (member, span) in ready.iter().zip(&spans) {
        stages.done("host", &format!("{} · blocks {}-{}", short(&member.peer), span[0], span[1]));
    }
    let client = ready.last().ok_or_else(|| missing("the client did not start"))?;
    let api = client.api.clone().ok_or_else(|| missing("the client has no API"))?;
    stages.done("client", &format!("{} · hosts nothing · http://{api}/v1", short(&client.peer)));
    asking::wait_until_covered(&api, &reference, STAND, &mut members).await?;
    stages.done("swarm", "every block has a host; they met through the DHT");
    let chats = model.manifest().template.is_some();
    let answer = asking::ask(&api, (&reference, chats), args, global).await?;
    stages.done("answer", &format!("{} tokens", answer.tokens.len()));
    if global.json {
        say(report(args, &answer))?;
    } else {
        explain(stages, &answer, args, chats);
    }
    Ok(Stood { members, api, door, chats })
}

/// Shares `blocks` among `hosts`: consecutive inclusive spans, the first ones not smaller.
fn split(blocks: u32, hosts: u32) -> Result<Vec<[u32; 2]>, Failure> {
    if blocks < hosts {
        let what = format!("a model of {blocks} blocks cannot be split over {hosts} hosts");
        return Err(Failure::new(Code::Usage, what).try_this("taimatsu run MODEL PROMPT"));
    }
    let ends = |host: u32| (host * blocks).div_ceil(hosts);
    Ok((0..hosts).map(|host| [ends(host), ends(host + 1) - 1]).collect())
}

fn report(args: &DemoArgs, answer: &asking::DemoAnswer) -> Value {
    json!({
        "schema_version": 1,
        "model": answer.model,
        "prompt": args.prompt,
        "answer": answer.text,
        "tokens": answer.tokens,
        "route": answer.route.iter().map(|hop| json!({
            "peer": hop.peer,
            "blocks": hop.blocks,
            "ms_per_token": hop.ms_per_token,
        })).collect::<Vec<_>>(),
        "ttft_ms": answer.ttft_ms,
        "tokens_per_second": answer.tokens_per_second,
        "sealed": true,
    })
}

fn explain(stages: &Stages, answer: &asking::DemoAnswer, args: &DemoArgs, chats: bool) {
    stages.line("");
    stages.line("  route      host      blocks   ms/token   what it could see");
    let last = answer.route.len().saturating_sub(1);
    for (number, hop) in answer.route.iter().enumerate() {
        let sees = match number {
            0 => "your prompt and the answer, as token ids",
            _ if number == last => "your prompt and the answer, as token ids",
            _ => "activations, from which both can be rebuilt",
        };
        let [first, end] = hop.blocks;
        let name = short(&hop.peer);
        stages.line(&format!(
            "             {name:<9} {first:>2}-{end:<5} {:>8.1}   {sees}",
            hop.ms_per_token
        ));
    }
    stages.line("             bootstrap: who talked to whom; nothing of the text");
    stages.line(&format!(
        "  figures    first token after {:.0} ms · {:.1} tokens/s · sealed hop by hop",
        answer.ttft_ms, answer.tokens_per_second
    ));
    stages.line("");
    if !args.keep {
        let (me, model) = (crate::config::invocation(), &args.model);
        let last_of_first = answer.route.first().map_or(0, |hop| hop.blocks[1]);
        let raw = if chats { "" } else { "--raw " };
        if !chats {
            stages.line(&format!(
                "  note       {model} has no chat template: it goes on with a text"
            ));
        }
        let same =
            if *model == SMOLLM2_135M.name { String::new() } else { format!(" --model {model}") };
        stages.line(&format!("  go on      {me} demo --keep{same}"));
        stages.line("                 the same, left running");
        stages.line(&format!("             {me} run {raw}{model} \"Name three rivers\""));
        stages.line("                 in one process");
        stages.line(&format!("             {me} up --serve {model}@0-{}", last_of_first));
        stages.line("                 a host of your own; README.md says how to join it to others");
    }
}

fn how_to_use(stages: &Stages, stood: &Stood, model: &str) {
    let Stood { members, api, door, chats } = stood;
    let swarm = members.swarm();
    let (path, asked) = match chats {
        true => ("chat/completions", r#""messages":[{"role":"user","content":"Hello"}]"#),
        false => ("completions", r#""prompt":"Once upon a time""#),
    };
    stages.line(&format!("  running    API        http://{api}/v1"));
    stages.line(&format!("             bootstrap  {door}"));
    stages.line(&format!(
        "  try        curl http://{api}/v1/{path} -H 'content-type: application/json' \\"
    ));
    stages.line(&format!("               -d '{{\"model\":\"{model}\",{asked}}}'"));
    stages.line(&format!("  join       taimatsu up --swarm {swarm} --bootstrap {door}"));
    stages.line("  stop       Ctrl-C");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_shared_without_gap_or_overlap() {
        assert_eq!(split(30, 3).unwrap(), [[0, 9], [10, 19], [20, 29]]);
        for blocks in 3..40 {
            let spans = split(blocks, 3).unwrap();
            assert_eq!((spans[0][0], spans[2][1]), (0, blocks - 1));
            assert!(spans.windows(2).all(|pair| pair[0][1] + 1 == pair[1][0]));
            assert!(spans.iter().all(|span| span[0] <= span[1]));
        }
        assert!(split(2, 3).is_err());
    }
}
