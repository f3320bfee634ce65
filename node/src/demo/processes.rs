//! The demo's processes, and that none outlives it: each holds a pipe from this process, and ends,
//! removing its home, when the pipe does; however this process ends.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::failure::{Code, Failure};

/// How long a process may take to be ready: it maps a model and opens ports.
const READY: Duration = Duration::from_secs(60);

/// How often the processes of a swarm that is kept are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// How long a process may take to end when its pipe has ended.
const END: Duration = Duration::from_secs(3);

/// Directories of demos begin with this.
const PREFIX: &str = "taimatsu-demo-";

/// The demo's process locks this file of its directory until it ends its members, or dies. Whoever
/// finds it free may remove the directory.
const LOCK: &str = "lock";

/// How often a process tries to remove its demo's directory: for a second.
const REMOVALS: u32 = 100;

/// A process to be started.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    args: Vec<String>,
}

/// What a process says on stdout when it is ready, in one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Its full peer id.
    pub(crate) peer: String,
    /// Where other nodes dial it.
    pub(crate) addresses: Vec<String>,
    /// Where its API listens.
    pub(crate) api: Option<String>,
}

/// The running processes and their directory.
pub(crate) struct Members {
    root: PathBuf,
    models: PathBuf,
    lock: Option<File>,
    running: Vec<Running>,
}

struct Running {
    name: String,
    child: Child,
    /// Its end is the process's end.
    pipe: Option<ChildStdin>,
}

impl Member {
    /// The bootstrap node.
    pub(crate) fn bootstrap() -> Self {
        Self { name: "bootstrap".into(), args: vec!["--bootstrap-only".into()] }
    }

    /// A host of blocks `span` (inclusive) with so many threads.
    pub(crate) fn host(model: &str, span: &[u32; 2], threads: usize, door: &str) -> Self {
        let [first, last] = span;
        let (serve, threads) = (format!("{model}@{first}-{last}"), threads.to_string());
        Self {
            name: format!("host-{first}-{last}"),
            args: ["--serve", &serve, "--bootstrap", door, "--threads", &threads]
                .map(str::to_owned)
                .into(),
        }
    }

    /// The client, which hosts nothing.
    pub(crate) fn client(door: &str) -> Self {
        Self { name: "client".into(), args: ["--bootstrap", door].map(str::to_owned).into() }
    }
}

impl Members {
    /// A new directory for a demo; what dead demos left is removed on the way.
    pub(crate) fn new(models: PathBuf) -> Result<Self, Failure> {
        let parent = crate::config::temporary_dir();
        sweep(&parent);
        let made = || -> io::Result<(PathBuf, File)> {
            let root = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent)?.keep();
            // Under its name it is locked from the first moment: another demo may be sweeping.
            let lock = File::create(root.join("new"))?;
            lock.lock()?;
            std::fs::rename(root.join("new"), root.join(LOCK))?;
            Ok((root, lock))
        };
        let (root, lock) = made().map_err(|error| {
            Failure::of(Code::Resources, format!("cannot use {}", parent.display()), &error)
                .try_this("TMPDIR=DIR taimatsu demo, with a directory that you can write to")
        })?;
        Ok(Self { root, models, lock: Some(lock), running: Vec::new() })
    }

    /// The swarm's name: nobody else's is the same.
    pub(crate) fn swarm(&self) -> String {
        self.root.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Starts a process and waits until it is ready.
    pub(crate) async fn start(&mut self, member: Member) -> Result<Ready, Failure> {
        let mut ready = self.start_all(vec![member]).await?;
        ready.pop().ok_or_else(|| Failure::new(Code::Failure, "nothing was started"))
    }

    /// Starts processes at once and waits until all are ready.
    pub(crate) async fn start_all(&mut self, members: Vec<Member>) -> Result<Vec<Ready>, Failure> {
        let first = self.running.len();
        for member in members {
            let running = self.spawn(&member).map_err(|error| {
                Failure::of(Code::Resources, format!("cannot start {}", member.name), &error)
            })?;
            self.running.push(running);
        }
        let mut ready = Vec::new();
        for index in first..self.running.len() {
            let name = self.running[index].name.clone();
            match self.running[index].ready().await {
                Some(line) => ready.push(line),
                None => return Err(self.not_ready(&name)),
            }
        }
        Ok(ready)
    }

    /// The first process that has ended, if one has.
    pub(crate) fn dead(&mut self) -> Option<Failure> {
        let ended = |running: &mut Running| matches!(running.child.try_wait(), Ok(Some(_)));
        let name = self.running.iter_mut().find_map(|r| ended(r).then(|| r.name.clone()))?;
        Some(self.not_ready(&name))
    }

    /// Waits until a process ends by itself.
    pub(crate) async fn first_dead(&mut self) -> Failure {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            if let Some(failure) = self.dead() {
                return failure;
            }
        }
    }

    /// Ends every process, and removes the directory.
    pub(crate) async fn stop(mut self) {
        self.lock = None;
        for running in &mut self.running {
            running.pipe = None;
        }
        for running in &mut self.running {
            if tokio::time::timeout(END, running.child.wait()).await.is_err() {
                let _ = running.child.kill().await;
            }
        }
        self.remove();
    }

    fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }

    fn spawn(&self, member: &Member) -> io::Result<Running> {
        let home = self.root.join(&member.name);
        std::fs::create_dir(&home)?;
        let log = File::create(home.join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        // A terminal's Ctrl-C is for this process, which ends the others in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command
            // The demo's nodes are on loopback, and its one question is asked without a key.
            .env_remove(crate::config::API_KEY)
            .arg("demo-node")
            .args(&member.args)
            .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--api", "127.0.0.1:0", "--offline"])
            .arg("--swarm")
            .arg(self.swarm())
            .arg("--home")
            .arg(&home)
            .arg("--models")
            .arg(&self.models)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Running { name: member.name.clone(), child, pipe })
    }

    fn not_ready(&self, name: &str) -> Failure {
        let log = std::fs::read_to_string(self.root.join(name).join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        let cause = lines.into_iter().rev().collect::<Vec<_>>().join(" ");
        Failure::new(Code::Failure, format!("the demo's {name} process ended or is not ready"))
            .because(if cause.is_empty() { "it said nothing" } else { &cause })
            .try_this("taimatsu demo -v, or once more")
    }
}

