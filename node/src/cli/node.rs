//! `taimatsu up`: this machine's node in the foreground; and the demo's processes.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde_json::json;
use taimatsu_bootstrap as bootstrap;
use taimatsu_executor::ExecutorLimits;
use taimatsu_model::catalogue;
use taimatsu_network::Multiaddr;
use taimatsu_protocol::{PeerId, SwarmId};

use super::{DemoNodeArgs, Global, UpArgs};
use crate::api::access::Access;
use crate::api_keys::ApiKeys;
use crate::demo::{Ready, Starting, end_with_parent, is_over};
use crate::failure::{Code, Failure};
use crate::home::{Home, NodeNote};
use crate::local::{self, LocalModel};
use crate::node::{Node, NodeConfig, Offer, bind_api};
use crate::stages::Stages;
use crate::stdout::say;
use crate::{api, config};

/// File descriptors that a node may need: two for each connection, and files.
const DESCRIPTORS: u64 = 8_192;

/// Runs a node until it is told to stop.
pub(super) async fn up(global: &Global, args: UpArgs) -> Result<(), Failure> {
    let stages = Stages::start(global.quiet);
    // Heard from the first moment: a stop while a model loads is a stop.
    let stop = crate::signals::stop();
    tokio::pin!(stop);
    let started = tokio::select! {
        started = start(global, &args, &stages) => started?,
        () = &mut stop => return Err(interrupted()),
    };
    if global.json {
        say(ready_json(&started.ready))?;
    } else {
        welcome(&stages, &started.ready, &args);
    }
    tokio::select! {
        () = &mut stop => {}
        () = tell_swarm(&started.node, &args, &stages) => stop.await,
    }
    stages.line("  stopping   running answers have a few seconds; Ctrl-C again ends at once");
    started.end().await;
    Ok(())
}

/// One process of the demo: says that it is ready in one line on stdout.
pub(super) async fn demo_node(global: &Global, args: DemoNodeArgs) -> Result<(), Failure> {
    let home = config::home(global)?;
    let starting = end_with_parent(home.clone())
        .map_err(|error| Failure::of(Code::Resources, "no thread can be started", &error))?;
    match be_member(global, args, starting).await {
        // It failed because its directory is being removed, and is ended when that is done.
        Err(_) if is_over(&home) => std::future::pending().await,
        outcome => outcome,
    }
}

async fn be_member(global: &Global, args: DemoNodeArgs, starting: Starting) -> Result<(), Failure> {
    if args.bootstrap_only {
        return be_bootstrap(&config::home(global)?, &args.up, starting).await;
    }
    let started = start(global, &args.up, &Stages::start(true)).await?;
    drop(starting);
    say_ready(&started.ready);
    // The parent ends this process: Ctrl-C reaches only the parent.
    std::future::pending().await
}

async fn be_bootstrap(home: &Path, args: &UpArgs, starting: Starting) -> Result<(), Failure> {
    let home = Home::take(home)?;
    let key = home.key()?;
    drop(starting);
    let config = bootstrap::Config::new(key, SwarmId::named(&args.swarm))
        .listening(addresses(&args.listen)?);
    let ready = |addresses: &[Multiaddr]| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let peer = addresses.first().and_then(|address| address.rsplit_once('/'));
        let peer = peer.map_or_else(String::new, |(_, peer)| peer.to_owned());
        say_ready(&Ready { peer, addresses, api: None });
    };
    bootstrap::run(config, ready, std::future::pending())
        .await
        .map_err(|error| Failure::of(Code::Failure, "the bootstrap node ended", &error))
}

fn say_ready(ready: &Ready) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", ready_json(ready));
    let _ = out.flush();
}

fn ready_json(ready: &Ready) -> serde_json::Value {
    json!({
        "schema_version": 1,
        "peer": ready.peer,
        "addresses": ready.addresses,
        "api": ready.api,
    })
}

/// A node with its API.
struct Started {
    ready: Ready,
    node: Node,
    /// Held to the end: its drop removes the note and frees the lock.
    home: Home,
    stop_api: tokio::sync::oneshot::Sender<()>,
    api: tokio::task::JoinHandle<()>,
}

impl Started {
    async fn end(self) {
        let Self { node, home, stop_api, api, .. } = self;
        let _ = stop_api.send(());
        node.stop(crate::signals::stop()).await;
        api.abort();
        drop(home);
    }
}

