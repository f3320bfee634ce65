//! Swarms of real processes on loopback, each member as the demo starts it: a key and a home of its
//! own, ready when it says so on stdout, gone when this process is.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::program::{HANGS, Running, Said, command, signal, until};

/// A swarm of its own: no other test's processes are in it.
pub struct Swarm {
    program: PathBuf,
    models: PathBuf,
    /// Dropped last, when the members are gone.
    root: tempfile::TempDir,
    members: usize,
    /// The process that the others meet through.
    pub bootstrap: Member,
}

/// A running process.
pub struct Member {
    running: Running,
    /// Its full peer id.
    pub peer: String,
    /// Where other nodes dial it.
    pub addresses: Vec<String>,
    /// Where its API listens; empty for a bootstrap node.
    pub api: String,
}

impl Swarm {
    /// A bootstrap node, and nobody else. `program` is `CARGO_BIN_EXE_taimatsu-under-test`;
    /// `models` is the store that the members share.
    #[must_use]
    pub fn start(program: &str, models: &Path) -> Self {
        let root = tempfile::Builder::new().prefix("taimatsu-test-").tempdir();
        let root = root.expect("the temporary directory can be written");
        let program = PathBuf::from(program);
        let args = demo_args(root.path(), models, 0);
        let args = [&args[..], &["--bootstrap-only".into()]].concat();
        let bootstrap = Starting::new(&program, &args).ready();
        Self { program, models: models.to_owned(), root, members: 1, bootstrap }
    }

    /// A host of this span (`MODEL` or `MODEL@A-B`).
    #[must_use]
    pub fn host(&mut self, span: &str) -> Member {
        self.begin(&["--threads", "1", "--serve", span]).ready()
    }

    /// A client, which hosts nothing.
    #[must_use]
    pub fn client(&mut self) -> Member {
        self.begin(&[]).ready()
    }

    /// Hosts of these spans, and a client; all started at once.
    #[must_use]
    pub fn hosts_and_client<const N: usize>(
        &mut self,
        spans: &[String; N],
    ) -> ([Member; N], Member) {
        let hosts = spans.each_ref().map(|span| self.begin(&["--threads", "1", "--serve", span]));
        let client = self.begin(&[]);
        (hosts.map(Starting::ready), client.ready())
    }

    /// The same for any number, with more arguments.
    #[must_use]
    pub fn all_and_client(
        &mut self,
        spans: &[String],
        host: &[&str],
        client: &[&str],
    ) -> (Vec<Member>, Member) {
        let begin =
            |span: &String| self.begin(&[&["--threads", "1", "--serve", span][..], host].concat());
        let hosts: Vec<Starting> = spans.iter().map(begin).collect();
        let client = self.begin(client);
        (hosts.into_iter().map(Starting::ready).collect(), client.ready())
    }

    fn begin(&mut self, more: &[&str]) -> Starting {
        let mut args = demo_args(self.root.path(), &self.models, self.members);
        self.members += 1;
        args.extend(["--bootstrap".to_owned(), self.bootstrap.addresses[0].clone()]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        Starting::new(&self.program, &args)
    }
}

/// A process that is not ready yet.
struct Starting(Running);

fn demo_args(root: &Path, models: &Path, number: usize) -> Vec<String> {
    let swarm = root.file_name().expect("it has a name").to_string_lossy().into_owned();
    let home = root.join(number.to_string());
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut args = vec!["demo-node".to_owned(), "--listen".into(), "/ip4/127.0.0.1/tcp/0".into()];
    args.extend(["--api".to_owned(), "127.0.0.1:0".into(), "--offline".into()]);
    args.extend(["--swarm".to_owned(), swarm, "--home".into(), path(&home)]);
    args.extend(["--models".to_owned(), path(models)]);
    args
}

impl Starting {
    fn new(program: &Path, args: &[String]) -> Self {
        let mut command = command(program);
        command.args(args);
        Self(Running::start(command))
    }

    fn ready(self) -> Member {
        Member::ready(self.0)
    }
}

impl Member {
    /// A node from a command line (`up --json ...`, for one), when it is ready.
    #[must_use]
    pub fn start(command: Command) -> Self {
        Self::ready(Running::start(command))
    }

