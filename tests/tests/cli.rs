//! The command line as scripts and people rely on it: what stands on stdout, what is refused and
//! how, and nodes that come and go.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use taimatsu_tests::program::{Machine, Running, Said};
use taimatsu_tests::swarm::Member;

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// A model of four blocks and 640 tokens that answers in milliseconds.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_1.gguf");
const VOCAB: usize = 640;
const CONTEXT: u32 = 2_048;

/// A free port for an API.
const FREE: &str = "127.0.0.1:0";

/// Ids of a prompt.
const IDS: &str = "504,412,89";

fn machine() -> Machine {
    Machine::new(PROGRAM)
}

fn ask(machine: &Machine, more: &[&str]) -> Value {
    machine.run(&[&["run", TINY, "--json"], more].concat()).json()
}

fn stored(machine: &Machine, name: &str) {
    assert_eq!(machine.run(&["import", TINY, "--name", name]).text(), "");
}

/// A node on this machine, with its API and its door on free ports.
fn up(machine: &Machine, more: &[&str]) -> Member {
    let ports = ["--api", FREE, "--listen", "/ip4/127.0.0.1/tcp/0"];
    Member::start(
        machine.command(&[&["up", "--json", "--threads", "1"], &ports[..], more].concat()),
    )
}

#[test]
fn the_version_names_program_and_protocol() {
    let machine = machine();
    let version = machine.run(&["version", "--json"]).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["protocol"].is_u64());
    assert!(machine.run(&["version"]).text().contains(env!("CARGO_PKG_VERSION")));
    assert!(machine.run(&["--version"]).text().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_model_is_imported_listed_shown_used_and_removed() {
    let machine = machine();
    assert_eq!(machine.run(&["ls", "--json"]).json()["models"], json!([]));
    let imported = machine.run(&["import", TINY, "--name", "tiny:1", "--json"]).json();
    let id = imported["id"].as_str().unwrap();
    assert!(id.starts_with("blake3:"), "{imported}");
    let listed = machine.run(&["ls", "--json"]).json();
    assert_eq!(listed["models"][0]["names"], json!(["tiny:1"]));
    assert_eq!(listed["models"][0]["id"], id);
    assert!(machine.run(&["ls"]).text().starts_with("tiny:1 "));
    for name in ["tiny:1", id, TINY] {
        let shown = machine.run(&["show", name, "--json"]).json();
        assert_eq!((&shown["id"], &shown["manifest"]["blocks"]), (&json!(id), &json!(4)), "{name}");
        let args = ["run", name, "--prompt-ids", IDS, "--max-tokens", "3", "--json"];
        let answer = machine.run(&[&args[..], &["--temperature", "0"]].concat()).json();
        assert_eq!(answer["tokens"].as_array().unwrap().len(), 3, "{answer}");
    }
    assert!(machine.run(&["show", "tiny:1"]).text().contains(id));
    let removed = machine.run(&["rm", "tiny:1", "--json"]).json();
    assert_eq!(removed["id"], id);
    assert_eq!(machine.run(&["ls", "--json"]).json()["models"], json!([]));
    machine.run(&["rm", "tiny:1"]).is_refused(3, &["tiny:1", "taimatsu ls"]);
    assert!(Path::new(TINY).is_file(), "what was imported stays where it was");
}

#[test]
fn an_answer_has_the_promised_shape() {
    let machine = machine();
    let answer = ask(&machine, &["--prompt-ids", IDS, "--max-tokens", "5", "--temperature", "0"]);
    for key in ["model", "prompt_tokens", "tokens", "text", "finish_reason", "seed", "route"] {
        assert!(!answer[key].is_null(), "no `{key}` in {answer}");
    }
    assert_eq!(answer["prompt_tokens"], json!([504, 412, 89]));
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(answer["finish_reason"], "length");
    assert_eq!(answer["route"], json!([]));
    assert!(answer["seed"].is_u64());
    let plain = ["run", TINY, "--prompt-ids", IDS, "--max-tokens", "5", "--temperature", "0"];
    let said = machine.run(&plain);
    assert_eq!(said.text(), format!("{}\n", answer["text"].as_str().unwrap()));
    assert_eq!(said.err, "", "there is nothing to say beside the answer");
    let said = machine.run(&[&plain[..], &["-v"]].concat());
    assert_eq!(said.text(), format!("{}\n", answer["text"].as_str().unwrap()));
    assert!(said.err.contains("5 tokens · seed"), "{said:?}");
}

#[test]
fn the_end_token_counts_only_if_it_is_ignored() {
    let machine = machine();
    // Found by trying: the model ends this answer by itself.
    let ended = (0..64).find_map(|seed: u32| {
        let seed = seed.to_string();
        let args =
            ["--prompt-ids", IDS, "--max-tokens", "64", "--temperature", "3", "--seed", &seed];
        let answer = ask(&machine, &args);
        (answer["finish_reason"] == "stop").then_some((seed, answer))
    });
    let (seed, ended) = ended.expect("one of these answers ends by itself");
    let args = ["--prompt-ids", IDS, "--max-tokens", "64", "--temperature", "3", "--seed", &seed];
    let on = ask(&machine, &[&args[..], &["--ignore-eos"]].concat());
    let [ended, on] = [&ended, &on].map(|answer| answer["tokens"].as_array().unwrap());
    assert_eq!(on.len(), 64);
    assert!(ended.len() < 64 && on.starts_with(ended));
    // What stands there now is an end token, which was not counted before.
    let end = on[ended.len()].as_u64().unwrap();
    assert!(end < 3, "{end} is no control token");
}

#[test]
fn raw_text_goes_without_template_and_chat_with_it() {
    let machine = machine();
    let prompt_of = |args: &[&str]| {
        ask(&machine, &[args, &["--max-tokens", "1"]].concat())["prompt_tokens"].clone()
    };
    let raw = prompt_of(&["The river runs down to the sea and", "--raw"]);
    let known = json!([504, 412, 89, 331, 412, 419, 99, 287, 323, 94, 288, 260, 427, 81, 284]);
    assert_eq!(raw, known, "as the reference engine reads it");
    let chat = prompt_of(&["The river runs down to the sea and"]);
    let chat = chat.as_array().unwrap();
    assert!(chat.windows(15).any(|window| window == known.as_array().unwrap().as_slice()));
    assert!(chat.len() > 15);
}

#[test]
fn a_dash_reads_the_prompt_from_stdin() {
    let machine = machine();
    let args = ["run", TINY, "-", "--json", "--max-tokens", "4", "--temperature", "0", "--raw"];
    let said = machine.run_with(&args, "Hello\nthere").json();
    let same = ["Hello\nthere", "--max-tokens", "4", "--temperature", "0", "--raw"];
    let given = ask(&machine, &same);
    assert_eq!(
        (&said["tokens"], &said["prompt_tokens"]),
        (&given["tokens"], &given["prompt_tokens"])
    );
    machine.run_with(&args, "").is_refused(2, &["empty"]);
}

#[test]
fn a_seed_gives_the_same_answer_and_a_drawn_one_is_told() {
    let machine = machine();
    let with = |more: &[&str]| {
        let args = ["--prompt-ids", IDS, "--max-tokens", "24", "--temperature", "1.5"];
        ask(&machine, &[&args[..], more].concat())
    };
    let fixed = with(&["--seed", "7"]);
    assert_eq!(with(&["--seed", "7"])["tokens"], fixed["tokens"]);
    assert_ne!(with(&["--seed", "8"])["tokens"], fixed["tokens"]);
    let drawn = with(&[]);
    assert_eq!(with(&["--seed", &drawn["seed"].to_string()])["tokens"], drawn["tokens"]);
    assert_ne!(with(&[])["seed"], drawn["seed"]);
}

/// The `top` of each position.
fn scores(machine: &Machine, ids: &str, top: &str) -> Vec<Vec<(u64, f64)>> {
    let said = machine.run(&["score", TINY, "--ids", ids, "--top", top, "--json"]).json();
    let pair = |pair: &Value| (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
    let row = |at: &Value| at["top"].as_array().unwrap().iter().map(pair).collect();
    said["positions"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn scores_are_one_row_an_id_in_falling_order_over_the_whole_vocabulary() {
    let machine = machine();
    let whole = scores(&machine, IDS, &VOCAB.to_string());
    assert_eq!(whole.len(), 3);
    for row in &whole {
        assert_eq!(row.len(), VOCAB);
        let falls = |pair: &[(u64, f64)]| {
            pair[0].1 > pair[1].1 || pair[0].1 == pair[1].1 && pair[0].0 < pair[1].0
        };
        assert!(row.windows(2).all(falls));
        let mut ids: Vec<u64> = row.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..VOCAB as u64));
        let sum: f64 = row.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
    for top in [1, 5, 300] {
        let some = scores(&machine, IDS, &top.to_string());
        let cut: Vec<_> = whole.iter().map(|row| row[..top].to_vec()).collect();
        assert_eq!(some, cut, "top {top}");
    }
    let first = ask(&machine, &["--prompt-ids", IDS, "--max-tokens", "1", "--temperature", "0"]);
    assert_eq!(first["tokens"][0], whole[2][0].0, "a row says what follows its id");
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let machine = machine();
    machine.run(&["run", "smolm2:135m", "x"]).is_refused(3, &["smolm2:135m", "smollm2:135m"]);
    machine.run(&["run", "nothing-like-it", "x"]).is_refused(3, &["taimatsu ls"]);
    let missing = machine.path("missing.gguf");
    let missing = missing.to_str().unwrap();
    machine.run(&["run", missing, "x"]).is_refused(3, &[missing, "no file"]);
    machine.run(&["score", missing, "--ids", "1"]).is_refused(3, &[missing, "no file"]);
    machine.run(&["up", "--api", FREE, "--serve", missing]).is_refused(3, &[missing, "no file"]);
    machine.run(&["import", missing]).is_refused(3, &[missing, "No such file"]);
    machine.run(&["show", missing]).is_refused(3, &[missing]);
    machine.run(&["pull", "nobody:1b"]).is_refused(3, &["nobody:1b", "smollm2:135m"]);
}

#[test]
fn broken_files_are_refused_by_what_is_wrong_with_them() {
    let machine = machine();
    let whole = std::fs::read(TINY).unwrap();
    let mut garbage: Vec<u8> =
        (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    let mut lying = whole.clone();
    lying[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let cut = whole[..whole.len() / 2].to_vec();
    for (name, bytes, words) in [
        ("cut.gguf", &cut, "beyond the end of the file"),
        ("head.gguf", &whole[..40].to_vec(), "cut short"),
        ("empty.gguf", &Vec::new(), "cut short"),
        ("garbage.gguf", &garbage.split_off(1), "not a GGUF file"),
        ("lying.gguf", &lying, "tensors"),
    ] {
        let path = machine.path(name);
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        for args in [
            &["run", path, "x"][..],
            &["score", path, "--ids", "1"],
            &["up", "--api", FREE, "--serve", path],
            &["import", path],
            &["show", path],
        ] {
            machine.run(args).is_refused(1, &[name, words, "GGUF file of a supported kind"]);
        }
    }
    assert_eq!(machine.run(&["ls", "--json"]).json()["models"], json!([]));
}

#[test]
fn questions_that_cannot_be_are_refused() {
    let machine = machine();
    let vocab = VOCAB.to_string();
    machine.run(&["run", TINY, "--prompt-ids", &vocab]).is_refused(2, &[&vocab, "vocabulary"]);
    machine.run(&["score", TINY, "--ids", &vocab]).is_refused(2, &[&vocab, "vocabulary"]);
    let long = vec!["5"; CONTEXT as usize + 1].join(",");
    let context = CONTEXT.to_string();
    machine.run(&["run", TINY, "--prompt-ids", &long]).is_refused(2, &[&context, "shorter prompt"]);
    machine.run(&["score", TINY, "--ids", &long]).is_refused(2, &[&context, "shorter prompt"]);
    // The last token's own position is never computed.
    let args = ["run", TINY, "--prompt-ids", "5,6", "--max-tokens", &context];
    machine.run(&args).is_refused(2, &[&context, "--max-tokens"]);
    let fits = ask(&machine, &["--prompt-ids", "5", "--max-tokens", &context, "--ignore-eos"]);
    assert_eq!(fits["tokens"].as_array().unwrap().len() as u32, CONTEXT);
    for (name, value) in [("--temperature", "-1"), ("--top-p", "2"), ("--min-p", "nan")] {
        let wish = format!("{name}={value}");
        machine.run(&["run", TINY, "x", &wish]).is_refused(2, &[&name[2..3]]);
    }
}

#[test]
fn a_wrong_command_line_is_told_in_four_lines() {
    let machine = machine();
    machine.run(&["--bogus"]).is_refused(2, &["--bogus"]);
    machine.run(&["frobnicate"]).is_refused(2, &["frobnicate"]);
    machine.run(&["run"]).is_refused(2, &["MODEL"]);
    machine.run(&["run", TINY]).is_refused(2, &["PROMPT"]);
    machine.run(&["run", TINY, "x", "--route", "moon"]).is_refused(2, &["moon", "local"]);
    machine.run(&["score", TINY, "--ids", "1,x"]).is_refused(2, &["--ids"]);
    machine.run(&["score", TINY, "--ids", "1", "--top", "0"]).is_refused(2, &["--top"]);
    machine.run(&["up", "--api", FREE, "--listen", "nowhere"]).is_refused(2, &["nowhere", "/ip4/"]);
    machine
        .run(&["up", "--api", FREE, "--bootstrap", "nowhere"])
        .is_refused(2, &["nowhere", "/ip4/"]);
    machine.run(&["up", "--api", "nowhere"]).is_refused(2, &["nowhere", "127.0.0.1:4810"]);
    for span in ["3-9", "2-1", "4", "x", ""] {
        let serve = format!("{TINY}@{span}");
        machine.run(&["up", "--api", FREE, "--serve", &serve]).is_refused(2, &[&serve, "@0-3"]);
    }
}

#[test]
fn a_command_that_needs_a_node_says_that_there_is_none() {
    let machine = machine();
    machine.run(&["status"]).is_refused(4, &["taimatsu up"]);
    machine.run(&["run", TINY, "x", "--route", "local"]).is_refused(4, &["taimatsu up"]);
    machine.run(&["score", TINY, "--ids", "1", "--route", "chain"]).is_refused(4, &["taimatsu up"]);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    machine.run(&["status", "--api", &gone]).is_refused(4, &[&gone]);
}

/// Runs a command with a python3 that fetches nothing and leaves a mark; whether it left one.
fn fetches(machine: &Machine, args: &[&str], offline: &str) -> (Said, bool) {
    let (bin, mark) = (machine.path("bin"), machine.path("mark"));
    std::fs::create_dir_all(&bin).unwrap();
    let python = bin.join("python3");
    std::fs::write(&python, format!("#!/bin/sh\n: > '{}'\nexit 1\n", mark.display())).unwrap();
    std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = machine.command(args);
    command.env("TAIMATSU_OFFLINE", offline).env("PATH", &bin);
    let said = Running::start(command).said();
    (said, std::fs::remove_file(mark).is_ok())
}

#[test]
fn offline_nothing_is_fetched() {
    let machine = machine();
    for args in [
        &["run", "smollm2:135m", "x"][..],
        &["score", "smollm2:135m", "--ids", "1"],
        &["pull", "smollm2:135m"],
        &["up", "--serve", "smollm2:135m@0-9", "--api", FREE],
        &["demo", "--quiet"],
    ] {
        let (said, fetched) = fetches(&machine, args, "1");
        said.is_refused(3, &["smollm2:135m", "TAIMATSU_OFFLINE", "taimatsu import"]);
        assert!(!fetched, "{args:?}");
    }
    let (said, fetched) = fetches(&machine, &["pull", "smollm2:135m"], "0");
    assert!(fetched && said.status.code() == Some(1), "online it would have been: {said:?}");
    assert_eq!(std::fs::read_dir(machine.models().join("gguf")).unwrap().count(), 0);
}

#[test]
fn a_read_only_store_is_used_and_not_changed() {
    let machine = machine();
    stored(&machine, "tiny");
    let models = machine.models();
    // Also for one who may write everywhere.
    std::fs::remove_file(models.join("lock")).unwrap();
    std::fs::create_dir(models.join("lock")).unwrap();
    std::fs::set_permissions(&models, PermissionsExt::from_mode(0o555)).unwrap();
    assert!(machine.run(&["ls"]).text().starts_with("tiny "));
    for name in ["tiny", TINY] {
        let args = ["run", name, "--prompt-ids", IDS, "--max-tokens", "2", "--json"];
        assert_eq!(machine.run(&args).json()["tokens"].as_array().unwrap().len(), 2);
    }
    let node = up(&machine, &["--serve", "tiny"]);
    assert_eq!(node.get("/health").0, 200);
    let read_only = ["read-only", models.to_str().unwrap(), "--models"];
    machine.run(&["import", TINY, "--name", "other"]).is_refused(7, &read_only);
    machine.run(&["rm", "tiny"]).is_refused(7, &read_only);
    std::fs::set_permissions(&models, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(machine.run(&["ls"]).text().starts_with("tiny "));
}

#[test]
fn places_that_cannot_be_used_are_named() {
    let machine = machine();
    let file = machine.path("file");
    std::fs::write(&file, "in the way").unwrap();
    let place = file.join("below");
    let place = place.to_str().unwrap();
    let home = ["up", "--api", FREE, "--home", place];
    machine.run(&home).is_refused(7, &[place, "--home DIR"]);
    machine.run(&["ls", "--models", place]).is_refused(7, &[place, "--models DIR"]);
    machine.run(&["run", TINY, "x", "--models", place]).is_refused(7, &[place, "--models DIR"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
}

#[test]
fn a_port_in_use_is_named() {
    let machine = machine();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let api = format!("127.0.0.1:{port}");
    machine.run(&["up", "--api", &api]).is_refused(7, &[&api, "--api"]);
    let door = format!("/ip4/127.0.0.1/tcp/{port}");
    let args = ["up", "--api", FREE, "--listen", &door];
    machine.run(&args).is_refused(7, &[&port.to_string(), "--listen"]);
}

#[test]
fn a_home_has_one_node() {
    let machine = machine();
    let first = up(&machine, &[]);
    let (home, pid) = (machine.home(), first.pid().to_string());
    let second = machine.run(&["up", "--api", FREE]);
    second.is_refused(7, &[home.to_str().unwrap(), &pid, &first.api, "--home"]);
    assert_eq!(first.get("/taimatsu/v1/status").0, 200, "the first one goes on");
    let status = machine.run(&["status", "--json"]).json();
    assert_eq!(status["peer"], *first.peer);
}

#[test]
fn a_node_answers_commands_and_stops_in_order() {
    let machine = machine();
    let node = up(&machine, &["--serve", TINY]);
    let args = ["--prompt-ids", IDS, "--max-tokens", "6", "--temperature", "0"];
    let here = ask(&Machine::new(PROGRAM), &args);
    for route in ["local", "whole"] {
        let answer = ask(&machine, &[&args[..], &["--route", route]].concat());
        assert_eq!((&answer["tokens"], &answer["text"]), (&here["tokens"], &here["text"]));
        assert_eq!(answer["route"][0]["peer"], *node.peer);
        assert_eq!(answer["route"][0]["blocks"], json!([0, 3]));
    }
    let chain = machine.run(&["run", TINY, "x", "--route", "chain"]);
    chain.is_refused(5, &["--route"]);
    let scored = ["score", TINY, "--ids", IDS, "--top", "4", "--json"];
    let through = machine.run(&[&scored[..], &["--route", "local"]].concat()).json();
    assert_eq!(through, Machine::new(PROGRAM).run(&scored).json());
    let broken = ["run", TINY, "--prompt-ids", "640", "--route", "local"];
    machine.run(&broken).is_refused(2, &["640", "vocabulary"]);
    assert!(machine.run(&["status"]).text().contains(&node.peer));
    let note = machine.home().join("node.json");
    assert!(note.is_file());
    node.signal("TERM");
    let said = node.said();
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    assert!(said.err.contains("stopping") && !note.exists(), "{said:?}");
    machine.run(&["status"]).is_refused(4, &["taimatsu up"]);
}

#[test]
fn what_a_killed_node_leaves_is_in_nobodys_way() {
    let machine = machine();
    let mut killed = up(&machine, &["--serve", TINY]);
    killed.kill();
    let (home, peer) = (machine.home(), killed.peer.clone());
    assert!(home.join("node.json").is_file(), "it could not tidy up");
    machine.run(&["status"]).is_refused(4, &["taimatsu up"]);
    let args = ["--prompt-ids", IDS, "--max-tokens", "2"];
    assert_eq!(ask(&machine, &args)["route"], json!([]), "computed without a node");
    let next = up(&machine, &[]);
    assert_eq!(next.peer, peer, "it is the same node");
    assert_eq!(machine.run(&["status", "--json"]).json()["peer"], *peer);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(home.join("node.key")), mode(home)), (0o600, 0o700));
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let machine = machine();
    stored(&machine, "tiny");
    for args in ["ls", "show tiny", "version", "score tiny --ids 1", "run tiny --prompt-ids 1"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let args: Vec<&str> = args.split(' ').collect();
        let said = machine.command(&args).stdout(writer).output().unwrap();
        let err = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.starts_with("error: the answer cannot be written") && err.lines().count() <= 4);
    }
}

/// Two hosts with stores of their own, and a client that has nothing but an address.
#[test]
fn machines_by_hand_meet_through_one_address() {
    let [first, second, client] = [(); 3].map(|()| machine());
    let id = first.run(&["import", TINY, "--name", "tiny", "--json"]).json()["id"].clone();
    let id = id.as_str().unwrap();
    stored(&second, "another-name");
    let leader = up(&first, &["--serve", "tiny@0-1"]);
    let door = &leader.addresses[0];
    let tail = up(&second, &["--serve", "another-name@2-3", "--bootstrap", door]);
    let asker = up(&client, &["--bootstrap", door, "--offline"]);
    asker.wait_until_covered();
    let args = ["--max-tokens", "8", "--temperature", "0", "--json"];
    let prompt = "The lantern of the harbour";
    let answer = client.run(&[&["run", id, prompt, "--route", "chain"], &args[..]].concat()).json();
    let peers = [&answer["route"][0]["peer"], &answer["route"][1]["peer"]];
    assert_eq!(peers, [&*leader.peer, &*tail.peer]);
    let alone = machine().run(&[&["run", TINY, prompt], &args[..]].concat()).json();
    for key in ["tokens", "prompt_tokens", "text", "finish_reason"] {
        assert_eq!(answer[key], alone[key]);
    }
    let blobs = std::fs::read_dir(client.models().join("blobs")).unwrap().count();
    assert_eq!(blobs, 3, "manifest, tokenizer and template came from a host");
    assert_eq!(std::fs::read_dir(client.models().join("gguf")).unwrap().count(), 0);
}
