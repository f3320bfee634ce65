//! What the owner of a node is promised: settings that count in their order, verbs that say how
//! things are, limits that hold, and a node that stops as it is told and finds its way back.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

use serde_json::{Value, json};
use taimatsu_tests::program::{Machine, Running, Said};
use taimatsu_tests::swarm::Member;

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// A model of four blocks and 640 tokens that answers in milliseconds.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_1.gguf");

/// A free port for an API.
const FREE: &str = "127.0.0.1:0";

/// A free door on loopback.
const DOOR: &str = "/ip4/127.0.0.1/tcp/0";

fn machine() -> Machine {
    Machine::new(PROGRAM)
}

/// A command that is told nothing by the environment.
fn bare(machine: &Machine, args: &[&str]) -> Command {
    let mut command = machine.command(args);
    command.env_remove("TAIMATSU_HOME").env_remove("TAIMATSU_MODELS");
    command
}

fn said(command: Command) -> Said {
    Running::start(command).said()
}

/// Writes the user's file.
fn user_file(machine: &Machine, text: &str) {
    let folder = machine.path("config").join("taimatsu");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

fn setting(shown: &Value, key: &str) -> (Value, String) {
    let entry = &shown["settings"][key];
    (entry["value"].clone(), entry["origin"].as_str().unwrap().to_owned())
}

/// A node on this machine, on free ports of loopback.
fn up(machine: &Machine, more: &[&str]) -> Member {
    let ports = ["--api", FREE, "--listen", DOOR];
    Member::start(
        machine.command(&[&["up", "--json", "--threads", "1"], &ports[..], more].concat()),
    )
}

#[test]
fn the_nearest_word_counts_and_says_whose_it_is() {
    let machine = machine();
    let other = machine.path("other.toml");
    std::fs::write(machine.path("system.toml"), "swarm = \"s\"\nthreads = 7\nmemory_mib = 9\n")
        .unwrap();
    user_file(&machine, "swarm = \"u\"\nthreads = 6\napi = \"4900\"\nhome = \"/u/home\"\n");
    std::fs::write(&other, "threads = 5\n").unwrap();
    let show = |more: &[&str], threads: Option<&str>| {
        let mut command =
            bare(&machine, &[&["config", "show", "--origin", "--json"], more].concat());
        threads.map(|threads| command.env("TAIMATSU_THREADS", threads));
        said(command).json()
    };
    let shown = show(&["--home", "/f/home"], Some("4"));
    let expected = [
        ("home", json!("/f/home"), "flag"),
        ("models", json!("/f/home/models"), "default"),
        ("threads", json!(4), "environment"),
        ("swarm", json!("u"), "file"),
        ("api", json!("127.0.0.1:4900"), "file"),
        ("memory_mib", json!(9), "system"),
        ("max_sessions", json!(32), "default"),
    ];
    for (key, value, origin) in expected {
        assert_eq!(setting(&shown, key), (value, origin.to_owned()), "{key}");
    }
    assert_eq!(shown["settings"]["threads"]["place"], "TAIMATSU_THREADS");
    // A file that is named stands in the user's place, not below it.
    let shown = show(&["--config", other.to_str().unwrap()], None);
    assert_eq!(setting(&shown, "threads"), (json!(5), "file".into()));
    assert_eq!(setting(&shown, "swarm"), (json!("s"), "system".into()));
    let plain = said(bare(&machine, &["config", "show", "--origin"]));
    let line = plain.text().lines().find(|line| line.starts_with("threads ")).unwrap().to_owned();
    assert!(line.contains("= 6") && line.contains("# file /"), "{line}");
}

#[test]
fn a_file_that_cannot_be_is_told_by_line_and_changes_nothing() {
    let machine = machine();
    for (text, words) in [
        ("\nthread = 2\n", ["line 2", "`threads`"]),
        ("threads = \"two\"\n", ["line 1", "1 to 1024"]),
        ("# x\nlisten = [\"nowhere\"]\n", ["line 2", "/ip4/"]),
        ("threads = \n", ["line 1", "config.toml"]),
    ] {
        user_file(&machine, text);
        machine.run(&["ls"]).is_refused(2, &words);
        machine.run(&["up", "--json", "--api", FREE]).is_refused(2, &words);
        assert!(!machine.home().exists());
    }
    // What shows the way out works all the same.
    let path = machine.run(&["config", "path", "--json"]).json();
    assert_eq!((&path["exists"], &path["system_exists"]), (&json!(true), &json!(false)));
    assert!(machine.run(&["config", "path"]).text().ends_with("/taimatsu/config.toml\n"));
    assert!(machine.run(&["version"]).text().contains("taimatsu"));
    let missing = machine.path("missing.toml");
    let missing = missing.to_str().unwrap();
    machine.run(&["ls", "--config", missing]).is_refused(3, &[missing]);
    let mut wrong = machine.command(&["ls"]);
    std::fs::remove_dir_all(machine.path("config")).unwrap();
    wrong.env("TAIMATSU_LISTEN", "nowhere");
    said(wrong).is_refused(2, &["TAIMATSU_LISTEN", "/ip4/"]);
}

#[test]
fn a_node_goes_by_its_file() {
    let machine = machine();
    user_file(
        &machine,
        &format!(
            "api = \"{FREE}\"\nlisten = [\"{DOOR}\"]\nserve = [\"{TINY}@1-2\"]\nthreads = 1\n\
             kv_positions = 64\nswarm = \"of the file\"\n"
        ),
    );
    let node = Member::start(machine.command(&["up", "--json"]));
    let status = machine.run(&["status", "--json"]).json();
    assert_eq!(status["swarm"], "of the file");
    assert_eq!(status["hosting"][0]["blocks"], json!([1, 2]));
    assert_eq!(status["hosting"][0]["free_positions"], 64);
    assert_eq!(status["peer"], *node.peer);
    // What it serves by its file, other words may change.
    drop(node);
    let args = ["serve", "--json", "--kv-positions", "32", TINY];
    let node = Member::start(machine.command(&args));
    let status = node.get("/taimatsu/v1/status").1;
    assert_eq!(status["hosting"][0]["blocks"], json!([0, 3]));
    assert_eq!(status["hosting"][0]["free_positions"], 32);
}

#[test]
fn an_id_is_known_without_a_node_and_stays() {
    let machine = machine();
    let id = machine.run(&["id"]).text().trim().to_owned();
    assert!(id.starts_with("12D3Koo"), "{id}");
    assert_eq!(machine.run(&["id", "--json"]).json()["peer"], *id);
    let node = up(&machine, &[]);
    assert_eq!(node.peer, id);
    assert_eq!(machine.run(&["id"]).text().trim(), id, "also while it runs");
}

#[test]
fn a_failure_is_one_object_where_json_is_wanted() {
    let machine = machine();
    for (args, code, word) in [
        (&["rm", "nothing", "--json"][..], 3, "not_found"),
        (&["status", "--json"], 4, "no_node"),
        (&["--json", "frobnicate"], 2, "usage"),
        (&["run", TINY, "--json"], 2, "usage"),
    ] {
        let said = machine.run(args);
        said.is_refused(code, &[word]);
        let told: Value = serde_json::from_str(said.err.lines().last().unwrap()).unwrap();
        assert_eq!(told["error"]["code"], word);
        assert!(told["error"]["message"].is_string());
    }
}

#[test]
fn every_shell_gets_its_script() {
    let machine = machine();
    for shell in ["bash", "zsh", "fish"] {
        let script = machine.run(&["completion", shell]).text().to_owned();
        for verb in ["doctor", "map", "serve"] {
            assert!(script.contains(verb), "no {verb} for {shell}");
        }
        assert_eq!(machine.run(&["completion", shell, "--json"]).json()["script"], *script);
    }
    machine.run(&["completion", "cmd"]).is_refused(2, &["cmd"]);
    assert_eq!(machine.run(&["--json"]).json()["running"], false);
}
