//! `taimatsu up`: this machine's node in the foreground; and the demo's processes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use taimatsu_bootstrap as bootstrap;
use taimatsu_executor::ExecutorLimits;
use taimatsu_model::{Store, catalogue};
use taimatsu_network::Multiaddr;
use taimatsu_protocol::SwarmId;
use zeroize::Zeroizing;

use super::{DemoNodeArgs, Global};
use crate::api::access::Access;
use crate::config::{PrivacyArg, Settings};
use crate::demo::{Ready, Starting, end_with_parent, is_over};
use crate::failure::{Code, Failure};
use crate::home::{Home, NodeNote};
use crate::library::Library;
use crate::local::{self, LocalModel};
use crate::node::{Node, NodeConfig, Offer, Owner, bind_api};
use crate::ports::need_free;
use crate::signals::Stops;
use crate::stages::Stages;
use crate::stdout::say;
use crate::{api, config, memory};

/// File descriptors that a node may need: two for each connection, and files.
const DESCRIPTORS: u64 = 8_192;

/// Runs a node until it is told to stop.
pub(super) async fn up(global: &Global) -> Result<(), Failure> {
    let stages = Stages::start(global.quiet);
    // Heard from the first moment: a stop while a model loads is a stop.
    let mut stops = Stops::listen();
    let started = tokio::select! {
        started = start(global, &stages) => started?,
        () = stops.next() => return Err(interrupted()),
    };
    if global.json {
        say(ready_json(&started.ready))?;
    } else {
        welcome(&stages, &started, &global.settings);
    }
    tokio::select! {
        () = stops.next() => {}
        () = tell_swarm(&started.node, &global.settings, &stages) => stops.next().await,
    }
    let seconds = global.settings.drain_seconds.value;
    stages.line(&format!("  stopping   running answers have {seconds} s; once more ends at once"));
    started.end(stops).await;
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
        return be_bootstrap(&config::home(global)?, &global.settings, starting).await;
    }
    let started = start(global, &Stages::start(true)).await?;
    drop(starting);
    say_ready(&started.ready);
    // The parent ends this process: Ctrl-C reaches only the parent.
    std::future::pending().await
}

async fn be_bootstrap(home: &Path, settings: &Settings, starting: Starting) -> Result<(), Failure> {
    let home = Home::take(home)?;
    let key = home.key()?;
    drop(starting);
    let config = bootstrap::Config::new(key, SwarmId::named(&settings.swarm.value))
        .listening(settings.listen.value.clone());
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

/// When it is told that nobody answers: whoever is there answers within a second or two.
const FIRST_WORD: Duration = Duration::from_secs(3);

/// How long readers of the API may take for what was said last.
const LAST_READS: Duration = Duration::from_secs(1);

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
    /// Drains, and ends; at once when another signal comes.
    async fn end(self, mut stops: Stops) {
        let Self { node, home, stop_api, mut api, .. } = self;
        node.drain(stops.next()).await;
        // The answers that were under way have had their last word; it has yet to be read.
        let _ = stop_api.send(());
        if tokio::time::timeout(LAST_READS, &mut api).await.is_err() {
            api.abort();
        }
        node.leave().await;
        drop(home);
    }
}

