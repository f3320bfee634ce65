//! `taimatsu run` and `score`: through the node here, or in this process.

use std::io::Read;

use serde_json::{Value, json};
use taimatsu_protocol::Sampling;

use super::{Global, RouteArg, RunArgs, ScoreArgs, client};
use crate::engine::{
    Event, FinishReason, Finished, HopReport, Message, Prompt, Question, RouteReport, RouteWish,
    Score, Scores, Scoring,
};
use crate::failure::{Code, Failure};
use crate::local::{self, absolute};
use crate::local_engine::LocalEngine;
use crate::node_client::NodeClient;
use crate::stdout::{print, say};

/// The longest prompt that is read from stdin, in bytes.
const MAX_STDIN: u64 = 8 << 20;

/// Answers one question.
pub(super) async fn run(global: &Global, args: RunArgs) -> Result<(), Failure> {
    let seed = args.seed.unwrap_or_else(crate::entropy::told_seed);
    let question = question(global, &args, seed)?;
    let mut printer = Printer::new(global, seed);
    match client::find_node(global).await? {
        Some(node) => match ask_node(&node, question.clone(), &mut printer).await {
            // Nothing was printed yet, and the asker did not insist on a route.
            Err(failure)
                if printer.is_untouched()
                    && may_compute_here(global, &failure, &args.model, args.route) =>
            {
                tell(global, &failure);
                ask_here(global, question, printer).await
            }
            outcome => outcome,
        },
        None if args.route.is_some() => Err(client::no_node(global)),
        None => ask_here(global, question, printer).await,
    }
}

/// Prints the best continuations of each id.
pub(super) async fn score(global: &Global, args: ScoreArgs) -> Result<(), Failure> {
    let top = args.top as usize;
    let node = client::find_node(global).await?;
    let scores = match node {
        Some(node) if args.route.is_some() || top <= taimatsu_protocol::opening::MAX_TOP => {
            let scoring = Scoring {
                model: absolute(&args.model),
                ids: args.ids.clone(),
                top,
                route: args.route.map_or(RouteWish::Any, RouteWish::from),
                privacy: args.privacy.unwrap_or(global.settings.privacy.value).into(),
            };
            match node.score(&scoring).await {
                Err(failure) if may_compute_here(global, &failure, &args.model, args.route) => {
                    tell(global, &failure);
                    score_here(global, &args).await?
                }
                outcome => outcome?,
            }
        }
        None if args.route.is_some() => return Err(client::no_node(global)),
        _ => score_here(global, &args).await?,
    };
    print_scores(global, &args.ids, &scores)
}

async fn score_here(global: &Global, args: &ScoreArgs) -> Result<Scores, Failure> {
    let model = local::ensure_model(global, &args.model).await?;
    let engine = LocalEngine::new(model.known, global.settings.threads.value as usize);
    Ok(engine.score(args.ids.clone(), args.top as usize).await?)
}

fn print_scores(global: &Global, ids: &[u32], scores: &Scores) -> Result<(), Failure> {
    if global.json {
        let json = |row: &Score| json!({ "top": row.top, "next": row.next });
        let positions: Vec<Value> = scores.rows.iter().map(json).collect();
        return say(json!({"schema_version": 1, "positions": positions}));
    }
    for (id, Score { top, .. }) in ids.iter().zip(&scores.rows) {
        let best: Vec<String> =
            top.iter().map(|(id, logprob)| format!("{id} {logprob:.4}")).collect();
        say(format!("{id:>7}  {}", best.join("  ")))?;
    }
    Ok(())
}

fn question(global: &Global, args: &RunArgs, seed: u64) -> Result<Question, Failure> {
    let prompt = match (&args.prompt_ids, &args.prompt) {
        (Some(ids), _) => Prompt::Ids(ids.clone()),
        (None, Some(text)) => {
            let text = if text == "-" { read_stdin()? } else { text.clone() };
            if args.raw {
                Prompt::Raw(text)
            } else {
                Prompt::Chat(vec![Message { role: "user".into(), content: text }])
            }
        }
        (None, None) => return Err(Failure::new(Code::Usage, "there is no prompt")),
    };
    Ok(Question {
        id: None,
        model: absolute(&args.model),
        prompt,
        sampling: Sampling {
            repeat_penalty: args.repeat_penalty,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            seed,
            choice: 0,
        },
        max_tokens: Some(args.max_tokens),
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        logprobs: None,
        route: args.route.map_or(RouteWish::Any, RouteWish::from),
        privacy: args.privacy.unwrap_or(global.settings.privacy.value).into(),
    })
}

fn read_stdin() -> Result<String, Failure> {
    read_prompt(std::io::stdin())
}

fn read_prompt(from: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(MAX_STDIN + 1).read_to_string(&mut text).map_err(|error| {
        Failure::of(Code::Usage, "the prompt on stdin cannot be read", &error)
            .try_this("UTF-8 text on stdin")
    })?;
    if text.len() as u64 > MAX_STDIN {
        return Err(Failure::new(Code::Usage, "the prompt on stdin is too long")
            .because(format!("it has more than {MAX_STDIN} bytes"))
            .try_this("a shorter prompt"));
    }
    Ok(text)
}

