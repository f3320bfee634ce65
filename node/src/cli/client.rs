//! Finding the node here, and the commands that say what there is: `status`, `id`, `version`, and
//! the word for no command at all.

use clap::CommandFactory;
use serde::Deserialize;
use serde_json::{Value, json};
use taimatsu_executor::CpuExecutor;
use taimatsu_protocol::PeerId;
use taimatsu_protocol::opening::VERSION;

use super::{Cli, Global};
use crate::config::{self, Origin};
use crate::engine::ranges;
use crate::failure::{Code, Failure};
use crate::home::{Home, note_of, read_key};
use crate::node_client::NodeClient;
use crate::stages::short;
use crate::stdout::say;
use crate::text::row;

/// The node that commands talk to: the one that this call names (`--api`, `TAIMATSU_API`), else the
/// one of this home, else the one of the file, else none.
///
/// # Errors
/// This call named one, and it does not answer: nothing else is done in its place.
pub(super) async fn find_node(global: &Global) -> Result<Option<NodeClient>, Failure> {
    let api = &global.settings.api;
    let named = api.origin.is_of_this_call();
    let noted = || note_of(&config::home(global).ok()?).map(|note| note.api);
    let filed = || (api.origin != Origin::Default).then_some(api.value);
    let address = if named { Some(api.value) } else { noted().or_else(filed) };
    let client = address.and_then(|address| NodeClient::new(address, &global.keys));
    let Some(client) = client else { return Ok(None) };
    match client.answers().await {
        true => Ok(Some(client)),
        false if named => Err(no_node(global)),
        false => Ok(None),
    }
}

/// The node that commands talk to.
///
/// # Errors
/// There is none.
pub(super) async fn need_node(global: &Global) -> Result<NodeClient, Failure> {
    find_node(global).await?.ok_or_else(|| no_node(global))
}

/// No node answers, and the command needs one.
pub(super) fn no_node(global: &Global) -> Failure {
    let api = &global.settings.api;
    let cause = match api.origin.is_of_this_call() {
        true => format!("nothing answers at {}", api.value),
        false => "none runs on this home, and no --api was given".into(),
    };
    Failure::new(Code::NoNode, "no node is running here")
        .because(cause)
        .try_this("taimatsu up, in another terminal")
}

/// This home's peer id. Where there is no key yet, it is drawn.
pub(super) fn id(global: &Global) -> Result<(), Failure> {
    let home = config::home(global)?;
    let key = match read_key(&home)? {
        Some(key) => key,
        None => Home::take(&home)?.key()?,
    };
    let public = ed25519_dalek::SigningKey::from_bytes(&key).verifying_key().to_bytes();
    let peer = PeerId::from_public_key(public).to_string();
    if global.json {
        return say(json!({
            "schema_version": 1,
            "peer": peer,
            "home": home.display().to_string(),
        }));
    }
    say(peer)
}

/// What the node here is doing.
pub(super) async fn status(global: &Global) -> Result<(), Failure> {
    let node = need_node(global).await?;
    let status = node.status().await?;
    if global.json {
        say(status)?;
        return Ok(());
    }
    let text = |value: &Value| row(value.as_str().unwrap_or("?"));
    say(format!("node       {} · API http://{}/v1", text(&status["peer"]), node.address()))?;
    say(format!("swarm      {} · {} nodes known", text(&status["swarm"]), status["dht_peers"]))?;
    if status["bootstrap"]["given"] != 0 && status["bootstrap"]["reached"] == false {
        say("bootstrap  no address that was given answers in this swarm")?;
    }
    say(format!("privacy    {}", text(&status["privacy"])))?;
    for address in status["addresses"].as_array().into_iter().flatten() {
        say(format!("address    {}", text(address)))?;
    }
    for peer in status["peers"].as_array().into_iter().flatten() {
        let rtt = peer["rtt_ms"].as_f64().map_or_else(|| "?".into(), |ms| format!("{ms:.1}"));
        say(format!("peer       {} · {rtt} ms", short(&text(&peer["peer"]))))?;
    }
    for hosted in status["hosting"].as_array().into_iter().flatten() {
        let name = [&hosted["name"], &hosted["model"]].into_iter().find(|name| name.is_string());
        let name = text(name.unwrap_or(&Value::Null));
        let [first, last] = [&hosted["blocks"][0], &hosted["blocks"][1]];
        let state = match hosted["file_changed"] == true {
            true => "not any more: its file was changed; restart with a whole one".to_owned(),
            false => format!("{} positions free", hosted["free_positions"]),
        };
        say(format!("hosting    {name} blocks {first}-{last} · {state}"))?;
    }
    for model in status["models"].as_array().into_iter().flatten() {
        let hosted = status["hosting"].as_array().into_iter().flatten();
        let here = hosted.filter(|hosted| hosted["model"] == model["id"]).count() > 0;
        say(format!("model      {} · {}", text(&model["name"]), state(model, here)))?;
    }
    say(format!("sessions   {}", status["sessions"]))?;
    if let Some(trouble) = status["ledger"]["trouble"].as_str() {
        say(format!("ledger     its last write failed: {trouble}"))?;
    }
    Ok(())
}

/// `here`: this node hosts some of it. Its own questions do not use a part.
fn state(model: &Value, here: bool) -> String {
    let hosts = model["hosts"].as_u64().unwrap_or(0);
    if model["ready"].as_bool() == Some(true) {
        return format!("ready · {hosts} host{}", if hosts == 1 { "" } else { "s" });
    }
    let missing = missing(model);
    if missing.is_empty() {
        return "no host".into();
    }
    match here {
        true => format!("no other host for blocks {missing}; the part here serves others"),
        false => format!("blocks {missing} have no host"),
    }
}

/// The blocks that a report calls missing: `0-3, 7-9`; empty where none are.
pub(crate) fn missing(report: &Value) -> String {
    ranges(&Vec::<[u32; 2]>::deserialize(&report["missing"]).unwrap_or_default())
}

/// Version of the program and of what it speaks.
pub(super) fn version(global: &Global) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if global.json {
        say(json!({
            "schema_version": 1,
            "version": version,
            "protocol": VERSION,
            "numerics": CpuExecutor::NUMERICS.to_string(),
        }))?;
    } else {
        let numerics = CpuExecutor::NUMERICS;
        say(format!("taimatsu {version} · protocol {VERSION} · numerics {numerics}"))?;
    }
    Ok(())
}

/// Without a command: help, and whether a node is running.
pub(super) async fn help_and_state(global: &Global) -> Result<(), Failure> {
    let node = find_node(global).await?;
    if global.json {
        let api = node.map(|node| node.address().to_string());
        return say(json!({"schema_version": 1, "running": api.is_some(), "api": api}));
    }
    let _ = Cli::command().print_help();
    match node {
        Some(node) => say(format!("\nA node is running: http://{}/v1", node.address()))?,
        None => say("\nNo node is running here. Try: taimatsu demo")?,
    }
    Ok(())
}