impl Drop for Members {
    /// On Ctrl-C and on errors: the pipes end with this value, and so do the processes.
    fn drop(&mut self) {
        self.lock = None;
        let pids: Vec<Child> = self
            .running
            .drain(..)
            .map(|mut running| {
                running.pipe = None;
                running.child
            })
            .collect();
        let until = std::time::Instant::now() + END;
        for mut child in pids {
            while matches!(child.try_wait(), Ok(None)) {
                if std::time::Instant::now() > until {
                    let _ = child.start_kill();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.remove();
    }
}

impl Running {
    async fn ready(&mut self) -> Option<Ready> {
        let stdout = self.child.stdout.take()?;
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        let read = tokio::time::timeout(READY, reader.read_line(&mut line)).await;
        read.ok()?.ok()?;
        serde_json::from_str(&line).ok()
    }
}

/// Removes the directories of demos whose process is gone.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // A demo that is just being made has no lock file yet: it is left alone.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if ours && lock.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// For a demo's process: ends it when its parent does, and removes what is left of both; but not
/// before `Starting` is dropped, since a file that is written meanwhile would stay.
pub(crate) fn end_with_parent(home: PathBuf) -> io::Result<Starting> {
    let (starting, started) = std::sync::mpsc::sync_channel::<()>(0);
    std::thread::Builder::new().name("parent".into()).spawn(move || {
        // The parent writes nothing: this returns when it closes the pipe, or is gone.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = started.recv();
        let root = root_of(&home);
        if let Some(root) = root {
            // Free at once, or as soon as the system has buried the parent; or removed already.
            let _ = File::open(root.join(LOCK)).and_then(|lock| lock.lock_shared());
        }
        let left = root.unwrap_or(&home);
        for _ in 0..REMOVALS {
            // Others remove it as well, and some are still starting.
            if std::fs::remove_dir_all(left).is_ok() || !left.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::process::exit(0);
    })?;
    Ok(Starting { _sender: starting })
}

/// Held by a demo's process while it writes into its home.
pub(crate) struct Starting {
    _sender: std::sync::mpsc::SyncSender<()>,
}

/// Whether a demo's process that could not start is about to be ended: its demo is over.
pub(crate) fn is_over(home: &Path) -> bool {
    root_of(home).is_some_and(|root| match File::open(root.join(LOCK)) {
        Ok(lock) => lock.try_lock_shared().is_ok(),
        Err(_) => true,
    })
}

/// The demo's directory, if this home is in one.
fn root_of(home: &Path) -> Option<&Path> {
    let is_ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(PREFIX);
    home.parent().filter(|root| root.file_name().is_some_and(is_ours))
}
