//! The demo's one question, through the client's OpenAI endpoint like anybody's.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::processes::Members;
use crate::cli::{DemoArgs, Global};
use crate::failure::{Code, Failure};
use crate::node_client::http;
use crate::stdout::{print, say};

/// How often the client is asked whether the model is covered.
const POLL: Duration = Duration::from_millis(50);

/// What came of it.
pub(crate) struct DemoAnswer {
    pub(crate) model: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) route: Vec<DemoHop>,
    pub(crate) ttft_ms: f64,
    pub(crate) tokens_per_second: f64,
}

/// One hop as the answer's label shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct DemoHop {
    pub(crate) peer: String,
    pub(crate) blocks: [u32; 2],
    pub(crate) ms_per_token: f64,
}

/// The label in the last chunk.
#[derive(Debug, Deserialize)]
struct Label {
    route: Vec<DemoHop>,
    tokens: Vec<u32>,
    ttft_ms: f64,
    tokens_per_second: f64,
}

/// Waits until the client's `/health` says that a model can be answered.
pub(crate) async fn wait_until_covered(
    api: &str,
    model: &str,
    limit: Duration,
    members: &mut Members,
) -> Result<(), Failure> {
    let http = http()?;
    let until = Instant::now() + limit;
    let url = format!("http://{api}/health");
    let mut last = String::from("no answer");
    while Instant::now() < until {
        if let Some(failure) = members.dead() {
            return Err(failure);
        }
        match http.get(&url).send().await {
            Ok(reply) if reply.status().is_success() => return Ok(()),
            Ok(reply) => last = reply.text().await.unwrap_or_default(),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(POLL).await;
    }
    Err(Failure::new(Code::Swarm, format!("{model} found no hosts in {} s", limit.as_secs()))
        .because(last)
        .try_this("taimatsu demo -v"))
}

/// Asks, and streams the answer to stdout (to nowhere with `--json`). A model that does not chat
/// goes on with the prompt.
pub(crate) async fn ask(
    api: &str,
    (model, chats): (&str, bool),
    args: &DemoArgs,
    global: &Global,
) -> Result<DemoAnswer, Failure> {
    let mut body = json!({
        "model": model,
        "max_tokens": args.max_tokens,
        "temperature": 0,
        "stream": true,
        "stream_options": {"taimatsu": true},
    });
    let path = if chats { "chat/completions" } else { "completions" };
    if chats {
        body["messages"] = json!([{"role": "user", "content": args.prompt}]);
    } else {
        body["prompt"] = json!(args.prompt);
    }
    if !global.quiet && !global.json {
        crate::stderr::tell(&format!("\n  you        {}", args.prompt));
        crate::stderr::begin("  swarm      ");
    }
    let failed = |error: reqwest::Error| Failure::of(Code::Failure, "the question failed", &error);
    let url = format!("http://{api}/v1/{path}");
    let reply = http()?.post(url).json(&body).send().await.map_err(failed)?;
    if !reply.status().is_success() {
        let cause = reply.text().await.unwrap_or_default();
        return Err(Failure::new(Code::Swarm, "the question was refused").because(cause));
    }
    let mut answer = Streamed::default();
    let mut chunks = reply.bytes_stream();
    let mut pending = Vec::new();
    while let Some(chunk) = chunks.next().await {
        pending.extend_from_slice(&chunk.map_err(failed)?);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            answer.line(&String::from_utf8_lossy(&line), !global.json)?;
        }
    }
    if !global.json {
        say("")?;
        if !global.quiet && !std::io::stdout().is_terminal() {
            // The answer's line went elsewhere, and this one is still open.
            crate::stderr::tell("(on stdout)");
        }
    }
    answer.finish()
}

/// The answer as it grows.
#[derive(Default)]
struct Streamed {
    model: String,
    text: String,
    label: Option<Label>,
}

impl Streamed {
    fn line(&mut self, line: &str, show: bool) -> Result<(), Failure> {
        let Some(data) = line.trim().strip_prefix("data: ") else { return Ok(()) };
        let Ok(chunk) = serde_json::from_str::<Value>(data) else { return Ok(()) };
        if let Some(error) = chunk.get("error") {
            let cause = error["message"].as_str().unwrap_or("unknown").to_owned();
            return Err(Failure::new(Code::Swarm, "the answer broke off").because(cause));
        }
        if let Some(model) = chunk["model"].as_str() {
            model.clone_into(&mut self.model);
        }
        let choice = &chunk["choices"][0];
        if let Some(piece) = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str())
        {
            self.text.push_str(piece);
            if show {
                print(piece)?;
            }
        }
        if let Ok(label) = Label::deserialize(&chunk["taimatsu"]) {
            self.label = Some(label);
        }
        Ok(())
    }

    fn finish(self) -> Result<DemoAnswer, Failure> {
        let label = self.label.ok_or_else(|| {
            Failure::new(Code::Failure, "the answer broke off").because("its last chunk is missing")
        })?;
        Ok(DemoAnswer {
            model: self.model,
            text: self.text,
            tokens: label.tokens,
            route: label.route,
            ttft_ms: label.ttft_ms,
            tokens_per_second: label.tokens_per_second,
        })
    }
}
