//! What the owner of a node is promised: settings that count in their order, verbs that say how
//! things are, limits that hold, and a node that stops as it is told and finds its way back.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::process::Command;

use reqwest::blocking::Response;
use serde_json::{Value, json};
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Store, pull, store};
use taimatsu_tests::program::{Machine, Running, Said, until};
use taimatsu_tests::swarm::{Member, question};

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

/// The lowest limit: a long answer of the small model lasts.
const SLOW: &str = "16";

/// Tokens of an answer that lasts.
const LONG: u32 = 1_900;

/// Two hosts that share the model, the first of them slow, and a client; each on its own machine.
struct Chain {
    first: Member,
    second: Member,
    asker: Member,
    client: Machine,
    _machines: [Machine; 2],
}

impl Chain {
    fn stand(upload: &[&str], client: &[&str]) -> Self {
        let machines = [machine(), machine()];
        let of_client = machine();
        let serve = |span: &str| format!("{TINY}@{span}");
        let first = up(&machines[0], &[&["--serve", &serve("0-1")], upload].concat());
        let door = first.addresses[0].clone();
        let second = up(&machines[1], &["--serve", &serve("2-3"), "--bootstrap", &door]);
        let asker = up(&of_client, &[&["--bootstrap", &door], client].concat());
        asker.wait_until_covered();
        Self { first, second, asker, client: of_client, _machines: machines }
    }

    fn ask(&self, tokens: u32) -> Events {
        let mut body = question(TINY, &[504, 412, 89], tokens, "chain");
        body["ignore_eos"] = true.into();
        Events(BufReader::new(self.asker.post("/taimatsu/v1/run", &body)))
    }
}

/// An answer's events.
struct Events(BufReader<Response>);

impl Events {
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The first events: it runs.
    fn run(&mut self) {
        assert!(self.next().unwrap()["started"].is_object());
        assert!(self.next().unwrap()["token"].is_object());
    }

    /// The last one.
    fn last(mut self) -> Value {
        let mut last = Value::Null;
        while let Some(event) = self.next() {
            last = event;
        }
        last
    }
}

#[test]
fn a_low_limit_slows_and_breaks_nothing() {
    let chain = Chain::stand(&["--upload-kib-per-second", SLOW], &[]);
    let args = ["run", TINY, "--prompt-ids", "504,412,89", "--max-tokens", "64", "--json"];
    let args = [&args[..], &["--temperature", "0", "--ignore-eos"]].concat();
    let slow = chain.client.run(&[&args[..], &["--route", "chain"]].concat()).json();
    assert_eq!(slow["tokens"], machine().run(&args).json()["tokens"]);
    let upload = |member: &Member| member.get("/taimatsu/v1/status").1["upload"].clone();
    assert!(upload(&chain.first)["waits"].as_u64().unwrap() > 0, "{}", upload(&chain.first));
    assert_eq!(upload(&chain.second)["waits"], 0);
}

