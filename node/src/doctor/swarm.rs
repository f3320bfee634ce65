//! Checks of a running node's way into the swarm.

use std::time::Duration;

use serde_json::Value;
use taimatsu_network::{Limits, Multiaddr, NetworkConfig, ProviderKey};
use taimatsu_protocol::SwarmId;

use super::Check;
use crate::cli::missing;
use crate::node_client::NodeClient;
use crate::stages::short;

/// How long an announcement lives when it is made, in seconds; one that lives longer was made by
/// another clock.
const LIFE: u64 = 300;

/// How far clocks may be apart before it is said, in seconds.
const APART: u64 = 30;

/// How long somebody else's look-up may take.
const LOOK_UP: Duration = Duration::from_secs(15);

/// That it runs.
pub(super) fn node(state: &Value) -> Check {
    let peer = state["peer"].as_str().unwrap_or("?");
    let version = state["version"].as_str().unwrap_or("?");
    let said = format!("{} · {version}", short(peer));
    if version != env!("CARGO_PKG_VERSION") {
        return Check::warn(
            "node",
            format!("{said}, and this is {}", env!("CARGO_PKG_VERSION")),
            "stop it, and start it again",
        );
    }
    Check::pass("node", said)
}

/// Whether the running node remembers.
pub(super) fn ledger(state: &Value) -> Check {
    match state["ledger"]["trouble"].as_str() {
        None => Check::pass("ledger", "the node writes it"),
        Some(trouble) => Check::fail(
            "ledger",
            format!("its last write failed: {trouble}"),
            "room on the disk, and a home that the node can write to",
        ),
    }
}

/// Whether what others announce is in force by this node's clock.
pub(super) async fn announcements(node: &NodeClient, state: &Value) -> Check {
    let ignored = state["ignored_announcements"].as_u64().unwrap_or(0);
    let fix = "set this machine's clock by NTP; then, if it stays so, theirs is wrong";
    if ignored > 0 {
        let said = format!("{ignored} announcements of others were not in force by this clock");
        return Check::warn("time", said, fix);
    }
    let mut longest = None;
    for model in state["models"].as_array().into_iter().flatten() {
        let Some(id) = model["id"].as_str() else { continue };
        let Ok(map) = node.map(id).await else { continue };
        for span in map["spans"].as_array().into_iter().flatten() {
            longest = longest.max(span["expires_in_seconds"].as_u64());
        }
    }
    match longest {
        None => Check::pass("time", "nobody else announces anything to compare with"),
        Some(longest) if longest > LIFE + APART => {
            let said = format!("an announcement lives {} s too long by this clock", longest - LIFE);
            Check::warn("time", said, fix)
        }
        Some(_) => Check::pass("time", "announcements of others are in force"),
    }
}

/// Whether anybody is there.
pub(super) fn neighbours(state: &Value) -> Check {
    let known = state["dht_peers"].as_u64().unwrap_or(0);
    let connected = state["peers"].as_array().map_or(0, Vec::len);
    let (given, reached) =
        (state["bootstrap"]["given"].as_u64().unwrap_or(0), state["bootstrap"]["reached"] == true);
    let said = format!("{known} nodes known, {connected} connected");
    match (given, reached, known) {
        (0, _, 0) => Check::warn(
            "swarm",
            "nobody is known, and no bootstrap address was given",
            "--bootstrap ADDR, or let others dial this node",
        ),
        (_, false, 0) => Check::fail(
            "swarm",
            format!("none of {given} bootstrap addresses answers in this swarm"),
            "an address and a --swarm that are right, and no firewall between (port 4801)",
        ),
        (1.., false, _) => Check::warn(
            "swarm",
            format!("{said}; but none of {given} bootstrap addresses answers"),
            "--bootstrap with an address that is alive",
        ),
        _ => Check::pass("swarm", said),
    }
}

