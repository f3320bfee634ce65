//! The program as a person or a script runs it: a command, its end, what it said; and processes as
//! the system sees them.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything here may take. Only what hangs takes this long.
pub const HANGS: Duration = Duration::from_secs(60);

/// How often something is looked at again that cannot be waited for.
const POLL: Duration = Duration::from_millis(10);

/// Looks until there is something.
///
/// # Panics
/// There never is.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < HANGS, "never seen: {what}");
        std::thread::sleep(POLL);
    }
}

/// The program, with nothing of this process's settings in its way.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TAIMATSU_") {
            command.env_remove(name);
        }
    }
    // Nor with anybody's file.
    let nowhere = std::env::temp_dir().join("taimatsu-test-no-config");
    command.env("XDG_CONFIG_HOME", &nowhere);
    command.env("TAIMATSU_SYSTEM_CONFIG", nowhere.join("system.toml"));
    command
}

/// A machine of its own: a home and a model store that nobody else has.
pub struct Machine {
    program: PathBuf,
    root: tempfile::TempDir,
}

impl Machine {
    /// A new one. `program` is `CARGO_BIN_EXE_taimatsu-under-test`.
    ///
    /// # Panics
    /// The temporary directory cannot be written.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let root = tempfile::Builder::new().prefix("taimatsu-test-").tempdir();
        let root = root.expect("the temporary directory can be written");
        Self { program: program.into(), root }
    }

    /// A place in its own directory, which goes when this value does.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Where its node lives.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Its model store.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.path("models")
    }

    /// A command on it.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.program);
        command.args(args);
        command.env("TAIMATSU_HOME", self.home()).env("TAIMATSU_MODELS", self.models());
        command.env("XDG_CONFIG_HOME", self.path("config"));
        command.env("TAIMATSU_SYSTEM_CONFIG", self.path("system.toml"));
        command
    }

    /// Runs a command to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Said {
        Running::start(self.command(args)).said()
    }

    /// Runs a command to its end, with `input` on stdin.
    ///
    /// # Panics
    /// It does not read it.
    #[must_use]
    pub fn run_with(&self, args: &[&str], input: &str) -> Said {
        let mut running = Running::start(self.command(args));
        let mut stdin = running.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        running.said()
    }
}

/// A command under way. Dropped before its end, it is killed.
pub struct Running {
    child: Child,
    /// Open until somebody takes it.
    pub stdin: Option<ChildStdin>,
    out: Lines,
    err: Lines,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its answer.
    pub out: String,
    /// All else.
    pub err: String,
}

/// The lines of an output, read on a thread so that no wait for them is endless.
struct Lines {
    coming: std::sync::mpsc::Receiver<String>,
    come: String,
}

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Self {
        // Full, it holds the program up until somebody reads.
        let (lines, coming) = std::sync::mpsc::sync_channel(4_096);
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { coming, come: String::new() }
    }

    /// The next line; none at the end, and none if it does not come.
    fn next(&mut self) -> Option<String> {
        let line = self.coming.recv_timeout(HANGS).ok()?;
        self.come.push_str(&line);
        Some(line)
    }

    fn all(mut self) -> String {
        while self.next().is_some() {}
        self.come
    }
}

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let out = Lines::of(child.stdout.take().expect("it is piped"));
        let err = Lines::of(child.stderr.take().expect("it is piped"));
        Self { child, stdin, out, err }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of stdout; empty at its end.
    pub fn line(&mut self) -> String {
        self.out.next().unwrap_or_default()
    }

    /// The next line of stderr in which `word` stands.
    ///
    /// # Panics
    /// There is none.
    pub fn err_line(&mut self, word: &str) -> String {
        while let Some(line) = self.err.next() {
            if line.contains(word) {
                return line;
            }
        }
        panic!("no `{word}` in {}", self.err.come);
    }

    /// Whether it is over.
    ///
    /// # Panics
    /// The system does not know it.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end.
    #[must_use]
    pub fn said(mut self) -> Said {
        self.stdin = None;
        let status = until("its end", || self.child.try_wait().expect("it is ours"));
        let empty = || Lines::of(std::io::empty());
        let out = std::mem::replace(&mut self.out, empty()).all();
        let err = std::mem::replace(&mut self.err, empty()).all();
        Said { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// The one object on stdout of a command that went well.
    ///
    /// # Panics
    /// It did not, or there is no such object.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        let value: Value = serde_json::from_str(&self.out).expect("stdout is JSON");
        assert_eq!(value["schema_version"], 1, "{self:?}");
        value
    }

    /// The text on stdout of a command that went well.
    ///
    /// # Panics
    /// It did not.
    #[must_use]
    pub fn text(&self) -> &str {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        &self.out
    }

    /// Sees that it was refused as the house refuses: with this exit code, nothing on stdout, at
    /// most four lines on stderr (with `--json`: one object), a next step among them, and these
    /// words.
    ///
    /// # Panics
    /// It was not.
    pub fn is_refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        if self.err.starts_with('{') {
            let told: Value = serde_json::from_str(&self.err).expect("stderr is JSON");
            assert_eq!(told["error"]["exit_code"], code, "{self:?}");
            assert!(told["error"]["try"].is_string(), "{self:?}");
        }
        let lines: Vec<&str> = self.err.lines().collect();
        let json = self.err.starts_with('{') && lines.len() == 1;
        assert!(json || lines.len() <= 4 && lines[0].starts_with("error: "), "{self:?}");
        assert!(json || lines.iter().any(|line| line.starts_with("  try:   ")), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no `{word}` in {}", self.err);
        }
    }
}

/// Sends a signal (`INT`, `STOP`, ...) to a process, or with a `-` before its id to its group.
///
/// # Panics
/// There is no such process.
pub fn signal(name: &str, process: &str) {
    let kill = ["-c", "kill -s \"$0\" -- \"$1\"", name, process];
    let status = Command::new("sh").args(kill).status().expect("there is a shell");
    assert!(status.success(), "kill -s {name} {process}");
}

/// Processes that have `word` in their command line, this one aside; ended ones do not count.
#[must_use]
pub fn processes_with(word: &str) -> Vec<u32> {
    let listed = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    };
    pids.filter(|pid| *pid != std::process::id()).filter(has).collect()
}
