//! `taimatsu reputation` and `receipts`: what the node here remembers of others.

use serde_json::Value;
use taimatsu_model::template::utc;
use taimatsu_protocol::UnixSeconds;

use super::{Global, client};
use crate::config;
use crate::failure::{Code, Failure};
use crate::home::Home;
use crate::ledger::Ledger;
use crate::remembered;
use crate::stages::short;
use crate::stdout::say;

/// Shows standings.
pub(super) async fn reputation(global: &Global, peer: Option<&str>) -> Result<(), Failure> {
    let known = match client::find_node(global).await? {
        Some(node) => node.reputation(peer).await?,
        None => remembered::standings(&ledger(global)?.1.standings(), peer),
    };
    if global.json {
        return say(known);
    }
    let peers = known["peers"].as_array().cloned().unwrap_or_default();
    if peers.is_empty() && !global.quiet {
        crate::stderr::tell(&format!("nothing is known of {}", peer.unwrap_or("anybody yet")));
    }
    for known in &peers {
        say(standing_line(known))?;
        if peer.is_some() {
            for reason in known["why"].as_array().into_iter().flatten() {
                let what = reason["what"].as_str().unwrap_or("?");
                say(format!("    {}  {what} × {}", time(&reason["at"]), reason["times"]))?;
            }
        }
    }
    if !peers.is_empty() && !global.quiet {
        crate::stderr::tell(
            "protocol kept: frames and receipts fitted; whether the numbers are right is not checked",
        );
    }
    Ok(())
}

/// Shows receipts.
pub(super) async fn receipts(global: &Global, id: Option<&str>) -> Result<(), Failure> {
    let known = match client::find_node(global).await? {
        Some(node) => node.receipts(id).await?,
        None => remembered::receipts(&ledger(global)?.1, id).ok_or_else(|| {
            Failure::new(Code::NotFound, "no such answer is kept here")
                .try_this("taimatsu receipts")
        })?,
    };
    if global.json {
        return say(known);
    }
    let answers = known["answers"].as_array().cloned().unwrap_or_default();
    if answers.is_empty() && !global.quiet {
        crate::stderr::tell("no answers are kept here yet");
    }
    answers.iter().try_for_each(print_answer)
}

/// The ledger of a home on which no node runs. The home is held as long: no node may start on it.
fn ledger(global: &Global) -> Result<(Home, Ledger), Failure> {
    let home = Home::take(&config::home(global)?)?;
    let ledger = Ledger::open(home.path())?;
    Ok((home, ledger))
}

fn standing_line(known: &Value) -> String {
    let score = |name: &str| {
        let part = &known[name];
        let number = |key: &str| part[key].as_f64().unwrap_or(0.0);
        format!("{:.2} (+{:.1} −{:.1})", number("score"), number("good"), number("bad"))
    };
    let peer = short(known["peer"].as_str().unwrap_or("?"));
    let model = known["name"].as_str().or_else(|| known["model"].as_str()).unwrap_or("?");
    let [kept, in_time] = [score("correct"), score("available")];
    format!("{peer}  {model:<16} protocol kept {kept}  in time {in_time}")
}

/// A moment for eyes.
fn time(seconds: &Value) -> String {
    seconds.as_u64().map_or_else(|| "?".into(), |at| utc(UnixSeconds(at), "%Y-%m-%d %H:%M:%S UTC"))
}

fn print_answer(answer: &Value) -> Result<(), Failure> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let state = match &answer["receipts"] {
        Value::String(word) => word.clone(),
        other => text(&other["broken"]),
    };
    let [id, at, model] = [text(&answer["id"]), time(&answer["at"]), text(&answer["model"])];
    say(format!("{id}  {at}  {model}  {} tokens  {state}", answer["tokens"]))?;
    for hop in answer["hops"].as_array().into_iter().flatten() {
        let [first, last] = [&hop["blocks"][0], &hop["blocks"][1]];
        let (peer, signed) = (text(&hop["peer"]), &hop["signed"]);
        say(format!("    {}  blocks {first}-{last}  {signed} signed", short(&peer)))?;
        for receipt in hop["receipts"].as_array().into_iter().flatten() {
            let [from, to] = [&receipt["positions"][0], &receipt["positions"][1]];
            say(format!("        {from:>5}-{to:<5} {}", text(&receipt["digest"])))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_standing_says_what_was_seen_and_no_more() {
        let score = json!({"score": 0.5, "good": 0.2, "bad": 0.0});
        let known = json!({
            "peer": "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
            "name": "m", "correct": score, "available": score,
        });
        let line = standing_line(&known);
        let expected = "protocol kept 0.50 (+0.2 −0.0)  in time 0.50 (+0.2 −0.0)";
        assert!(line.ends_with(expected), "{line}");
        assert_eq!(time(&json!(1_700_000_000)), "2023-11-14 22:13:20 UTC");
    }
}
