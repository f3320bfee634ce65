//! `taimatsu map` and `peers`: the swarm as the node here sees it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use taimatsu_protocol::announcement::MAX_BLOCKS;

use super::{Global, client};
use crate::failure::Failure;
use crate::local::absolute;
use crate::stages::short;
use crate::stdout::say;
use crate::text::row;

/// The widest matrix; a model of more blocks has several to a column.
const COLUMNS: usize = 80;

/// Who hosts which blocks of a model.
pub(super) async fn map(global: &Global, model: &str) -> Result<(), Failure> {
    let map = client::need_node(global).await?.map(&absolute(model)).await?;
    if global.json {
        return say(map);
    }
    draw(&map).iter().try_for_each(say)
}

/// Who is connected.
pub(super) async fn peers(global: &Global) -> Result<(), Failure> {
    let status = client::need_node(global).await?.status().await?;
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    if global.json {
        return say(json!({"schema_version": 1, "peers": peers}));
    }
    if peers.is_empty() && !global.quiet {
        crate::stderr::tell("nobody is connected; a connection that is not used ends in a minute");
    }
    for peer in &peers {
        let way = if peer["direct"] == true { "direct" } else { "relayed" };
        let rtt = milliseconds(&peer["rtt_ms"]);
        let [name, address] = [&peer["peer"], &peer["addresses"][0]];
        let [name, address] = [name, address].map(|text| row(text.as_str().unwrap_or("?")));
        say(format!("{name}  {rtt:>9}  {way:<7}  {address}"))?;
    }
    Ok(())
}

fn milliseconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".into(), |ms| format!("{ms:.1} ms"))
}

/// The matrix, a line a host.
fn draw(map: &Value) -> Vec<String> {
    let blocks = map["blocks"].as_u64().unwrap_or(0);
    if blocks > u64::from(MAX_BLOCKS) {
        return vec![format!("a model of {blocks} blocks cannot be: no map of it is drawn")];
    }
    let blocks = blocks as usize;
    let width = blocks.div_ceil(COLUMNS).max(1);
    let columns = blocks.div_ceil(width);
    let mut lines =
        vec![format!("  {:<13} {}  rtt        tok/s   free", "block", ruler(columns, width))];
    let mut hosts: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for span in map["spans"].as_array().into_iter().flatten() {
        hosts.entry(span["peer"].as_str().unwrap_or("?")).or_default().push(span);
    }
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_by_key(|(_, spans)| (spans[0]["me"] != true, spans[0]["blocks"][0].as_u64()));
    for (peer, spans) in hosts {
        let hosted = |block: usize| {
            spans.iter().any(|span| {
                let end = |at: usize| span["blocks"][at].as_u64().unwrap_or(0) as usize;
                (end(0)..=end(1)).contains(&block)
            })
        };
        let cells = (0..columns).map(|column| {
            let range = column * width..((column + 1) * width).min(blocks);
            match (range.clone().all(&hosted), range.clone().any(&hosted)) {
                (true, _) => '█',
                (_, true) => '▒',
                _ => '·',
            }
        });
        let cells: String = cells.collect();
        lines.push(format!("  {:<13} {cells}  {}", label(peer, spans[0]), figures(&spans)));
    }
    lines.push(format!("  {:<13} {}  {}", "replicas", counts(map, columns, width), verdict(map)));
    lines
}

fn ruler(columns: usize, width: usize) -> String {
    let mut line: Vec<char> = vec![' '; columns];
    for at in (0..columns).step_by(10) {
        for (offset, digit) in (at * width).to_string().chars().enumerate() {
            if let Some(cell) = line.get_mut(at + offset) {
                *cell = digit;
            }
        }
    }
    line.into_iter().collect()
}

fn label(peer: &str, span: &Value) -> String {
    let you = if span["me"] == true { " you" } else { "" };
    format!("{}{you}", short(peer))
}

fn figures(spans: &[&Value]) -> String {
    let slowest = spans.iter().filter_map(|span| span["tokens_per_second"].as_f64());
    let slowest = slowest.reduce(f64::min).map_or_else(|| "–".into(), |rate| format!("{rate:.0}"));
    let free = spans.iter().filter_map(|span| span["free_positions"].as_u64()).min().unwrap_or(0);
    let mut words = Vec::new();
    if spans[0]["suspended"] == true {
        words.push("passed over: it failed or refused of late");
    }
    if spans[0]["trusted"] == true && spans[0]["me"] != true {
        words.push("trusted");
    }
    let rtt = milliseconds(&spans[0]["rtt_ms"]);
    let line = format!("{rtt:<10} {slowest:<7} {free:<6} {}", words.join(" · "));
    line.trim_end().to_owned()
}

fn counts(map: &Value, columns: usize, width: usize) -> String {
    let replicas = map["replicas"].as_array().cloned().unwrap_or_default();
    let of = |column: usize| {
        let cells = replicas.iter().skip(column * width).take(width);
        match cells.filter_map(Value::as_u64).min().unwrap_or(0) {
            count @ 0..=9 => count.to_string(),
            _ => "+".into(),
        }
    };
    (0..columns).map(of).collect()
}

fn verdict(map: &Value) -> String {
    let missing = client::missing(map);
    if missing.is_empty() {
        return format!("min {} · every block has a host", map["min_replicas"]);
    }
    format!("no host for blocks {}", missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(peer: &str, me: bool, blocks: [u32; 2]) -> Value {
        json!({
            "peer": peer, "me": me, "blocks": blocks, "rtt_ms": null, "tokens_per_second": 400.0,
            "free_positions": 128, "suspended": false, "trusted": false,
        })
    }

    #[test]
    fn a_matrix_has_a_line_a_host() {
        let replicas = [vec![1; 20], vec![0; 10]].concat();
        let map = json!({
            "blocks": 30,
            "spans": [span("12D3abcdef", false, [0, 9]), span("12D3ghijkl", true, [10, 19])],
            "replicas": replicas,
            "min_replicas": 0,
            "missing": [[20, 29]],
        });
        let lines = draw(&map);
        assert_eq!(lines.len(), 4);
        assert!(lines[0].contains("0         10        20  "), "{}", lines[0]);
        assert!(lines[1].contains("…ghijkl you") && lines[1].contains("·██████████·"));
        assert!(lines[2].contains("…abcdef") && lines[2].contains(" ██████████····"));
        assert!(lines[3].contains("11110000000000  no host for blocks 20-29"), "{}", lines[3]);
    }

    #[test]
    fn a_model_that_cannot_be_is_not_drawn() {
        for blocks in [u64::MAX, 4_000_000_000, 4_097] {
            let map =
                json!({"blocks": blocks, "spans": [span("12D3abcdef", false, [0, u32::MAX])]});
            assert_eq!(draw(&map).len(), 1, "{blocks}");
        }
        let map = json!({"blocks": 4_096, "spans": [span("12D3abcdef", false, [0, 4_095])]});
        assert!(draw(&map).iter().all(|line| line.chars().count() < 200));
    }

    #[test]
    fn many_blocks_share_columns() {
        let map = json!({
            "blocks": 161,
            "spans": [span("12D3abcdef", false, [0, 4])],
            "replicas": vec![12; 161],
            "min_replicas": 12,
            "missing": [],
        });
        let lines = draw(&map);
        assert!(lines[1].contains(" █▒···"), "{}", lines[1]);
        assert!(lines[2].contains(&"+".repeat(54)) && lines[2].contains("min 12"));
    }
}
