//! The demo, as anybody runs it: what it says, and that nothing of it is left however it ends.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashSet;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Store, pull, store};
use taimatsu_tests::program::{Machine, Running, processes_with, signal, until};
use taimatsu_tests::swarm::Member;

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// Processes that a demo starts.
const MEMBERS: usize = 5;

/// The store with the real model in it; pulled where it is not.
fn models() -> PathBuf {
    let dir = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap();
    dir
}

/// A machine with a temporary directory of its own, where demos leave what they leave.
struct Ground(Machine);

impl Ground {
    fn new() -> Self {
        let machine = Machine::new(PROGRAM);
        std::fs::create_dir(machine.path("tmp")).unwrap();
        Self(machine)
    }

    fn tmp(&self) -> PathBuf {
        self.0.path("tmp")
    }

    /// A demo, in a group of its own as a terminal makes one.
    fn demo(&self, more: &[&str]) -> Running {
        let mut command = self.0.command(&[&["demo"], more].concat());
        command.env("TMPDIR", self.tmp()).env("TAIMATSU_MODELS", models()).process_group(0);
        Running::start(command)
    }

    /// The members' processes: their homes are here.
    fn members(&self) -> Vec<u32> {
        processes_with(self.tmp().to_str().unwrap())
    }

    fn wait_for_members(&self, count: usize) {
        until("the demo's processes", || (self.members().len() >= count).then_some(()));
    }

    fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.tmp()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Right now.
    fn is_empty(&self) {
        assert_eq!((self.members(), self.left()), (Vec::new(), Vec::new()));
    }

    /// Soon: the members end by themselves.
    fn becomes_empty(&self) {
        until("the end of the demo's processes", || self.members().is_empty().then_some(()));
        until("an empty directory", || self.left().is_empty().then_some(()));
    }
}