    fn ready(mut running: Running) -> Self {
        let line = running.line();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            panic!("a process is not ready: {line:?}, {:?}", running.said());
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let addresses = ready["addresses"].as_array().into_iter().flatten().map(text).collect();
        let (peer, api) = (text(&ready["peer"]), text(&ready["api"]));
        Self { running, peer, addresses, api }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// As `kill -9` ends it.
    pub fn kill(&mut self) {
        self.signal("KILL");
        until("its end", || self.running.has_ended().then_some(()));
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        signal(name, &self.pid().to_string());
    }

    /// The next line that it says to people in which `word` stands.
    pub fn err_line(&mut self, word: &str) -> String {
        self.running.err_line(word)
    }

    /// Waits for its end.
    #[must_use]
    pub fn said(self) -> Said {
        self.running.said()
    }

    /// Asks its API for a page: the status, and the JSON that came.
    ///
    /// # Panics
    /// There is no answer, or it is not JSON.
    #[must_use]
    pub fn get(&self, path: &str) -> (u16, Value) {
        get(&self.api, path)
    }

    /// Sessions that it serves.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.get("/taimatsu/v1/status").1["sessions"].as_u64().expect("it says how many")
    }

    /// Waits until its API says that some model can be answered.
    pub fn wait_until_covered(&self) {
        until("a model that can be answered", || (self.get("/health").0 == 200).then_some(()));
    }

    /// Sends a request to its API; the reply is read as it comes.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> reqwest::blocking::Response {
        self.post_text(path, body.to_string())
    }

    /// The same with a body that no [`Value`] can be.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    pub fn post_text(&self, path: &str, body: String) -> reqwest::blocking::Response {
        post(&self.api, path, body)
    }
}

/// Asks an API for a page: the status, and the JSON that came.
///
/// # Panics
/// There is no answer, or it is not JSON.
#[must_use]
pub fn get(api: &str, path: &str) -> (u16, Value) {
    let reply = http().get(format!("http://{api}{path}")).send();
    let reply = reply.unwrap_or_else(|error| panic!("{path} is not answered: {error}"));
    (reply.status().as_u16(), reply.json().expect("the API speaks JSON"))
}

/// Sends a request to an API of which no more is at hand than where it listens.
///
/// # Panics
/// There is no answer.
#[must_use]
pub fn post(api: &str, path: &str, body: String) -> reqwest::blocking::Response {
    let request = http().post(format!("http://{api}{path}"));
    let reply = request.header("content-type", "application/json").body(body).send();
    reply.unwrap_or_else(|error| panic!("{path} is not answered: {error}"))
}

fn http() -> reqwest::blocking::Client {
    let client = reqwest::blocking::Client::builder().no_proxy().timeout(HANGS).build();
    client.expect("an HTTP client can be made")
}

/// Two hosts of each third of SmolLM2.
pub const TWICE: [&str; 6] = ["0-9", "10-19", "20-29", "0-9", "10-19", "20-29"];

/// The program under test, which stands beside the one that runs, and the store of models.
///
/// # Errors
/// It is not built, or there is no home.
pub fn program_and_models() -> Result<(String, PathBuf), &'static str> {
    let beside = |here: PathBuf| here.with_file_name("taimatsu-under-test");
    let program = std::env::current_exe().ok().map(beside).filter(|path| path.is_file());
    let missing = "the program stands beside this one: build the package taimatsu-tests first";
    let program = program.ok_or(missing)?.to_string_lossy().into_owned();
    let models = taimatsu_model::store::dir_from_environment();
    Ok((program, models.ok_or("there is no store: set HOME or XDG_DATA_HOME")?))
}

/// A question for `/taimatsu/v1/run`.
#[must_use]
pub fn question(model: &str, ids: &[u32], tokens: u32, route: &str) -> Value {
    json!({
        "model": model,
        "prompt_ids": ids,
        "max_tokens": tokens,
        "temperature": 0.0,
        "seed": 1,
        "route": route,
    })
}
