//! Files that are not what they should be, under a node and before a command: pipes that nobody
//! writes into, a disk that is full for a while, a model that is cut short. Nothing waits for ever.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use taimatsu_tests::program::{Machine, until};
use taimatsu_tests::swarm::{Member, question};

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// A model of four blocks and 640 tokens that answers in milliseconds, and one that is alike.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_1.gguf");
const OTHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_0.gguf");

/// A command line of a node on free ports.
const UP: [&str; 8] =
    ["up", "--json", "--threads=1", "--api=127.0.0.1:0", "--listen", DOOR, "--swarm", "bad-files"];
const DOOR: &str = "/ip4/127.0.0.1/tcp/0";

const IDS: [u32; 3] = [504, 412, 89];

fn node(machine: &Machine, more: &[&str]) -> Member {
    Member::start(machine.command(&[&UP[..], more].concat()))
}

/// Whether a node's answer is whole.
fn answers(node: &Member, model: &str, route: &str) -> bool {
    let body = node.post("/taimatsu/v1/run", &question(model, &IDS, 4, route)).text().unwrap();
    let last = body.lines().last().unwrap_or_default();
    serde_json::from_str::<Value>(last).is_ok_and(|last| last["finished"].is_object())
}

fn pipe(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(path).status().unwrap().success());
}

#[test]
fn a_pipe_in_a_files_place_is_not_waited_for() {
    let machine = Machine::new(PROGRAM);
    let at = |name: &str| machine.path(name).to_str().unwrap().to_owned();
    pipe(&machine.path("pipe"));
    machine.run(&["ls", "--config", &at("pipe")]).is_refused(2, &["pipe", "no regular file"]);
    machine.run(&["status", "--api-key", &at("pipe")]).is_refused(2, &["pipe", "no regular file"]);
    for name in ["lock", "node.key", "ledger.redb"] {
        let home = machine.path(name);
        pipe(&home.join(name));
        let args = [&UP[..], &["--home", home.to_str().unwrap()]].concat();
        machine.run(&args).is_refused(7, &[name, "no regular file"]);
    }
    // Notes: as good as none.
    for name in ["node.json", "peers.json"] {
        pipe(&machine.home().join(name));
    }
    machine.run(&["status"]).is_refused(4, &["no node"]);
    fs::remove_file(machine.home().join("node.json")).unwrap();
    let node = node(&machine, &[]);
    assert_eq!(node.get("/taimatsu/v1/status").0, 200);
    drop(node);
    pipe(&machine.models().join("lock"));
    machine.run(&["import", TINY]).is_refused(7, &["read-only"]);
    pipe(&machine.models().join("models.json"));
    machine.run(&["ls"]).is_refused(7, &["models.json", "no regular file"]);
}

/// How much a process may write into one file, in bytes.
fn may_write(node: &Member, bytes: &str) {
    let limit = format!("--fsize={bytes}:unlimited");
    let command = ["--pid", &node.pid().to_string(), &limit];
    assert!(Command::new("prlimit").args(command).status().unwrap().success());
}

#[test]
fn a_disk_that_was_full_for_a_while_is_written_again() {
    let machine = Machine::new(PROGRAM);
    let host = node(&machine, &["--serve", TINY]);
    let id = machine.run(&["show", TINY, "--json"]).json()["id"].as_str().unwrap().to_owned();
    let (home, models) = (machine.path("client"), machine.path("empty"));
    let (home, models) = (home.to_str().unwrap(), models.to_str().unwrap());
    let mut client =
        node(&machine, &["--home", home, "--models", models, "--bootstrap", &host.addresses[0]]);
    until("a first answer", || answers(&client, &id, "whole").then_some(()));
    let trouble = |client: &Member| client.get("/taimatsu/v1/status").1["ledger"].clone();
    assert!(trouble(&client)["trouble"].is_null());
    may_write(&client, "0");
    assert!(answers(&client, &id, "whole"), "a full disk ends no answer");
    client.err_line("the ledger cannot be written");
    until("a word in the status", || trouble(&client)["trouble"].is_string().then_some(()));
    let shown = machine.run(&["status", "--api", &client.api]);
    assert!(shown.text().contains("last write failed"), "{shown:?}");
    may_write(&client, "unlimited");
    until("that it is written again", || {
        assert!(answers(&client, &id, "whole"));
        trouble(&client)["trouble"].is_null().then_some(())
    });
    client.kill();
    let kept = machine.run(&["receipts", "--home", home, "--json"]).json();
    assert!(kept["answers"].as_array().unwrap().len() >= 2, "{kept}");
}

