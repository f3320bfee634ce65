//! Bad days: full and read-only disks, damaged files, kills in the middle of a write, crowds of idle
//! connections, peers that dawdle. What people read then, and that the node goes on.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use taimatsu_tests::program::{Machine, Running, Said, until};
use taimatsu_tests::swarm::{Member, question};

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// A model of four blocks and 640 tokens that answers in milliseconds, and one that is alike.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_1.gguf");
const OTHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_0.gguf");

/// A command line of a node on free ports.
const UP: [&str; 8] =
    ["up", "--json", "--threads=1", "--api=127.0.0.1:0", "--listen", DOOR, "--swarm", "bad-days"];
const DOOR: &str = "/ip4/127.0.0.1/tcp/0";

const IDS: [u32; 3] = [504, 412, 89];

/// Whatever its permissions say, nobody can make a file here: not even the superuser.
const NOWHERE: &str = "/proc/self/nowhere";

/// Memory that a crowd of idle connections may cost, in KiB.
const CROWD_COSTS: u64 = 64 << 10;

fn machine() -> Machine {
    Machine::new(PROGRAM)
}

fn node(machine: &Machine, more: &[&str]) -> Member {
    Member::start(machine.command(&[&UP[..], more].concat()))
}

/// The tokens of a node's answer, or what it says instead.
fn ask(node: &Member, model: &str, route: &str) -> Result<Vec<u64>, String> {
    let body = node.post("/taimatsu/v1/run", &question(model, &IDS, 4, route)).text().unwrap();
    let events: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    if events.last().is_none_or(|last| !last["finished"].is_object()) {
        return Err(body);
    }
    Ok(events.iter().filter_map(|event| event["token"]["id"].as_u64()).collect())
}

/// Runs a command where no file may grow beyond so many blocks of 512 bytes: to the program, a disk
/// that is full.
fn cramped(machine: &Machine, blocks: u32, args: &[&str]) -> Said {
    let plain = machine.command(args);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f \"$0\"; exec \"$@\"", &blocks.to_string()]);
    command.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Running::start(command).said()
}

/// All files below a folder that hold something.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.metadata().is_ok_and(|about| about.len() > 0) {
            all.push(path);
        }
    }
    all
}

fn names(machine: &Machine) -> Vec<String> {
    let listed = machine.run(&["ls", "--json"]).json();
    let models = listed["models"].as_array().unwrap().iter();
    models.map(|model| model["names"][0].as_str().unwrap().to_owned()).collect()
}