#[test]
fn memory_is_counted_before_anything_is_loaded() {
    let machine = machine();
    let serve = ["serve", TINY, "--api", FREE, "--listen", DOOR, "--json"];
    let tight = machine.run(&[&serve[..], &["--memory-mib", "1"]].concat());
    tight.is_refused(7, &["within 1 MiB", "--memory-mib"]);
    // Both halves fit alone, and not together.
    let [first, second] = ["0-1", "2-3"].map(|span| format!("{TINY}@{span}"));
    let need = |spans: &[&str]| {
        let args = [&["serve"], spans, &serve[2..], &["--memory-mib", "1"]].concat();
        let said = machine.run(&args);
        let at = said.err.find("--memory-mib ").unwrap() + "--memory-mib ".len();
        let digits: String = said.err[at..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap()
    };
    let half = need(&[&first]).max(need(&[&second])).to_string();
    let both = [&["serve", &first, &second], &serve[2..], &["--memory-mib", &half]].concat();
    machine.run(&both).is_refused(7, &["beside"]);
    let fits = [&["serve", &first], &serve[2..], &["--memory-mib", &half, "--threads", "1"]];
    let node = Member::start(machine.command(&fits.concat()));
    assert_eq!(node.get("/taimatsu/v1/status").1["hosting"][0]["blocks"], json!([0, 1]));
}

#[test]
fn the_second_signal_ends_a_client_at_once_and_its_answer_with_a_word() {
    let limit = ["--upload-kib-per-second", SLOW];
    let mut chain = Chain::stand(&limit, &["--drain-seconds", "3600"]);
    let mut events = chain.ask(LONG);
    events.run();
    chain.asker.signal("TERM");
    assert!(chain.asker.err_line("stopping").contains("3600 s"));
    let refused = chain.ask(4).last();
    assert_eq!(refused["failed"]["code"], "stopping", "{refused}");
    chain.asker.signal("TERM");
    let last = events.last();
    assert_eq!(last["failed"]["code"], "stopping", "{last}");
    let said = chain.asker.said();
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    assert!(!chain.client.home().join("node.json").exists());
}

#[test]
fn a_host_that_is_told_to_stop_takes_nobody_new_and_says_so() {
    let limit = ["--upload-kib-per-second", SLOW, "--drain-seconds", "3600"];
    let mut chain = Chain::stand(&limit, &[]);
    let mut events = chain.ask(LONG);
    events.run();
    assert_eq!(chain.first.sessions(), 1);
    let announced =
        |host: &Member| host.get("/taimatsu/v1/status").1["announced_keys"].as_u64().unwrap();
    assert!(announced(&chain.first) > 0);
    chain.first.signal("TERM");
    chain.first.err_line("stopping");
    until("its leave of the DHT", || (announced(&chain.first) == 0).then_some(()));
    assert_eq!(chain.first.sessions(), 1, "and it answers commands meanwhile");
    let refused = chain.ask(4).last();
    assert!(refused["failed"].is_object(), "{refused}");
    assert!(events.next().unwrap()["token"].is_object(), "what was begun goes on");
    until("the host's word that it leaves", || {
        let map = chain.client.run(&["map", TINY, "--json"]).json();
        let spans = map["spans"].as_array().unwrap();
        spans.iter().all(|span| span["peer"] != *chain.first.peer).then_some(())
    });
    let uncovered = chain.ask(4).last();
    assert_eq!(uncovered["failed"]["code"], "coverage_incomplete", "{uncovered}");
    chain.first.signal("TERM");
    let peer = chain.first.peer.clone();
    assert_eq!(chain.first.said().status.code(), Some(0));
    let last = events.last();
    assert!(last["failed"]["message"].as_str().unwrap().contains(&peer), "{last}");
}

#[test]
fn a_host_that_says_goodbye_is_not_asked_again_and_not_blamed() {
    let chain = Chain::stand(&[], &[]);
    assert!(chain.ask(2).last()["finished"].is_object());
    chain.first.signal("TERM");
    assert_eq!(chain.first.said().status.code(), Some(0));
    for _ in 0..3 {
        let body = question(TINY, &[504, 412, 89], 2, "chain");
        let said = chain.asker.post("/taimatsu/v1/run", &body).text().unwrap();
        assert!(said.contains("failed"), "{said}");
    }
    let known = chain.client.run(&["reputation", "--json"]).json();
    let peers = known["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 2, "{known}");
    for peer in peers {
        assert_eq!(peer["available"]["bad"], 0.0, "{known}");
    }
}

#[test]
fn a_drain_ends_when_its_time_is_over() {
    let limit = ["--upload-kib-per-second", SLOW];
    let chain = Chain::stand(&limit, &["--drain-seconds", "0"]);
    let mut events = chain.ask(LONG);
    events.run();
    chain.asker.signal("TERM");
    assert_eq!(events.last()["failed"]["code"], "stopping");
    assert_eq!(chain.asker.said().status.code(), Some(0));
}

#[test]
fn a_node_that_was_in_once_finds_back_without_its_bootstrap_node() {
    let [door, host, client] = [(); 3].map(|()| machine());
    let mut bootstrap = up(&door, &[]);
    let address = bootstrap.addresses[0].clone();
    let hosting = up(&host, &["--serve", TINY, "--bootstrap", &address]);
    let mut asker = up(&client, &["--bootstrap", &address]);
    asker.wait_until_covered();
    let kept = client.home().join("peers.json");
    until("the host among the kept peers", || {
        let kept = std::fs::read_to_string(&kept).ok()?;
        kept.contains(&hosting.peer).then_some(())
    });
    asker.kill();
    bootstrap.kill();
    let again = up(&client, &[]);
    again.wait_until_covered();
    let peers = client.run(&["peers", "--json"]).json()["peers"].clone();
    let met = peers.as_array().unwrap().iter().find(|peer| peer["peer"] == *hosting.peer);
    assert_eq!(met.unwrap()["direct"], true, "{peers}");
    let status = again.get("/taimatsu/v1/status").1;
    assert_eq!(status["bootstrap"], json!({"given": 0, "reached": false}));
}

/// Somebody else listens where a peer of an earlier day did.
#[test]
fn good_peers_of_another_swarm_are_not_dialled() {
    let [door, client] = [(); 2].map(|()| machine());
    let elsewhere = ["--swarm", "elsewhere"];
    let bootstrap = up(&door, &elsewhere);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    let peer = json!({"peer": bootstrap.peer, "addresses": [place], "seen": 1});
    let kept = json!({"schema_version": 1, "swarms": {"owners": [peer]}});
    std::fs::create_dir_all(client.home()).unwrap();
    std::fs::write(client.home().join("peers.json"), kept.to_string()).unwrap();
    let met = up(&client, &[&elsewhere[..], &["--bootstrap", &bootstrap.addresses[0]]].concat());
    until("the bootstrap node", || {
        (met.get("/taimatsu/v1/status").1["dht_peers"] == 1).then_some(())
    });
    // Kept peers are dialled at the start, beside the bootstrap address that was met meanwhile.
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(met);
    let _own = up(&client, &["--swarm", "owners"]);
    until("a dial in their own swarm", || listener.accept().ok());
}

#[test]
fn a_map_shows_every_span_and_every_gap() {
    let [host, client] = [machine(), machine()];
    let first = up(&host, &["--serve", &format!("{TINY}@1-2")]);
    let args = ["--bootstrap", &first.addresses[0], "--trusted", &first.peer];
    let _asker = up(&client, &args);
    until("the host on the map", || {
        let said = client.run(&["map", TINY, "--json"]);
        (said.status.code() == Some(0)).then_some(())
    });
    let map = client.run(&["map", TINY, "--json"]).json();
    assert_eq!((&map["blocks"], &map["min_replicas"]), (&json!(4), &json!(0)));
    assert_eq!(map["replicas"], json!([0, 1, 1, 0]));
    assert_eq!(map["missing"], json!([[0, 0], [3, 3]]));
    let span = &map["spans"][0];
    assert_eq!((&span["peer"], &span["blocks"]), (&json!(first.peer), &json!([1, 2])));
    assert_eq!((&span["trusted"], &span["suspended"]), (&json!(true), &json!(false)));
    assert_eq!(span["free_positions"], 16_384);
    let drawn = client.run(&["map", TINY]).text().to_owned();
    assert!(drawn.contains("·██·") && drawn.contains("no host for blocks 0-0, 3-3"), "{drawn}");
    let own = host.run(&["map", TINY, "--json"]).json();
    assert_eq!(own["spans"][0]["me"], true);
    client.run(&["map", "nothing:1b"]).is_refused(3, &["nothing:1b"]);
    client.run(&["map", "smollm2:135m"]).is_refused(5, &["smollm2:135m"]);
    machine().run(&["map", TINY]).is_refused(4, &["taimatsu up"]);
    let peers = client.run(&["peers"]).text().to_owned();
    assert!(peers.contains(&first.peer) && peers.contains("direct"), "{peers}");
}

/// Whether a process listens on the port of multicast DNS.
fn looks_nearby(node: &Member) -> bool {
    let tables = ["udp", "udp6"].map(|name| {
        std::fs::read_to_string(format!("/proc/{}/net/{name}", node.pid())).unwrap_or_default()
    });
    let of_port =
        |line: &&str| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(":14E9"));
    let sockets: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines().filter(of_port))
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?)))
        .collect();
    let open = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|link| sockets.iter().any(|socket| link == std::path::Path::new(socket)))
}