/// Nobody asks for the model meanwhile: the host itself sees it, and says so.
#[test]
fn a_model_that_was_cut_is_hosted_no_longer() {
    let machine = Machine::new(PROGRAM);
    let files = ["cut.gguf", "whole.gguf"].map(|name| machine.path(name));
    for (model, file) in [TINY, OTHER].iter().zip(&files) {
        fs::copy(model, file).unwrap();
    }
    let spans = ["0-1", "2-3"];
    let serve = |at: usize| format!("{}@{}", files[at].display(), spans[at]);
    let mut host = node(&machine, &["--serve", &serve(0), "--serve", &serve(1)]);
    let hosting = |node: &Member, at: usize| {
        node.get("/taimatsu/v1/status").1["hosting"][at]["file_changed"] == true
    };
    assert!(!hosting(&host, 0) && !hosting(&host, 1));
    fs::File::options().write(true).open(&files[0]).unwrap().set_len(50_000).unwrap();
    let told = host.err_line("hosted no longer");
    let status = host.get("/taimatsu/v1/status").1;
    assert!(hosting(&host, 0) && !hosting(&host, 1), "{told} {status}");
    let shown = machine.run(&["status", "--api", &host.api]);
    let lines: Vec<&str> = shown.text().lines().filter(|line| line.contains("hosting")).collect();
    assert!(lines[0].contains("not any more") && lines[1].contains("positions free"), "{lines:?}");
    // The other is announced as before, and nobody is known to host this one.
    let id = machine.run(&["show", TINY, "--json"]).json()["id"].as_str().unwrap().to_owned();
    until("no map of it", || {
        (host.get(&format!("/taimatsu/v1/map?model={id}")).0 != 200).then_some(())
    });
    let keys = || host.get("/taimatsu/v1/status").1["announced_keys"].as_u64().unwrap();
    until("no word of it", || (keys() == 2).then_some(()));
    fs::write(&files[1], "other bytes").unwrap();
    until("nothing that is announced", || (keys() == 0).then_some(()));
}

#[test]
fn a_name_is_removed_alone_and_a_hosted_model_stays() {
    let machine = Machine::new(PROGRAM);
    for name in ["one", "two"] {
        assert_eq!(machine.run(&["import", TINY, "--name", name]).text(), "");
    }
    let listed = || machine.run(&["ls", "--json"]).json()["models"].clone();
    let node = node(&machine, &["--serve", "one"]);
    let first = machine.run(&["rm", "one"]);
    assert!(first.err.contains("the file stays, it is two too"), "{first:?}");
    assert_eq!(listed()[0]["names"], serde_json::json!(["two"]));
    let id = listed()[0]["id"].as_str().unwrap().to_owned();
    for name in ["two", &id] {
        machine.run(&["rm", name]).is_refused(2, &[name, &node.api, "--force"]);
    }
    assert!(answers(&node, "two", "local"));
    assert!(machine.run(&["rm", "two", "--force"]).err.contains("freed"));
    assert_eq!(listed(), serde_json::json!([]));
}

#[test]
fn a_port_in_use_is_told_before_a_download() {
    let machine = Machine::new(PROGRAM);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let door = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    // Nothing can be downloaded here: the model's absence would be told if it came first.
    let args = ["up", "--offline", "--api=127.0.0.1:0", "--serve=smollm2:135m", "--listen", &door];
    machine.run(&args).is_refused(7, &[&door, "in use", "--listen"]);
}

#[test]
fn a_doctor_that_has_no_key_says_so() {
    let machine = Machine::new(PROGRAM);
    let keys = machine.path("keys");
    fs::write(&keys, "secret").unwrap();
    fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let _node = node(&machine, &["--api-key", keys.to_str().unwrap()]);
    let said = machine.run(&["doctor"]);
    assert!(said.out.contains("✗ node") && said.out.contains("wants an API key"), "{said:?}");
    assert!(said.out.contains("--api-key FILE"), "{said:?}");
    let with = machine.run(&["doctor", "--api-key", keys.to_str().unwrap()]);
    assert!(with.out.contains("✓ node"), "{with:?}");
}

#[test]
fn what_a_file_says_steers_no_terminal() {
    let machine = Machine::new(PROGRAM);
    assert_eq!(machine.run(&["import", TINY, "--name", "tiny"]).text(), "");
    let list = machine.models().join("models.json");
    let mut index: Value = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    index["models"][0]["license"] = "\u{1b}[2J\u{9b}31m\nfree  1 GB".into();
    fs::write(&list, index.to_string()).unwrap();
    for args in [&["ls"][..], &["show", "tiny"], &["ls", "--json"], &["show", "tiny", "--json"]] {
        let said = machine.run(args);
        let steers = |letter: char| letter.is_control() && letter != '\n';
        assert!(!said.text().contains(steers) && said.out.contains("\\u001b[2J"), "{said:?}");
    }
    assert_eq!(machine.run(&["ls"]).text().lines().count(), 1);
    let shown = machine.run(&["show", "tiny", "--json"]).json();
    assert_eq!(shown["license"], index["models"][0]["license"], "for programs it is the same");
}

#[test]
fn config_alone_shows_what_is_in_force() {
    let machine = Machine::new(PROGRAM);
    assert_eq!(machine.run(&["config"]).text(), machine.run(&["config", "show"]).text());
    for (variable, value) in [("TAIMATSU_MDNS", "maybe"), ("TAIMATSU_OFFLINE", "2")] {
        let mut command = machine.command(&["config"]);
        command.env(variable, value);
        let said = taimatsu_tests::program::Running::start(command).said();
        said.is_refused(2, &[variable, value, "true, false, yes, no, on, off, 1 or 0"]);
    }
    machine.run(&["up", "--swarm", ""]).is_refused(2, &["--swarm", "a name"]);
}

#[test]
fn an_architecture_that_nobody_knows_is_refused_by_name() {
    let machine = Machine::new(PROGRAM);
    let mut bytes = fs::read(TINY).unwrap();
    let key = b"general.architecture";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    // The key, a type of four bytes, a length of eight, and the text.
    let value = &mut bytes[at + key.len() + 12..][..5];
    assert_eq!(value, b"llama");
    value.copy_from_slice(b"gptjx");
    let path = machine.path("strange.gguf");
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    for args in [&["import", path][..], &["run", path, "--raw", "a"]] {
        machine.run(args).is_refused(1, &["strange.gguf", "`gptjx`", "qwen3"]);
    }
    assert!(machine.run(&["ls"]).out.is_empty());
}