/// A stored model's file.
fn stored(machine: &Machine) -> PathBuf {
    assert_eq!(machine.run(&["import", TINY, "--name", "tiny"]).text(), "");
    let mut found = files(&machine.models().join("gguf"));
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn a_full_disk_leaves_nothing_of_an_import() {
    let machine = machine();
    for blocks in [0, 8, 1_000] {
        let said = cramped(&machine, blocks, &["import", TINY, "--name", "tiny"]);
        said.is_refused(7, &["cause: File too large", "ulimit -f"]);
        assert_eq!(files(&machine.models()), [""; 0].map(PathBuf::from), "{blocks} blocks");
        assert_eq!(names(&machine), [""; 0]);
    }
    stored(&machine);
    let before = fs::read(machine.models().join("models.json")).unwrap();
    cramped(&machine, 1_000, &["import", OTHER, "--name", "other"]).is_refused(7, &["too large"]);
    assert_eq!(fs::read(machine.models().join("models.json")).unwrap(), before);
    assert_eq!(names(&machine), ["tiny"]);
}

#[test]
fn a_full_disk_leaves_no_half_of_a_home() {
    let machine = machine();
    // No room for the key; then for the key, and not for the ledger.
    cramped(&machine, 0, &UP).is_refused(7, &["node.key", "File too large", "room on the disk"]);
    assert!(files(&machine.home()).is_empty());
    for blocks in [1, 16, 64] {
        cramped(&machine, blocks, &UP).is_refused(7, &["ledger.redb", "File too large", "room"]);
    }
    let key = fs::read(machine.home().join("node.key")).unwrap();
    assert_eq!(key.len(), 32);
    let node = node(&machine, &[]);
    node.signal("TERM");
    let said = node.said();
    assert!(!said.err.contains("broken"), "{said:?}");
    assert_eq!(fs::read(machine.home().join("node.key")).unwrap(), key);
}

#[test]
fn a_home_that_cannot_be_written_is_refused() {
    let machine = machine();
    let file = machine.path("file");
    fs::write(&file, "x").unwrap();
    for home in [NOWHERE, file.to_str().unwrap(), file.join("home").to_str().unwrap()] {
        let args = [&UP[..], &["--home", home]].concat();
        machine.run(&args).is_refused(7, &[home, "cause", "--home DIR"]);
    }
}

#[test]
fn a_store_that_cannot_be_written_is_read_and_takes_nothing() {
    let machine = machine();
    let file = machine.path("file");
    fs::write(&file, "x").unwrap();
    for models in [NOWHERE, file.join("models").to_str().unwrap()] {
        let args = ["import", TINY, "--models", models];
        machine.run(&args).is_refused(7, &[models, "cause", "--models DIR"]);
    }
    // A folder is there, and nothing can be made in it.
    machine.run(&["import", TINY, "--models", "/proc"]).is_refused(7, &["read-only", "--models"]);
    let answer = ["run", TINY, "x", "--raw", "--json", "--max-tokens", "2", "--models", "/proc"];
    assert_eq!(machine.run(&answer).json()["tokens"].as_array().unwrap().len(), 2);
    let node = node(&machine, &["--serve", TINY, "--models", "/proc"]);
    assert_eq!(ask(&node, TINY, "local").unwrap().len(), 4);
}

#[test]
fn a_stored_file_that_was_damaged_is_named_and_can_be_stored_again() {
    let machine = machine();
    let file = stored(&machine);
    let name = file.to_str().unwrap().to_owned();
    let length = file.metadata().unwrap().len();
    let refused = |words: &[&str]| {
        let words = [&[&name, "cause", "taimatsu rm MODEL"], words].concat();
        machine.run(&["run", "tiny", "x"]).is_refused(8, &words);
        machine.run(&["show", "tiny"]).is_refused(8, &words);
        machine.run(&[&UP[..], &["--serve", "tiny"]].concat()).is_refused(8, &words);
    };
    fs::File::options().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
    refused(&["bytes"]);
    fs::remove_file(&file).unwrap();
    refused(&["gone"]);
    assert_eq!(stored(&machine), file);
    // Another model of the same length: the blobs are all that tells, and they are lost.
    for blob in files(&machine.models().join("blobs")) {
        fs::write(blob, "damaged").unwrap();
    }
    assert_eq!(machine.run(&["show", "tiny", "--json"]).json()["names"], json!(["tiny"]));
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(2).position(|word| word == b"{%").expect("it has a template");
    bytes[at + 1] = b' ';
    fs::write(&file, bytes).unwrap();
    refused(&["another model"]);
    assert_eq!(machine.run(&["rm", "tiny"]).text(), "");
    stored(&machine);
    assert_eq!(
        machine.run(&["run", "tiny", "x", "--max-tokens", "1", "--raw"]).status.code(),
        Some(0)
    );
}

#[test]
fn a_list_of_models_that_cannot_be_read_is_named_and_kept() {
    let machine = machine();
    stored(&machine);
    let list = machine.models().join("models.json");
    let whole = fs::read_to_string(&list).unwrap();
    let newer = whole.replace("\"schema_version\": 1", "\"schema_version\": 9");
    for (text, words) in [
        ("", ["not readable", "move it away"]),
        ("{\"schema", ["not readable", "move it away"]),
        (&newer, ["version 9", "newer taimatsu"]),
    ] {
        fs::write(&list, text).unwrap();
        for args in [&["ls"][..], &["show", "tiny"], &["run", "tiny", "x"], &["import", OTHER]] {
            machine.run(args).is_refused(1, &[&["models.json"], &words[..]].concat());
            assert_eq!(fs::read_to_string(&list).unwrap(), text, "{args:?}");
        }
    }
    fs::write(&list, whole).unwrap();
    assert_eq!(names(&machine), ["tiny"]);
}

#[test]
fn a_broken_ledger_is_moved_aside_and_the_node_starts() {
    let machine = machine();
    let ledger = machine.home().join("ledger.redb");
    let first = node(&machine, &[]);
    first.signal("TERM");
    assert!(!first.said().err.contains("warning"));
    let whole = fs::read(&ledger).unwrap();
    let garbage: Vec<u8> =
        (0..50_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    for (bytes, warns) in [(garbage, true), (whole[..5_000].to_vec(), true), (Vec::new(), false)] {
        fs::write(&ledger, &bytes).unwrap();
        let node = node(&machine, &[]);
        assert_eq!(node.get("/taimatsu/v1/status").0, 200);
        node.signal("TERM");
        let said = node.said();
        assert_eq!(said.err.contains("ledger.redb is broken"), warns, "{said:?}");
        assert_eq!(said.err.contains("standings begin anew"), warns, "{said:?}");
        let aside = |path: &PathBuf| path.to_string_lossy().contains("ledger.broken-");
        let aside: Vec<_> = files(&machine.home()).into_iter().filter(aside).collect();
        assert_eq!(aside.len(), usize::from(warns), "{aside:?}");
        for path in aside {
            assert_eq!(fs::read(&path).unwrap(), bytes, "what was there is kept");
            fs::remove_file(path).unwrap();
        }
    }
}

/// Replaced by a rename, the old file lives on under the node. Overwritten, it would be computed
/// with what is there now, for the node maps the file: it refuses, and does not fall.
#[test]
fn a_model_that_changes_under_a_node_does_not_end_it() {
    let machine = machine();
    let file = machine.path("model.gguf");
    let reference = file.to_str().unwrap();
    fs::copy(TINY, &file).unwrap();
    let id = |machine: &Machine| machine.run(&["show", reference, "--json"]).json()["id"].clone();
    let (first, node) = (id(&machine), node(&machine, &["--serve", reference]));
    let (model, answer) = (first.as_str().unwrap(), ask(&node, reference, "local").unwrap());
    fs::copy(OTHER, machine.path("new.gguf")).unwrap();
    fs::rename(machine.path("new.gguf"), &file).unwrap();
    assert_eq!(ask(&node, model, "local").unwrap(), answer, "the old file is what it serves");
    let second = id(&machine);
    assert_ne!(second, first, "who starts now sees another model");
    let other = machine_with(&machine, reference);
    assert_eq!(ask(&other, second.as_str().unwrap(), "local").unwrap().len(), 4);
    let length = file.metadata().unwrap().len();
    let weights = fs::File::options().write(true).open(&file).unwrap();
    weights.write_all_at(&vec![0xff; 200_000], length - 200_000).unwrap();
    assert!(ask(&other, second.as_str().unwrap(), "local").is_err(), "not with other weights");
    weights.set_len(50_000).unwrap();
    assert!(ask(&other, second.as_str().unwrap(), "local").is_err());
    assert_eq!(other.get("/taimatsu/v1/status").0, 200, "it lives");
    weights.set_len(length).unwrap();
    assert_ne!(id(&machine), second, "who starts now sees another model again");
}

/// A second node on this machine, with a home of its own.
fn machine_with(machine: &Machine, serve: &str) -> Member {
    let home = machine.path("second");
    node(machine, &["--home", home.to_str().unwrap(), "--serve", serve])
}

#[test]
fn an_import_that_is_killed_leaves_a_whole_store() {
    let machine = machine();
    stored(&machine);
    let partial = machine.models().join("partial");
    let mut killed = 0;
    // Killed when its files have come this far: as soon as it runs, in the middle, at its end.
    for step in 0..12_u64 {
        let far = |partial: &Path| {
            let lengths = files(partial).into_iter().filter_map(|file| file.metadata().ok());
            lengths.map(|about| about.len()).sum::<u64>() >= step * 240_000
        };
        let mut import = Running::start(machine.command(&["import", OTHER, "--name", "other"]));
        until("progress, or the end", || (far(&partial) || import.has_ended()).then_some(()));
        killed += u32::from(!import.has_ended());
        drop(import);
        let listed = names(&machine);
        assert!(listed == ["tiny"] || listed == ["other", "tiny"], "{listed:?}");
        for name in &listed {
            assert!(machine.run(&["show", name]).text().contains("blake3:"));
            let answer = machine.run(&["run", name, "x", "--raw", "--max-tokens", "1"]);
            assert_eq!(answer.status.code(), Some(0), "{answer:?}");
        }
        // The next that writes sweeps.
        assert_eq!(machine.run(&["import", OTHER, "--name", "other"]).text(), "");
        assert_eq!(fs::read_dir(&partial).unwrap().count(), 0);
        assert_eq!(machine.run(&["rm", "other"]).text(), "");
        assert_eq!(names(&machine), ["tiny"]);
    }
    assert!(killed > 0, "none was killed in time");
}

#[test]
fn a_node_that_is_killed_keeps_a_beginning_of_what_it_learned() {
    let machine = machine();
    let (home, second) = (machine.path("client"), machine.path("empty"));
    let host = node(&machine, &["--serve", TINY]);
    let id = machine.run(&["show", TINY, "--json"]).json()["id"].as_str().unwrap().to_owned();
    let (home, second) = (home.to_str().unwrap(), second.to_str().unwrap());
    let mut kept: Vec<Value> = Vec::new();
    let mut asked = 0;
    for answers in [1, 2, 5, 3] {
        let places = ["--home", home, "--models", second, "--bootstrap", &host.addresses[0]];
        let mut client = node(&machine, &places);
        until("a first answer", || ask(&client, &id, "whole").ok());
        (1..answers).for_each(|_| drop(ask(&client, &id, "whole").unwrap()));
        asked += answers;
        client.kill();
        let said = machine.run(&["receipts", "--home", home, "--json"]);
        assert!(!said.err.contains("broken"), "{said:?}");
        let now = said.json()["answers"].as_array().unwrap().clone();
        assert!(now.len() >= kept.len() && now.len() <= asked, "{} of {asked}", now.len());
        // The newest first: what was there is there as it was.
        assert!(now.ends_with(&kept), "{now:?} after {kept:?}");
        kept = now;
    }
    assert!(!kept.is_empty(), "nothing was ever written");
}

/// Memory of a process, in KiB, and its open files.
fn held(node: &Member) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count())
}

