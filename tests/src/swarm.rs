//! Swarms of real processes on loopback, each member as the demo starts it: a key and a home of its
//! own, ready when it says so on stdout, gone when this process is.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use serde_json::{Value, json};

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
    child: Child,
    /// Its end is the process's end.
    _pipe: Option<ChildStdin>,
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

    fn begin(&mut self, more: &[&str]) -> Starting {
        let mut args = demo_args(self.root.path(), &self.models, self.members);
        self.members += 1;
        args.extend(["--bootstrap".to_owned(), self.bootstrap.addresses[0].clone()]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        Starting::new(&self.program, &args)
    }
}

/// A process that is not ready yet.
struct Starting(Child);

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
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Self(child)
    }

    fn ready(self) -> Member {
        let Self(mut child) = self;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("its stdout can be read");
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("a process is not ready: {error}: {line:?}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let addresses = ready["addresses"].as_array().into_iter().flatten().map(text).collect();
        let pipe = child.stdin.take();
        let (peer, api) = (text(&ready["peer"]), text(&ready["api"]));
        Member { child, _pipe: pipe, peer, addresses, api }
    }
}

impl Member {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9` ends it.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

/// Runs the program to its end.
///
/// # Panics
/// It cannot be started.
#[must_use]
pub fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect("the program starts")
}
