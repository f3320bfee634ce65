//! A chain of processes answers as one process does, to the token, wherever it is cut; and the
//! client was never in its lap.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Store, pull, store};
use taimatsu_tests::program::Machine;
use taimatsu_tests::swarm::{Member, Swarm, question};

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");
const MODEL: &str = "smollm2:135m";
const BLOCKS: u32 = 30;

/// A model of four blocks that answers in milliseconds.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_1.gguf");

/// How long a swarm on loopback may take to stand; only a broken one takes this long.
const STAND: Duration = Duration::from_secs(60);

/// The store with the real model in it; pulled where it is not.
fn models() -> PathBuf {
    let dir = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap();
    dir
}

fn prompts() -> Vec<Vec<u32>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/smollm2-135m-instruct-q4_1.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ids = |case: &Value| {
        let ids = case["prompt_tokens"].as_array().unwrap().iter();
        ids.map(|id| id.as_u64().unwrap() as u32).collect()
    };
    file["cases"].as_array().unwrap().iter().map(ids).collect()
}

/// Asks a node; the events of the answer.
fn ask(node: &Member, question: &Value) -> Vec<Value> {
    let http = reqwest::blocking::Client::builder().no_proxy().timeout(STAND).build().unwrap();
    let url = format!("http://{}/taimatsu/v1/run", node.api);
    let body = http.post(url).json(question).send().unwrap().text().unwrap();
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks until the swarm covers the model.
fn ask_when_it_stands(node: &Member, question: &Value) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let events = ask(node, question);
        let failed = &events.last().unwrap()["failed"];
        // An ask waits for a lookup, so this turns slowly.
        if failed.is_null() || begun.elapsed() > STAND {
            return events;
        }
    }
}

fn tokens(events: &[Value]) -> Vec<u64> {
    let last = events.last().unwrap();
    assert!(last["finished"].is_object(), "{last}");
    events.iter().filter_map(|event| event["token"]["id"].as_u64()).collect()
}

/// The spans of a chain of three that is cut before these blocks.
fn spans(first: u32, second: u32) -> [String; 3] {
    let span = |a: u32, b: u32| format!("{MODEL}@{a}-{}", b - 1);
    [span(0, first), span(first, second), span(second, BLOCKS)]
}

#[test]
fn three_processes_answer_as_one() {
    let models = models();
    let mut swarm = Swarm::start(PROGRAM, &models);
    let (hosts, client) = swarm.hosts_and_client(&spans(10, 20));
    let mut lone = Swarm::start(PROGRAM, &models);
    let one = lone.host(MODEL);
    for (number, prompt) in prompts().iter().enumerate() {
        for temperature in [0.0, 0.9] {
            let with = |route| {
                let mut question = question(MODEL, prompt, 16, route);
                question["temperature"] = json!(temperature);
                question["top_p"] = json!(0.95);
                question["seed"] = json!(number);
                question
            };
            let events = ask_when_it_stands(&client, &with("chain"));
            let alone = tokens(&ask(&one, &with("local")));
            assert_eq!(tokens(&events), alone, "prompt {number} at temperature {temperature}");
            let report = &events.last().unwrap()["finished"]["report"];
            assert_eq!(report["forwarded_frames"], 0, "the client is not in the lap");
            for (hop, host) in report["hops"].as_array().unwrap().iter().zip(&hosts) {
                assert_eq!(hop["peer"], *host.peer);
                assert_eq!(hop["relayed_frames"], 0);
                assert!(hop["direct_frames"].as_u64() >= Some(alone.len() as u64 - 1), "{hop}");
            }
        }
    }
}