/// The socket address of a node's door.
fn door(node: &Member) -> String {
    let mut parts = node.addresses[0].split('/').skip(2);
    format!("{}:{}", parts.next().unwrap(), parts.nth(1).unwrap())
}

#[test]
fn a_crowd_of_idle_connections_is_let_go() {
    let machine = machine();
    let node = node(&machine, &["--serve", TINY]);
    let answer = ask(&node, TINY, "local").unwrap();
    let (memory, open) = held(&node);
    let connect = |to: &str| TcpStream::connect(to).unwrap();
    for (to, many) in [(door(&node), 1_000), (node.api.clone(), 300)] {
        let crowd: Vec<TcpStream> = (0..many).map(|_| connect(&to)).collect();
        for _ in 0..3 {
            assert_eq!(ask(&node, TINY, "local").unwrap(), answer);
        }
        let (now, _) = held(&node);
        assert!(now < memory + CROWD_COSTS, "{memory} KiB before, {now} with {many} idle");
        // They stay; it is the node that ends them.
        until("few open files", || (held(&node).1 <= open + 8).then_some(()));
        drop(crowd);
    }
    assert_eq!(ask(&node, TINY, "local").unwrap(), answer);
}

#[test]
fn who_sends_byte_by_byte_holds_up_nobody() {
    let machine = machine();
    let host = node(&machine, &["--serve", TINY]);
    let id = machine.run(&["show", TINY, "--json"]).json()["id"].as_str().unwrap().to_owned();
    let home = machine.path("client");
    let places = ["--home", home.to_str().unwrap(), "--bootstrap", &host.addresses[0]];
    // The handshake of a door, and the head of a request, that never come to an end.
    let mut slow: Vec<(TcpStream, &[u8])> = vec![
        (TcpStream::connect(door(&host)).unwrap(), b"\x13/multistream/1.0.0\n"),
        (TcpStream::connect(&host.api).unwrap(), b"GET /version HTTP/1.1\r\nx: "),
    ];
    let mut dawdle = |at: usize| {
        for (stream, bytes) in &mut slow {
            stream.write_all(&bytes[at..=at]).unwrap();
        }
    };
    dawdle(0);
    let client = node(&machine, &places);
    until("an answer over the door", || ask(&client, &id, "whole").ok());
    for at in 1..12 {
        dawdle(at);
        assert_eq!(ask(&client, &id, "whole").unwrap(), ask(&host, TINY, "local").unwrap());
    }
}