async fn start(global: &Global, stages: &Stages) -> Result<Started, Failure> {
    // Connections of peers and of the API are bounded by number; the system must not be tighter.
    if let Err(error) = rlimit::increase_nofile_limit(DESCRIPTORS) {
        tracing::warn!(%error, "the number of file descriptors stays as it is");
    }
    let home = Home::take(&config::home(global)?)?;
    let key = home.key()?;
    let settings = &global.settings;
    let access = Access::new(settings.api.value, &global.keys)?;
    let listener = bind_api(settings.api.value).await?;
    // All that can be refused is refused before anything is promised.
    need_free(&settings.listen.value)?;
    let models = config::models(global)?;
    let library = Library::new(Store::open(&models).ok());
    let offers = offers(global, &library).await?;
    let config = node_config(settings, key, models, home.path().to_path_buf());
    let mut node = Node::start_with(config, library).await?;
    let addresses = node.addresses().await;
    stages.done("identity", &crate::stages::short(&node.peer()));
    let shown = addresses.iter().filter_map(|address| Some(address.split_once("/p2p/")?.0));
    let shown: Vec<&str> = shown.collect();
    stages.done("listening", &shown.join(" "));
    let address = listener
        .local_addr()
        .map_err(|error| Failure::of(Code::Resources, "the API has no address", &error))?;
    let (stop_api, stopped) = tokio::sync::oneshot::channel::<()>();
    let router = api::router(node.engine(), crate::entropy::told_seed, access);
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

fn node_config(
    settings: &Settings,
    key: Zeroizing<[u8; 32]>,
    models: PathBuf,
    home: PathBuf,
) -> NodeConfig {
    NodeConfig {
        key,
        swarm: settings.swarm.value.clone(),
        listen: settings.listen.value.clone(),
        bootstrap: settings.bootstrap.value.clone(),
        max_sessions: settings.max_sessions.value as usize,
        models,
        home,
        owner: owner(settings),
        tap: None,
    }
}

fn welcome(stages: &Stages, started: &Started, settings: &Settings) {
    let ready = &started.ready;
    let Some(api) = &ready.api else { return };
    stages.line("");
    if let Some(address) = ready.addresses.first() {
        let swarm = match settings.swarm.value.as_str() {
            "public" => String::new(),
            name => format!(" --swarm {name}"),
        };
        stages.line(&format!("  others     taimatsu up{swarm} --bootstrap {address}"));
    }
    if !started.node.has_ways() {
        stages.line("  alone      no --bootstrap was given: others must dial this node");
    }
    if settings.privacy.value == PrivacyArg::Trusted && settings.trusted.value.is_empty() {
        stages.line("  ! privacy  trusted, and no --trust PEER: nobody but this node may compute");
    }
    let first = settings.serve.value.first().map(|served| split_span(served).0);
    let model = first.unwrap_or("smollm2:135m");
    stages.line(&format!("  ask        taimatsu --api {api} run {model} \"Hello\""));
    stages.line("  stop       Ctrl-C");
}

/// Whether the swarm was met. The node goes on trying either way.
async fn tell_swarm(node: &Node, settings: &Settings, stages: &Stages) {
    if !node.has_ways() {
        return;
    }
    let met = || stages.done("swarm", &format!("{} · met", settings.swarm.value));
    if let Ok(true) = tokio::time::timeout(FIRST_WORD, node.joined()).await {
        return met();
    }
    stages.line(
        "  ✗ swarm      no address that is known answers in this swarm yet; this node goes on trying",
    );
    if node.joined().await {
        met();
    }
}

/// The spans of `--serve`, their models resolved or pulled.
async fn offers(global: &Global, library: &Library) -> Result<Vec<Offer>, Failure> {
    let settings = &global.settings;
    let threads = settings.threads.value as usize;
    let limits = ExecutorLimits { kv_positions: settings.kv_positions.value, threads };
    let mut offers: Vec<Offer> = Vec::new();
    for text in &settings.serve.value {
        let (reference, blocks) = split_span(text);
        if let Some(entry) = catalogue::find(reference) {
            // Before a download, not after it.
            Offer::span(reference, blocks, entry.blocks)?;
        }
        let model: LocalModel = local::ensure_in(global, library, reference).await?;
        let offer = Offer::new(model.known, reference, blocks, limits)?;
        let twice = |other: &Offer| other.model.id == offer.model.id && other.span == offer.span;
        if offers.iter().any(twice) {
            return Err(Failure::new(Code::Usage, format!("--serve {text} is given twice")));
        }
        let allowed = settings.memory_mib.value.map(|mib| u64::from(mib) << 20);
        let hosted = offers.iter().map(Offer::needed).fold(0, u64::saturating_add);
        memory::check(text, offer.needed(), hosted, allowed)?;
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

/// What the owner allows and wishes.
fn owner(settings: &Settings) -> Owner {
    Owner {
        privacy: settings.privacy.value.into(),
        trusted: settings.trusted.value.clone(),
        upload_per_second: settings.upload_kib_per_second.value.map(|kib| u64::from(kib) << 10),
        memory: settings.memory_mib.value.map(|mib| u64::from(mib) << 20),
        drain: Duration::from_secs(settings.drain_seconds.value.into()),
        patience: Duration::from_secs(settings.patience_seconds.value.into()),
        mdns: settings.mdns.value,
    }
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