/// Whether what this node announces is found by others: a node of the moment looks it up, and the
/// node that announced it has forgotten it by then.
pub(super) async fn dht(node: &NodeClient, state: &Value) -> Check {
    if state["dht_peers"].as_u64().unwrap_or(0) == 0 {
        return Check::warn(
            "dht",
            "not tried: there is nobody to keep an announcement",
            "--bootstrap ADDR, or let others dial this node",
        );
    }
    let fix = "wait a minute and try again; the nodes that keep records must be dialable";
    let tried = match node.try_dht().await {
        Ok(tried) => tried,
        Err(failure) => return Check::failed("dht", &failure),
    };
    if tried["announced"] != true {
        let why = tried["error"].as_str().unwrap_or("no reason was given");
        return Check::fail("dht", format!("an announcement was not taken: {why}"), fix);
    }
    let found = tokio::time::timeout(LOOK_UP, look_up(state, &tried)).await;
    match found {
        Ok(Ok(true)) => Check::pass("dht", "an announcement came back from others"),
        Ok(Ok(false)) => Check::fail("dht", "an announcement was not found again", fix),
        Ok(Err(why)) => Check::fail("dht", format!("the DHT could not be asked: {why}"), fix),
        Err(_) => Check::fail("dht", "the DHT does not answer in time", fix),
    }
}

async fn look_up(state: &Value, tried: &Value) -> Result<bool, String> {
    let nonce = tried["nonce"].as_str().and_then(read_nonce).ok_or("the node's word is broken")?;
    let swarm = SwarmId::named(state["swarm"].as_str().unwrap_or_default());
    let addresses = state["addresses"].as_array().into_iter().flatten();
    let bootstrap: Vec<Multiaddr> =
        addresses.filter_map(|address| address.as_str()?.parse().ok()).collect();
    let config = NetworkConfig {
        secret: crate::entropy::bytes(),
        swarm,
        listen: Vec::new(),
        bootstrap,
        remembered: Vec::new(),
        mdns: false,
        dht_server: false,
        limits: Limits::default(),
        tap: None,
    };
    let (network, _incoming) =
        taimatsu_network::start(config).await.map_err(|error| error.to_string())?;
    let found = match network.joined().await {
        Ok(()) => network.providers(ProviderKey::trial(swarm, nonce)).await,
        Err(error) => Err(error),
    };
    network.shutdown().await;
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.iter().any(|peer| state["peer"] == *peer.to_string()))
}

/// Models that somebody hosts in part alone: no question of them is answered.
pub(super) fn coverage(state: &Value) -> Vec<Check> {
    let models = state["models"].as_array().into_iter().flatten();
    let torn = models.filter(|model| model["missing"].as_array().is_some_and(|m| !m.is_empty()));
    let check = |model: &Value| {
        let name = model["name"].as_str().unwrap_or("?");
        let said = format!("{name}: no other node hosts blocks {}", missing(model));
        Check::warn("coverage", said, format!("taimatsu up --serve {name}, or wait for a host"))
    };
    torn.map(check).collect()
}

fn read_nonce(text: &str) -> Option<[u8; 32]> {
    let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
    bytes?.try_into().ok().filter(|_| text.len() == 64)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_way_in_is_judged_by_who_is_known() {
        let state = |given: u64, reached: bool, known: u64| {
            let bootstrap = json!({"given": given, "reached": reached});
            neighbours(&json!({"dht_peers": known, "peers": [], "bootstrap": bootstrap})).state
        };
        assert_eq!(state(0, false, 0), State::Warn);
        assert_eq!(state(2, false, 0), State::Fail);
        assert_eq!(state(2, false, 3), State::Warn);
        assert_eq!(state(0, false, 3), State::Pass);
        assert_eq!(state(1, true, 1), State::Pass);
    }

    #[test]
    fn a_gap_is_told() {
        let model = |missing| json!({"models": [{"name": "m", "missing": missing}]});
        assert_eq!(coverage(&model(json!([]))), []);
        let told = coverage(&model(json!([[0, 3], [7, 7]])));
        assert!(told.len() == 1 && told[0].detail.contains("0-3, 7"), "{told:?}");
    }

    #[test]
    fn a_ledger_that_is_not_written_is_told() {
        assert_eq!(ledger(&json!({"ledger": {"trouble": null}})).state, State::Pass);
        let check = ledger(&json!({"ledger": {"trouble": "no space"}}));
        assert!(check.state == State::Fail && check.detail.contains("no space"), "{check:?}");
    }

    #[test]
    fn a_nonce_is_read_or_not() {
        assert_eq!(read_nonce(&"0a".repeat(32)), Some([10; 32]));
        for text in ["", "0a", &"0a".repeat(33), &"xx".repeat(32), &"é".repeat(32)] {
            assert_eq!(read_nonce(text), None, "{text}");
        }
    }
}