/// What `demo --json` says, as scripts rely on it.
fn has_the_right_shape(report: &Value) {
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = [
        "answer",
        "model",
        "prompt",
        "route",
        "schema_version",
        "sealed",
        "tokens",
        "tokens_per_second",
        "ttft_ms",
    ];
    assert_eq!(keys, wanted);
    assert_eq!(report["model"], SMOLLM2_135M.name);
    assert_eq!(report["sealed"], true);
    assert!(!report["answer"].as_str().unwrap().is_empty());
    let tokens = report["tokens"].as_array().unwrap();
    assert!(!tokens.is_empty() && tokens.iter().all(Value::is_u64), "{report}");
    let route = report["route"].as_array().unwrap();
    let blocks: Vec<&Value> = route.iter().map(|hop| &hop["blocks"]).collect();
    assert_eq!(blocks, [&json!([0, 9]), &json!([10, 19]), &json!([20, 29])]);
    let peers: HashSet<&str> = route.iter().map(|hop| hop["peer"].as_str().unwrap()).collect();
    assert_eq!(peers.len(), 3);
    assert!(peers.iter().all(|peer| peer.starts_with("12D3KooW") && peer.len() == 52), "{peers:?}");
    let figures = [&report["ttft_ms"], &report["tokens_per_second"]];
    let figures = figures.into_iter().chain(route.iter().map(|hop| &hop["ms_per_token"]));
    for figure in figures {
        assert!(figure.as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn two_demos_at_once_answer_and_leave_nothing() {
    let ground = Ground::new();
    let prompt = "What is a torch?";
    let args = ["--json", "--max-tokens", "12", "--prompt", prompt];
    let demos = [(); 2].map(|()| ground.demo(&args));
    let reports = demos.map(|demo| demo.said().json());
    for report in &reports {
        has_the_right_shape(report);
        assert_eq!(report["prompt"], prompt);
        assert!(report["tokens"].as_array().unwrap().len() <= 12);
    }
    assert_eq!(reports[0]["tokens"], reports[1]["tokens"], "greedy, so the same");
    let [one, other] = reports.each_ref().map(|report| report["route"].as_array().unwrap());
    assert!(one.iter().zip(other).all(|(one, other)| one["peer"] != other["peer"]));
    ground.is_empty();
}

#[test]
fn stdout_is_the_answer_alone() {
    let ground = Ground::new();
    let said = ground.demo(&["--max-tokens", "6"]).said();
    assert_eq!(said.text().lines().count(), 1, "{said:?}");
    assert!(!said.out.trim().is_empty() && said.err.contains("why do people gather"));
    for word in ["model", "bootstrap", "host", "client", "answer", "route", "tokens/s", "go on"] {
        assert!(said.err.contains(word), "no `{word}` in {}", said.err);
    }
    ground.is_empty();
}

#[test]
fn a_chain_is_measured_beside_one_host() {
    let ground = Ground::new();
    let mut command = ground
        .0
        .command(&["bench", "chain", "--hops", "2", "--tokens", "8", "--runs", "2", "--json"]);
    command.env("TMPDIR", ground.tmp()).env("TAIMATSU_MODELS", models());
    let said = command.output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let told: Value = serde_json::from_slice(&said.stdout).unwrap();
    for key in ["ratio_to_one_node", "tokens_per_second", "one_node_tokens_per_second"] {
        assert!(told[key].as_f64().is_some_and(|value| value > 0.0), "{told}");
    }
    assert_eq!(told["hops"], 2);
    assert!(ground.left().is_empty() && ground.members().is_empty());
    ground.0.run(&["bench", "decode", "--hops", "2"]).is_refused(2, &["--hops", "chain"]);
    ground.0.run(&["bench", "chain", "--sessions", "2"]).is_refused(2, &["--sessions", "batch"]);
}

#[test]
fn ctrl_c_leaves_nothing_at_any_moment() {
    for members in [1, MEMBERS] {
        let ground = Ground::new();
        let demo = ground.demo(&["--max-tokens", "2000"]);
        ground.wait_for_members(members);
        // A terminal sends it to all.
        signal("INT", &format!("-{}", demo.pid()));
        let said = demo.said();
        assert_eq!(said.status.code(), Some(130), "{said:?}");
        ground.is_empty();
    }
}

#[test]
fn an_interrupt_to_the_demo_alone_leaves_nothing() {
    let ground = Ground::new();
    let demo = ground.demo(&["--max-tokens", "2000"]);
    ground.wait_for_members(MEMBERS);
    signal("INT", &demo.pid().to_string());
    assert_eq!(demo.said().status.code(), Some(130));
    ground.is_empty();
}

#[test]
fn kill_9_leaves_nothing_at_any_moment() {
    for members in [1, 2, 3, MEMBERS] {
        let ground = Ground::new();
        let demo = ground.demo(&["--max-tokens", "2000"]);
        ground.wait_for_members(members);
        signal("KILL", &demo.pid().to_string());
        ground.becomes_empty();
    }
}

#[test]
fn kept_demos_print_addresses_that_answer() {
    let ground = Ground::new();
    let mut demo = ground.demo(&["--keep", "--json", "--max-tokens", "4"]);
    let report: Value = serde_json::from_str(&demo.line()).unwrap();
    has_the_right_shape(&report);
    let api = demo.err_line("  API  ");
    let api = api.split_whitespace().last().unwrap();
    let http = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    let models: Value = http.get(format!("{api}/models")).send().unwrap().json().unwrap();
    // The store may hold others.
    let mut ids = models["data"].as_array().unwrap().iter().map(|model| &model["id"]);
    assert!(ids.any(|id| id == SMOLLM2_135M.name), "{models}");
    let question = json!({
        "model": SMOLLM2_135M.name,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 3,
    });
    let reply = http.post(format!("{api}/chat/completions")).json(&question).send().unwrap();
    let answer: Value = reply.json().unwrap();
    assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
    let door = demo.err_line("  bootstrap  ");
    let door: Vec<&str> = door.split('/').collect();
    TcpStream::connect((door[2], door[4].parse::<u16>().unwrap())).unwrap();
    assert_eq!(ground.members().len(), MEMBERS);
    let join = demo.err_line("  join  ");
    let join: Vec<&str> = join.split_whitespace().skip(2).collect();
    let more = ["--api", "127.0.0.1:0", "--json", "--offline"];
    let guest = Machine::new(PROGRAM);
    Member::start(guest.command(&[&join[..], &more].concat())).wait_until_covered();
    signal("INT", &demo.pid().to_string());
    assert_eq!(demo.said().status.code(), Some(0));
    ground.is_empty();
}

#[test]
fn a_kept_demo_that_is_killed_leaves_nothing() {
    let ground = Ground::new();
    let mut demo = ground.demo(&["--keep", "--json", "--max-tokens", "4"]);
    assert!(demo.line().contains("answer"));
    signal("KILL", &demo.pid().to_string());
    ground.becomes_empty();
}