async fn start(global: &Global, args: &UpArgs, stages: &Stages) -> Result<Started, Failure> {
    // Connections of peers and of the API are bounded by number; the system must not be tighter.
    if let Err(error) = rlimit::increase_nofile_limit(DESCRIPTORS) {
        tracing::warn!(%error, "the number of file descriptors stays as it is");
    }
    let home = Home::take(&config::home(global)?)?;
    let key = home.key()?;
    let address = config::api(global)?;
    let access = Access::new(address, &ApiKeys::of(global)?)?;
    let listener = bind_api(address).await?;
    // All that can be refused is refused before anything is promised.
    let offers = offers(global, args).await?;
    let mut node = Node::start(NodeConfig {
        key,
        swarm: args.swarm.clone(),
        listen: listen(args)?,
        bootstrap: addresses(&args.bootstrap)?,
        max_sessions: args.max_sessions as usize,
        privacy: args.privacy.into(),
        trusted: trusted(&args.trust)?,
        models: config::models(global)?,
        home: home.path().to_path_buf(),
        tap: None,
    })
    .await?;
    let addresses = node.addresses().await;
    stages.done("identity", &crate::stages::short(&node.peer()));
    let shown = addresses.iter().filter_map(|address| Some(address.split_once("/p2p/")?.0));
    let shown: Vec<&str> = shown.collect();
    stages.done("listening", &shown.join(" "));
    let address = listener
        .local_addr()
        .map_err(|error| Failure::of(Code::Resources, "the API has no address", &error))?;
    let (stop_api, stopped) = tokio::sync::oneshot::channel::<()>();
    let router = api::router(node.engine(), crate::entropy::seed, access);
    let api = tokio::spawn(api::serve(listener, router, async { drop(stopped.await) }));
    stages.done("API", &format!("http://{address}/v1"));
    let note = NodeNote { api: address, pid: std::process::id(), peer: node.peer() };
    home.note(&note)?;
    for offer in offers {
        let what = format!("{} blocks {}", offer.model.name, offer.span);
        node.host(offer).await?;
        stages.done("hosting", &what);
    }
    let ready = Ready { peer: node.peer(), addresses, api: Some(address.to_string()) };
    Ok(Started { ready, node, home, stop_api, api })
}

fn welcome(stages: &Stages, ready: &Ready, args: &UpArgs) {
    let Some(api) = &ready.api else { return };
    stages.line("");
    let others = ready.addresses.iter().find(|address| !is_loopback(address));
    if let Some(address) = others.or_else(|| ready.addresses.first()) {
        let swarm = match args.swarm.as_str() {
            "public" => String::new(),
            name => format!(" --swarm {name}"),
        };
        stages.line(&format!("  others     taimatsu up{swarm} --bootstrap {address}"));
    }
    if args.bootstrap.is_empty() {
        stages.line("  alone      no --bootstrap was given: others must dial this node");
    }
    stages.line(&format!("  ask        taimatsu --api {api} run smollm2:135m \"Hello\""));
    stages.line("  stop       Ctrl-C");
}

fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

/// Whether the swarm was met. The node goes on trying either way.
async fn tell_swarm(node: &Node, args: &UpArgs, stages: &Stages) {
    if args.bootstrap.is_empty() {
        return;
    }
    if node.joined().await {
        stages.done("swarm", &format!("{} · met", args.swarm));
    } else {
        stages.line("  ✗ swarm      no --bootstrap address answers in this swarm yet; this node goes on trying");
    }
}

/// The spans of `--serve`, their models resolved or pulled.
async fn offers(global: &Global, args: &UpArgs) -> Result<Vec<Offer>, Failure> {
    let threads = args.threads.map_or_else(all_threads, |threads| threads as usize);
    let limits = ExecutorLimits { kv_positions: args.kv_positions, threads };
    let mut offers: Vec<Offer> = Vec::new();
    for text in &args.serve {
        let (reference, blocks) = split_span(text);
        if let Some(entry) = catalogue::find(reference) {
            // Before a download, not after it.
            Offer::span(reference, blocks, entry.blocks)?;
        }
        let model: LocalModel = local::ensure_model(global, reference).await?;
        let offer = Offer::new(model.known, reference, blocks, limits)?;
        let twice = |other: &Offer| other.model.id == offer.model.id && other.span == offer.span;
        if offers.iter().any(twice) {
            return Err(Failure::new(Code::Usage, format!("--serve {text} is given twice")));
        }
        offers.push(offer);
    }
    Ok(offers)
}

/// `MODEL@A-B` in its two parts. Only what looks like a span is one: paths may hold an `@`.
fn split_span(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once('@') {
        Some((model, span)) if !span.contains(['/', '.']) => (model, Some(span)),
        _ => (text, None),
    }
}

fn listen(args: &UpArgs) -> Result<Vec<Multiaddr>, Failure> {
    if !args.listen.is_empty() {
        return addresses(&args.listen);
    }
    let port = if args.serve.is_empty() { 0 } else { config::DEFAULT_PORT };
    addresses(&[format!("/ip4/0.0.0.0/tcp/{port}"), format!("/ip4/0.0.0.0/udp/{port}/quic-v1")])
}

fn trusted(texts: &[String]) -> Result<BTreeSet<PeerId>, Failure> {
    let read = |text: &String| {
        text.parse().map_err(|error| {
            Failure::new(Code::Usage, format!("cannot trust `{text}`"))
                .because(error)
                .try_this("the full id, as the host's `taimatsu status` shows it")
        })
    };
    texts.iter().map(read).collect()
}

fn addresses(texts: &[String]) -> Result<Vec<Multiaddr>, Failure> {
    texts
        .iter()
        .map(|text| {
            text.parse().map_err(|error| {
                Failure::new(Code::Usage, format!("`{text}` is not an address"))
                    .because(error)
                    .try_this("/ip4/203.0.113.7/tcp/4801, with /p2p/12D3Koo… behind it to dial")
            })
        })
        .collect()
}

/// All threads of the machine.
pub(super) fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn interrupted() -> Failure {
    Failure::new(Code::Interrupted, "stopped").because("Ctrl-C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_from_a_name() {
        assert_eq!(split_span("smollm2:135m@0-9"), ("smollm2:135m", Some("0-9")));
        assert_eq!(split_span("smollm2:135m"), ("smollm2:135m", None));
        assert_eq!(split_span("/a@b/model.gguf"), ("/a@b/model.gguf", None));
        assert_eq!(split_span("/a@b/model.gguf@3-x"), ("/a@b/model.gguf", Some("3-x")));
    }
}