#[test]
fn a_node_looks_nearby_if_it_is_asked_to() {
    let [asked, other] = [(); 2].map(|()| machine());
    let [asked, other] = [up(&asked, &["--mdns"]), up(&other, &[])];
    // A machine without a network has nothing nearby.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if probe.connect("224.0.0.251:5353").is_ok() {
        until("an ear for its neighbours", || looks_nearby(&asked).then_some(()));
    }
    assert_eq!(asked.get("/taimatsu/v1/status").0, 200);
    assert!(!looks_nearby(&other), "not unless it is asked to");
}

/// The checks of a doctor's report, by name; the last of each.
fn states(report: &Value) -> std::collections::BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    for check in checks.clone() {
        assert_eq!(check["fix"].is_null(), check["state"] == "pass", "{check}");
    }
    checks.map(|check| (text(&check["name"]), text(&check["state"]))).collect()
}

#[test]
fn a_doctor_finds_a_well_machine_and_a_way_into_the_swarm_well() {
    // With the real model, pulled where it is not: its answer is known.
    let models = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&models).unwrap(), &SMOLLM2_135M).unwrap();
    let [door, machine] = [(); 2].map(|()| machine());
    let bootstrap = up(&door, &[]);
    let node = up(&machine, &["--bootstrap", &bootstrap.addresses[0]]);
    until("the other node in the DHT", || {
        (node.get("/taimatsu/v1/status").1["dht_peers"] != 0).then_some(())
    });
    let report = machine.run(&["doctor", "--json", "--models", models.to_str().unwrap()]).json();
    assert_eq!(report["ok"], true, "{report}");
    let states = states(&report);
    let well = ["settings", "clock", "home", "ledger", "api", "ports", "digest", "answer"];
    for name in well.into_iter().chain(["node", "time"]) {
        assert_eq!(states[name], "pass", "{name}: {report}");
    }
    assert_eq!((&*states["swarm"], &*states["dht"]), ("pass", "pass"), "{report}");
}

