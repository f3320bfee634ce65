//! The OpenAI endpoints over real processes: the same bits by every route, work that stops when its
//! asker goes, keys, and an API that waits for nobody.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Store, pull, store};
use taimatsu_tests::program::{Machine, until};
use taimatsu_tests::swarm::{Member, Swarm};

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// A model of four blocks and 640 tokens that answers in milliseconds.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_1.gguf");

/// A real one, slow enough to be stopped in the middle.
const MODEL: &str = "smollm2:135m";

/// The store with the real model in it; pulled where it is not.
fn models() -> PathBuf {
    let dir = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap();
    dir
}

/// What a node answers: the two headers that are ours, and the body.
fn ask(node: &Member, path: &str, body: &Value) -> ([String; 2], Value) {
    let reply = node.post(path, body);
    let header = |name: &str| {
        let value = reply.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        value.unwrap_or_default()
    };
    let headers = [header("x-taimatsu-route"), header("x-taimatsu-seed")];
    let status = reply.status();
    let body: Value = reply.json().unwrap();
    assert!(status.is_success(), "{status}: {body}");
    (headers, body)
}

/// Three hosts of a part of the small model, one of all of it, and a client.
struct Ways {
    hosts: [Member; 4],
    client: Member,
    _swarm: Swarm,
}

impl Ways {
    fn start() -> Self {
        let machine = Machine::new(PROGRAM);
        let mut swarm = Swarm::start(PROGRAM, &machine.models());
        let spans = ["@0-1", "@2-2", "@3-3", ""].map(|span| format!("{TINY}{span}"));
        let (hosts, client) = swarm.hosts_and_client(&spans);
        let ways = Self { hosts, client, _swarm: swarm };
        for route in ["whole", "chain"] {
            let body = json!({
                "model": TINY, "prompt": [1], "max_tokens": 1, "taimatsu": {"route": route},
            });
            until("every host", || {
                let reply = ways.client.post("/v1/completions", &body);
                reply.status().is_success().then_some(())
            });
        }
        ways
    }

    /// Asks by each of the three ways; the choices, which are the same.
    fn ask(&self, body: &Value) -> Vec<Value> {
        let mut choices: Vec<Value> = Vec::new();
        for (node, route) in
            [(&self.hosts[3], "local"), (&self.client, "whole"), (&self.client, "chain")]
        {
            let mut body = body.clone();
            body["taimatsu"] = json!({ "route": route });
            let ([told, seed], answer) = ask(node, "/v1/completions", &body);
            assert_eq!(told, self.route(route));
            assert_eq!(seed, body["seed"].to_string());
            assert_eq!(answer["taimatsu"]["sealed"], route != "local", "{answer}");
            choices.push(answer["choices"].clone());
        }
        assert_eq!(choices[0], choices[1], "local and whole");
        assert_eq!(choices[0], choices[2], "local and chain");
        choices[0].as_array().unwrap().clone()
    }

    fn route(&self, word: &str) -> String {
        let peer = |host: usize| &self.hosts[host].peer;
        match word {
            "whole" => format!("whole;{}", peer(3)),
            "chain" => format!("chain;{}[0-1],{}[2-2],{}[3-3]", peer(0), peer(1), peer(2)),
            other => other.to_owned(),
        }
    }
}

