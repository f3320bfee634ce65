//! Commands that ask the node here: `status`, `version`, and the word for no command at all.

use clap::CommandFactory;
use serde_json::{Value, json};
use taimatsu_protocol::opening::VERSION;

use super::{Cli, Global};
use crate::api_keys::ApiKeys;
use crate::config;
use crate::failure::{Code, Failure};
use crate::home::note_of;
use crate::node_client::NodeClient;
use crate::stages::short;
use crate::stdout::say;

/// The node that commands talk to: the one named by `--api`, else the one of this home, else none.
///
/// # Errors
/// One was named, and does not answer: nothing else is done in its place.
pub(super) async fn find_node(global: &Global) -> Result<Option<NodeClient>, Failure> {
    let address = match &global.api {
        Some(_) => Some(config::api(global)?),
        None => note_of(&config::home(global)?).map(|note| note.api),
    };
    let keys = ApiKeys::of(global)?;
    let client = address.and_then(|address| NodeClient::new(address, &keys));
    let Some(client) = client else { return Ok(None) };
    match client.answers().await {
        true => Ok(Some(client)),
        false if global.api.is_some() => Err(no_node(global)),
        false => Ok(None),
    }
}

/// No node answers, and the command needs one.
pub(super) fn no_node(global: &Global) -> Failure {
    let cause = match &global.api {
        Some(api) => format!("nothing answers at {api}"),
        None => "none runs on this home, and no --api was given".into(),
    };
    Failure::new(Code::NoNode, "no node is running here")
        .because(cause)
        .try_this("taimatsu up, in another terminal")
}

/// What the node here is doing.
pub(super) async fn status(global: &Global) -> Result<(), Failure> {
    let node = find_node(global).await?.ok_or_else(|| no_node(global))?;
    let status = node.status().await?;
    if global.json {
        say(status)?;
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    say(format!("node       {} · API http://{}/v1", text(&status["peer"]), node.address()))?;
    say(format!("swarm      {} · {} nodes known", text(&status["swarm"]), status["dht_peers"]))?;
    if status["bootstrap"]["given"] != 0 && status["bootstrap"]["reached"] == false {
        say("bootstrap  no address that was given answers in this swarm")?;
    }
    for address in status["addresses"].as_array().into_iter().flatten() {
        say(format!("address    {}", text(address)))?;
    }
    for peer in status["peers"].as_array().into_iter().flatten() {
        let rtt = peer["rtt_ms"].as_f64().map_or_else(|| "?".into(), |ms| format!("{ms:.1}"));
        say(format!("peer       {} · {rtt} ms", short(&text(&peer["peer"]))))?;
    }
    for hosted in status["hosting"].as_array().into_iter().flatten() {
        let name = hosted["name"].as_str().map_or_else(|| text(&hosted["model"]), str::to_owned);
        let [first, last] = [&hosted["blocks"][0], &hosted["blocks"][1]];
        let free = &hosted["free_positions"];
        say(format!("hosting    {name} blocks {first}-{last} · {free} positions free"))?;
    }
    for model in status["models"].as_array().into_iter().flatten() {
        say(format!("model      {} · {}", text(&model["name"]), state(model)))?;
    }
    say(format!("sessions   {}", status["sessions"]))?;
    Ok(())
}

fn state(model: &Value) -> String {
    let hosts = model["hosts"].as_u64().unwrap_or(0);
    if model["ready"].as_bool() == Some(true) {
        return format!("ready · {hosts} hosts");
    }
    let missing: Vec<String> = model["missing"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|range| format!("{}-{}", range[0], range[1]))
        .collect();
    if missing.is_empty() {
        return "no host".into();
    }
    format!("blocks {} have no host", missing.join(", "))
}

/// Version of the program and of what it speaks.
pub(super) fn version(global: &Global) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if global.json {
        say(json!({
            "schema_version": 1,
            "version": version,
            "protocol": VERSION,
            "numerics": "f32",
        }))?;
    } else {
        say(format!("taimatsu {version} · protocol {VERSION} · numerics f32"))?;
    }
    Ok(())
}

/// Without a command: help, and whether a node is running.
pub(super) async fn help_and_state(global: &Global) -> Result<(), Failure> {
    let _ = Cli::command().print_help();
    match find_node(global).await? {
        Some(node) => say(format!("\nA node is running: http://{}/v1", node.address()))?,
        None => say("\nNo node is running here. Try: taimatsu demo")?,
    }
    Ok(())
}