/// Spans that overlap: the second host is entered at the block where the first one ends.
#[test]
fn a_host_is_entered_midway() {
    let machine = Machine::new(PROGRAM);
    let models = machine.models();
    let prompt = [504, 412, 89, 7];
    let mut lone = Swarm::start(PROGRAM, &models);
    let one = lone.host(TINY);
    let expected = tokens(&ask(&one, &question(TINY, &prompt, 12, "local")));
    for (spans, entered) in [
        (["@0-1", ""].map(|span| format!("{TINY}{span}")), [2, 3]),
        (["@0-2", "@1-3"].map(|span| format!("{TINY}{span}")), [3, 3]),
    ] {
        let mut swarm = Swarm::start(PROGRAM, &models);
        let (hosts, client) = swarm.hosts_and_client(&spans);
        let events = ask_when_it_stands(&client, &question(TINY, &prompt, 12, "chain"));
        assert_eq!(tokens(&events), expected, "{spans:?}");
        let hops = &events.last().unwrap()["finished"]["report"]["hops"];
        assert_eq!(hops[1]["peer"], *hosts[1].peer);
        assert_eq!(hops[1]["blocks"], json!(entered));
    }
}

#[test]
fn receipts_of_an_answer_are_found_by_its_id_and_hold() {
    let mut swarm = Swarm::start(PROGRAM, &models());
    let (_hosts, client) = swarm.hosts_and_client(&spans(10, 20));
    let asked = question(MODEL, &prompts()[0], 40, "chain");
    let events = ask_when_it_stands(&client, &asked);
    tokens(&events);
    let http = reqwest::blocking::Client::builder().no_proxy().timeout(STAND).build().unwrap();
    let url = |path: &str| format!("http://{}{path}", client.api);
    let body = json!({
        "model": MODEL,
        "prompt": prompts()[0],
        "max_tokens": 40,
        "temperature": 0,
        "n": 2,
        "taimatsu": {"route": "chain"},
    });
    let answer: Value =
        http.post(url("/v1/completions")).json(&body).send().unwrap().json().unwrap();
    let id = answer["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let kept = |id: &str| -> Vec<Value> {
        let url = url(&format!("/taimatsu/v1/receipts?id={id}"));
        let kept: Value = http.get(url).send().unwrap().json().unwrap();
        kept["answers"].as_array().cloned().unwrap_or_default()
    };
    // The ledger's thread writes a moment later.
    let begun = Instant::now();
    while kept(id).len() < 2 && begun.elapsed() < STAND {
        std::thread::yield_now();
    }
    let both = kept(id);
    assert_eq!(both.len(), 2, "both choices: {both:?}");
    for answer in both {
        assert_eq!((&answer["id"], &answer["receipts"]), (&json!(id), &json!("hold")), "{answer}");
        let (prompt, made) = (answer["prompt_tokens"].as_u64(), answer["tokens"].as_u64());
        let last = prompt.zip(made).map(|(prompt, made)| prompt + made - 2);
        for hop in answer["hops"].as_array().unwrap() {
            let signed = hop["receipts"].as_array().unwrap();
            assert!(signed.last().unwrap()["positions"][1].as_u64() >= last, "{hop}");
            let embeds = !signed[0]["upstream"].is_null();
            assert_eq!(embeds, hop["blocks"][0] != 0, "all but the leader saw their neighbour's");
        }
    }
    let session = events.last().unwrap()["finished"]["report"]["session"].as_str().unwrap();
    assert_eq!(kept(session)[0]["receipts"], "hold", "and by the session's");
}

/// All the 406 cuts of thirty blocks in three, each by processes that start for it.
#[test]
fn every_cut_of_three_processes_answers_the_same() {
    let models = models();
    let prompt = &prompts()[0];
    let mut lone = Swarm::start(PROGRAM, &models);
    let one = lone.host(MODEL);
    let question = |route| question(MODEL, prompt, 3, route);
    let expected = tokens(&ask(&one, &question("local")));
    let cuts = (1..BLOCKS - 1).flat_map(|first| (first + 1..BLOCKS).map(move |last| (first, last)));
    for (first, second) in cuts {
        let mut swarm = Swarm::start(PROGRAM, &models);
        let (_hosts, client) = swarm.hosts_and_client(&spans(first, second));
        let events = ask_when_it_stands(&client, &question("chain"));
        assert_eq!(tokens(&events), expected, "cut before {first} and {second}");
    }
}