async fn ask_here(
    global: &Global,
    mut question: Question,
    mut printer: Printer,
) -> Result<(), Failure> {
    let model = local::ensure_model(global, &question.model).await?;
    model.reference().clone_into(&mut question.model);
    let engine = LocalEngine::new(model.known, global.settings.threads.value as usize);
    let mut answer = engine.ask(question).await?;
    let mut taken = 0;
    while let Some(event) = answer.events.recv().await {
        if matches!(event, Event::Token(_)) {
            taken += 1;
            let _ = answer.consumed.send(taken);
        }
        if printer.event(event)? {
            return Ok(());
        }
    }
    Err(Failure::new(Code::Failure, "the answer broke off").because("its task ended"))
}

async fn ask_node(
    node: &NodeClient,
    question: Question,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut events = node.run(question).await?;
    while !printer.event(events.next().await?)? {}
    Ok(())
}

/// Whether this process answers in the swarm's place: the asker did not insist on a route, and
/// the weights are here. Nothing is downloaded for it.
fn may_compute_here(
    global: &Global,
    failure: &Failure,
    model: &str,
    route: Option<RouteArg>,
) -> bool {
    let stored = || local::store(global).is_ok_and(|store| store.resolve(model).is_ok());
    route.is_none() && failure.code == Code::Swarm && stored()
}

fn tell(global: &Global, failure: &Failure) {
    if !global.quiet {
        crate::stderr::tell(&format!("note: {}; computing in this process", failure.what()));
    }
}

/// The answer on its way to stdout: as it comes, or as one object at the end.
struct Printer {
    json: bool,
    verbose: bool,
    quiet: bool,
    seed: u64,
    model: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
}

impl Printer {
    fn new(global: &Global, seed: u64) -> Self {
        Self {
            json: global.json,
            verbose: global.verbose > 0,
            quiet: global.quiet,
            seed,
            model: String::new(),
            prompt_tokens: Vec::new(),
            tokens: Vec::new(),
            text: String::new(),
        }
    }

    fn is_untouched(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Takes an event in; true when it was the last.
    fn event(&mut self, event: Event) -> Result<bool, Failure> {
        match event {
            Event::Started(started) => {
                self.model = started.model;
                self.prompt_tokens = started.prompt_tokens;
            }
            Event::Rerouted(_) => {}
            Event::Token(token) => {
                self.tokens.push(token.id);
                self.show(&token.text)?;
            }
            Event::Finished(finished) => {
                self.show(&finished.text)?;
                self.finish(&finished)?;
                return Ok(true);
            }
            Event::Failed(error) => {
                if !self.json && !self.is_untouched() {
                    say("")?;
                }
                return Err(error.into());
            }
        }
        Ok(false)
    }

    fn show(&mut self, text: &str) -> Result<(), Failure> {
        self.text.push_str(text);
        if self.json || text.is_empty() {
            return Ok(());
        }
        print(text)
    }

    fn finish(&self, finished: &Finished) -> Result<(), Failure> {
        if self.json {
            let route: Vec<Value> = finished.report.hops.iter().map(hop_json).collect();
            return print(&format!(
                "{}\n",
                json!({
                    "schema_version": 1,
                    "model": self.model,
                    "prompt_tokens": self.prompt_tokens,
                    "tokens": self.tokens,
                    "text": self.text,
                    "finish_reason": finished.reason.word(),
                    "seed": self.seed,
                    "route": route,
                    "ttft_ms": finished.report.ttft_ms,
                    "tokens_per_second": finished.report.tokens_per_second,
                })
            ));
        }
        print("\n")?;
        if self.verbose && !self.quiet {
            crate::stderr::tell(&figures(finished, self.tokens.len(), self.seed));
        }
        Ok(())
    }
}

fn figures(finished: &Finished, tokens: usize, seed: u64) -> String {
    let RouteReport { hops, ttft_ms, tokens_per_second, .. } = &finished.report;
    let route: Vec<String> = hops
        .iter()
        .map(|hop| format!("{}[{}]", crate::stages::short(&hop.peer), hop.span))
        .collect();
    let route = if route.is_empty() { "this process".to_owned() } else { route.join(" → ") };
    let cut = if finished.reason == FinishReason::Length { " · cut at --max-tokens" } else { "" };
    format!(
        "route {route} · first token after {ttft_ms:.0} ms · {tokens_per_second:.1} tokens/s · \
         {tokens} tokens · seed {seed}{cut}"
    )
}

/// A hop as JSON shows it.
fn hop_json(hop: &HopReport) -> Value {
    json!({
        "peer": hop.peer,
        "blocks": hop.span.inclusive(),
        "ms_per_token": hop.ms_per_token,
        "direct_frames": hop.direct_frames,
        "relayed_frames": hop.relayed_frames,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_read_whole_or_refused() {
        let most = usize::try_from(MAX_STDIN).unwrap();
        assert_eq!(read_prompt(&*vec![b'a'; most]).unwrap().len(), most);
        assert!(read_prompt(&*vec![b'a'; most + 1]).unwrap_err().to_string().contains("too long"));
    }
}