#[test]
fn a_doctor_names_what_is_wrong_and_what_to_do() {
    let machine = machine();
    assert_eq!(machine.run(&["import", TINY, "--name", "tiny"]).text(), "");
    let folder = machine.models().join("gguf");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    std::fs::create_dir_all(machine.home()).unwrap();
    std::fs::write(machine.home().join("ledger.redb"), "no ledger").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    user_file(&machine, &format!("listen = [\"/ip4/127.0.0.1/tcp/{port}\"]\napi = \"{port}\"\n"));
    let said = machine.run(&["doctor", "--json"]);
    assert_eq!(said.status.code(), Some(9), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["ok"], false);
    let seen = states(&report);
    for (name, state) in [
        ("settings", "pass"),
        ("api", "fail"),
        ("ports", "fail"),
        ("digest", "fail"),
        ("ledger", "fail"),
        ("answer", "warn"),
        ("node", "warn"),
    ] {
        assert_eq!(seen[name], state, "{name}: {report}");
    }
    let plain = machine.run(&["doctor"]);
    assert!(plain.out.contains("✗ digest") && plain.out.contains("taimatsu rm tiny"), "{plain:?}");
    assert!(plain.err.starts_with("error: 4 of "), "{plain:?}");
    // Settings that cannot be read are a finding like the others.
    user_file(&machine, "prots = 1\n");
    let said = machine.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.status.code(), &*states(&report)["settings"]), (Some(9), "fail"));
    // Nobody is known: that is said, and is no fault.
    user_file(&machine, "");
    std::fs::remove_file(&file).unwrap();
    let _node = up(&machine, &[]);
    let report = machine.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    let seen = states(&report);
    assert_eq!((&*seen["swarm"], &*seen["dht"], &*seen["digest"]), ("warn", "warn", "fail"));
}

#[test]
fn a_hub_s_name_is_read_and_the_missing_feature_named() {
    let machine = machine();
    let hub = "hf:some-org/some-repo/model.Q4_K_M.gguf";
    machine.run(&["pull", hub]).is_refused(2, &["feature `hf`", "--features hf", "import"]);
    machine.run(&["pull", "hf:model.gguf"]).is_refused(2, &["hf:ORG/REPO/FILE.gguf"]);
    machine.run(&["pull", "hf:a/b/c.bin"]).is_refused(2, &["GGUF"]);
}