#[test]
fn every_route_gives_the_same_bits() {
    let ways = Ways::start();
    let body = |change: Value| {
        let mut body = json!({
            "model": TINY, "prompt": [504, 412, 89], "max_tokens": 12, "seed": 5, "temperature": 0,
            "ignore_eos": true,
        });
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let plain = ways.ask(&body(json!({})));
    for penalty in ["presence_penalty", "frequency_penalty"] {
        let penalised = ways.ask(&body(json!({ penalty: -2 })));
        let text = |choices: &[Value]| choices[0]["text"].as_str().unwrap().to_owned();
        assert_ne!(text(&penalised), text(&plain), "greedy, and yet another answer: {penalty}");
    }

    // Several prompts and choices, with everything that can be asked of them.
    let warm = json!({"temperature": 0.9, "presence_penalty": 0.5, "logprobs": 2, "echo": true});
    let with = |more: Value| {
        let mut body = body(warm.clone());
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        ways.ask(&body)
    };
    let all = with(json!({"prompt": [[504, 412, 89], [7, 8]], "n": 2}));
    assert_eq!(all.len(), 4);
    assert_ne!(all[0]["text"], all[1]["text"], "two choices of one prompt");
    for (number, prompt) in [(0, json!([504, 412, 89])), (2, json!([7, 8]))] {
        let alone = with(json!({ "prompt": prompt }));
        for key in ["text", "logprobs"] {
            assert_eq!(
                alone[0][key], all[number][key],
                "the first choice is the one that comes alone"
            );
        }
        let logs = &all[number]["logprobs"];
        let tokens = logs["tokens"].as_array().unwrap().len();
        assert_eq!(tokens, prompt.as_array().unwrap().len() + 12);
        assert!(logs["token_logprobs"][0].is_null() && logs["top_logprobs"][0].is_null());
        for token in 1..tokens {
            let (logprob, top) = (&logs["token_logprobs"][token], &logs["top_logprobs"][token]);
            let word = logs["tokens"][token].as_str().unwrap();
            assert!(logprob.as_f64().unwrap() <= 0.0 && top.as_object().unwrap().len() >= 2);
            assert!(top[word].is_number(), "{word} is among {top}");
        }
    }

    // What evaluations ask: the same numbers for the prompt, whether or not an answer follows.
    let scored = json!({"prompt": [504, 412, 89], "echo": true, "logprobs": 2});
    let mut none = body(scored.clone());
    none["max_tokens"] = json!(0);
    let mut one = body(scored);
    one["max_tokens"] = json!(1);
    let (none, one) = (ways.ask(&none), ways.ask(&one));
    let of =
        |choices: &[Value]| choices[0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert_eq!((of(&none).len(), of(&one).len()), (3, 4));
    assert_eq!(of(&none)[..], of(&one)[..3]);
}

/// A long answer of a chain of three that somebody stops waiting for.
fn long(stream: bool) -> Value {
    json!({
        "model": MODEL, "max_tokens": 2_000, "ignore_eos": true, "stream": stream, "n": 2,
        "messages": [{"role": "user", "content": "Tell me all about the sea."}],
    })
}

#[test]
fn a_client_that_goes_stops_the_work_on_every_hop() {
    let mut swarm = Swarm::start(PROGRAM, &models());
    let spans = ["0-9", "10-19", "20-29"].map(|span| format!("{MODEL}@{span}"));
    let (hosts, client) = swarm.hosts_and_client(&spans);
    client.wait_until_covered();
    let free = || {
        for host in &hosts {
            until("a host without sessions", || (host.sessions() == 0).then_some(()));
        }
    };
    let computed = || {
        hosts.each_ref().map(|host| {
            let status = host.get("/taimatsu/v1/status").1;
            status["hosting"][0]["computed_positions"].as_u64().unwrap()
        })
    };
    let short = || {
        let body = json!({
            "model": MODEL, "prompt": [1, 2, 3, 4], "max_tokens": 3, "ignore_eos": true,
        });
        ask(&client, "/v1/completions", &body);
        free();
    };
    for stream in [true, false] {
        let mut socket = TcpStream::connect(&client.api).unwrap();
        let body = long(stream).to_string();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length:";
        write!(socket, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        if stream {
            let mut lines = BufReader::new(&socket).lines();
            let mut pieces = 0;
            while pieces < 6 {
                let line = lines.next().expect("the answer goes on").unwrap();
                pieces += usize::from(line.contains("\"content\""));
            }
        }
        for host in &hosts {
            until("both choices at work", || (host.sessions() == 2).then_some(()));
        }
        drop(socket);
        free();
        // The first waits behind whatever was under way. Then nothing but the second is computed:
        // four positions of its prompt, and two tokens of its answer.
        short();
        let before = computed();
        short();
        assert_eq!(computed(), before.map(|positions| positions + 6), "streamed: {stream}");
    }
}

/// A node on a machine of its own, with free ports.
fn up(machine: &Machine, more: &[&str]) -> Member {
    let args = ["up", "--json", "--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"];
    Member::start(machine.command(&[&args, more].concat()))
}

#[test]
fn the_api_is_there_before_the_swarm_is() {
    // It takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let machine = Machine::new(PROGRAM);
    let node = up(&machine, &["--bootstrap", &format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")]);
    let (status, health) = node.get("/health");
    assert_eq!((status, &health["error"]["code"]), (503, &json!("coverage_incomplete")));
    let (_, status) = node.get("/taimatsu/v1/status");
    assert_eq!(status["bootstrap"]["given"], 1, "{status}");
    assert_eq!(status["dht_peers"], 0, "it has met nobody");
}

#[test]
fn with_keys_everything_but_health_wants_one() {
    let machine = Machine::new(PROGRAM);
    let file = machine.path("keys");
    std::fs::write(&file, "sesame-1\nsesame-2\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let keys = file.to_str().unwrap();
    machine.run(&["up", "--api-key", keys]).is_refused(2, &["can read", "chmod 600"]);
    mode(0o600);
    machine.run(&["up", "--api", "0.0.0.0:0"]).is_refused(2, &["0.0.0.0:0", "--api-key"]);
    let node = up(&machine, &["--api-key", keys]);
    assert_eq!(node.get("/health").0, 503);
    let (status, refused) = node.get("/v1/models");
    assert_eq!((status, &refused["error"]["code"]), (401, &json!("invalid_api_key")));
    for command in ["status", "peers", "reputation", "receipts"] {
        machine.run(&[command]).is_refused(2, &["wants an API key", "--api-key"]);
    }
    assert_eq!(machine.run(&["status", "--json", "--api-key", keys]).json()["peer"], *node.peer);
    let mut command = machine.command(&["status", "--json"]);
    command.env("TAIMATSU_API_KEY", "sesame-2");
    let said = taimatsu_tests::program::Running::start(command).said();
    assert_eq!(said.json()["peer"], *node.peer);
}
