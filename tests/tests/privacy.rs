//! Who may see a question, over real processes: the hosts that may not have computed nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use serde_json::{Value, json};
use taimatsu_tests::program::{Machine, until};
use taimatsu_tests::swarm::Member;

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// A model of four blocks and 640 tokens that answers in milliseconds.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/tiny/llama.q4_1.gguf");

/// A node on this machine, on free ports of loopback.
fn up(machine: &Machine, more: &[&str]) -> Member {
    let ports = ["--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let args = [&["up", "--json", "--threads", "1"], &ports[..], more].concat();
    Member::start(machine.command(&args))
}

/// Positions that a host has computed.
fn computed(host: &Member) -> u64 {
    let status = host.get("/taimatsu/v1/status").1;
    status["hosting"][0]["computed_positions"].as_u64().unwrap()
}

/// A stranger with the whole model, whom routing would take first; two friends with a half each; and
/// a client that trusts these.
struct Company {
    machines: [Machine; 5],
    stranger: Member,
    friends: [Member; 2],
    client: Member,
}

impl Company {
    fn stand() -> Self {
        let machines = [(); 5].map(|()| Machine::new(PROGRAM));
        let stranger = up(&machines[0], &["--serve", TINY]);
        let way = ["--bootstrap", &stranger.addresses[0]];
        let half = |machine, span| {
            let serve = format!("{TINY}@{span}");
            up(machine, &[&way[..], &["--serve", &serve]].concat())
        };
        let friends = [half(&machines[1], "0-1"), half(&machines[2], "2-3")];
        let client = asker(&machines[3], &stranger, friends.each_ref(), "anyone");
        Self { machines, stranger, friends, client }
    }

    fn stranger_stays_out(&self, what: &str, mut ask: impl FnMut()) {
        let before = computed(&self.stranger);
        ask();
        assert_eq!(computed(&self.stranger), before, "the stranger computed: {what}");
    }
}

fn asker(machine: &Machine, way: &Member, friends: [&Member; 2], privacy: &str) -> Member {
    let [a, b] = friends.map(|friend| friend.peer.as_str());
    let way = way.addresses[0].as_str();
    up(machine, &["--bootstrap", way, "--trust", a, "--trust", b, "--privacy", privacy])
}

/// Every way to have a prompt computed.
fn ways(privacy: &str) -> [(&'static str, Value); 4] {
    let ours = json!({ "privacy": privacy });
    let prompt = [504, 412, 89];
    [
        (
            "/v1/completions",
            json!({"model": TINY, "prompt": prompt, "max_tokens": 2, "taimatsu": ours}),
        ),
        (
            "/v1/completions",
            json!({
                "model": TINY, "prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 1,
                "taimatsu": ours,
            }),
        ),
        ("/taimatsu/v1/score", json!({"model": TINY, "ids": prompt, "top": 1, "privacy": privacy})),
        (
            "/taimatsu/v1/run",
            json!({"model": TINY, "prompt_ids": prompt, "max_tokens": 2, "privacy": privacy}),
        ),
    ]
}

/// The code of a failure, wherever it stands; none where it went well.
fn failure(node: &Member, path: &str, body: &Value) -> Option<String> {
    let text = node.post(path, body).text().unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let code = if last["failed"].is_object() { &last["failed"] } else { &last["error"] };
    code["code"].as_str().map(str::to_owned)
}

#[test]
fn only_those_who_may_see_a_question_compute_it() {
    let company = Company::stand();
    let client = &company.client;
    let (path, body) = &ways("trusted")[0];
    company.stranger_stays_out("trusted, while hosts become known", || {
        until("the friends", || failure(client, path, body).is_none().then_some(()));
    });
    for (path, body) in ways("trusted") {
        company.stranger_stays_out(&body.to_string(), || {
            let before = company.friends.each_ref().map(computed);
            assert_eq!(failure(client, path, &body), None);
            for (friend, before) in company.friends.iter().zip(before) {
                assert!(computed(friend) > before, "a friend did not compute: {body}");
            }
        });
    }
    for (path, body) in ways("local") {
        company.stranger_stays_out(&body.to_string(), || {
            let before = company.friends.each_ref().map(computed);
            assert_eq!(failure(client, path, &body).as_deref(), Some("no_private_route"));
            assert_eq!(company.friends.each_ref().map(computed), before);
        });
        // Who hosts all of it answers by itself.
        let before = company.friends.each_ref().map(computed);
        assert_eq!(failure(&company.stranger, path, &body), None);
        assert_eq!(company.friends.each_ref().map(computed), before);
    }
    let refused = company.machines[3].run(&[
        "score",
        TINY,
        "--ids",
        "1",
        "--privacy",
        "local",
        "--route",
        "whole",
    ]);
    refused.is_refused(5, &["blocks 0-3", "as the request asks", &format!("up --serve {TINY}")]);
    for ask in [&["run", TINY, "x", "--max-tokens", "2"][..], &["score", TINY, "--ids", "1,2"]] {
        company.stranger_stays_out(&format!("by the environment: {ask:?}"), || {
            let mut command = company.machines[3].command(&[ask, &["--route", "whole"]].concat());
            let done = command.env("TAIMATSU_PRIVACY", "local").output().unwrap();
            assert_eq!(done.status.code(), Some(5), "{done:?}");
        });
    }
    for twice in [
        r#""taimatsu":{"privacy":"local","privacy":"anyone"}"#,
        r#""taimatsu":{"privacy":"local"},"taimatsu":true"#,
        r#""extra_body":{"taimatsu":{"privacy":"local"}}"#,
    ] {
        let text = format!("{{\"model\":\"{TINY}\",\"prompt\":[1,2],\"max_tokens\":1,{twice}}}");
        company.stranger_stays_out(twice, || {
            let reply = client.post_text("/v1/completions", text.clone());
            assert_eq!(reply.status(), 400, "{twice}");
        });
    }
}

#[test]
fn a_request_does_not_widen_what_its_node_allows() {
    let company = Company::stand();
    let narrow =
        asker(&company.machines[4], &company.stranger, company.friends.each_ref(), "trusted");
    let (path, body) = &ways("anyone")[0];
    company.stranger_stays_out("a node for trusted hosts", || {
        until("the friends", || failure(&narrow, path, body).is_none().then_some(()));
        for (path, body) in ways("anyone") {
            assert_eq!(failure(&narrow, path, &body), None);
        }
    });
    let label: Value = narrow.post(path, body).json().unwrap();
    assert_eq!(label["taimatsu"]["privacy"], "trusted", "{label}");
    drop(narrow);
    let [friend, _] = &company.friends;
    let one = asker(&company.machines[4], &company.stranger, [friend, friend], "trusted");
    company.stranger_stays_out("half of the model has a trusted host", || {
        let error = until("the friend", || {
            let reply: Value = one.post(path, body).json().unwrap();
            (reply["error"]["missing"] == json!([[2, 3]])).then(|| reply["error"].clone())
        });
        assert_eq!(
            (&error["code"], &error["privacy"]),
            (&json!("no_private_route"), &json!("trusted"))
        );
        assert!(!error["model"].as_str().unwrap().contains("trusted"), "{error}");
        let text = error["message"].as_str().unwrap();
        assert!(text.contains("blocks 2-3") && text.contains("as this node was started"), "{text}");
    });
}
