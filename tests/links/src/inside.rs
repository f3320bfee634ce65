//! Namespaces of its own for this process, which end with it: of networks, of processes, and, for
//! who is not root, of users.
//!
//! The program is run twice. The first process makes the namespaces and waits; the second one, its
//! child, is the first process of the new namespace of processes, so the kernel ends whatever it
//! started when it ends, stopped processes too. It ends when the pipe from the first one closes,
//! so nothing is left behind whichever of them is killed.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use crate::wires::{WireError, lift_loopback};

/// Told to the second process: the directory for all that is written.
const INSIDE: &str = "TAIMATSU_LINKS_INSIDE";

/// Why there are no namespaces.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsideError {
    /// The kernel, or who runs it, does not allow them.
    #[error(
        "no network namespace can be made; run it as root, or allow user namespaces \
         (user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns 0)"
    )]
    Refused(#[source] nix::Error),
    /// A file or process is not to be had.
    #[error("cannot {what}")]
    Io {
        /// For what.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no loopback.
    #[error("the namespace has no loopback")]
    Loopback(#[from] WireError),
}

/// This process is in namespaces of its own.
#[derive(Debug)]
pub struct Inside {
    root: PathBuf,
}

impl Inside {
    /// A directory that goes when this process does.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Goes into namespaces of its own. Call it first of all in `main`, before there are threads: it
/// runs the program once more, inside, with the same arguments, and returns there only; outside,
/// the process ends as the one inside did.
///
/// # Errors
/// There are no namespaces to be had, or the program cannot be run.
pub fn enter() -> Result<Inside, InsideError> {
    match std::env::var_os(INSIDE) {
        Some(root) => settle(root.into()),
        None => std::process::exit(outside()?),
    }
}

fn outside() -> Result<i32, InsideError> {
    let root = tempfile::Builder::new().prefix("taimatsu-links-").tempdir();
    let root = root.map_err(failed("make a temporary directory"))?;
    leave()?;
    let program = std::env::current_exe().map_err(failed("find this program"))?;
    let mut inside = Command::new(program);
    inside.args(std::env::args_os().skip(1)).stdin(Stdio::piped());
    inside.env(INSIDE, root.path()).env("TMPDIR", root.path());
    let mut inside = inside.spawn().map_err(failed("run this program again"))?;
    // `wait` would close the pipe first.
    let pipe = inside.stdin.take();
    let status = inside.wait().map_err(failed("wait for this program"))?;
    drop(pipe);
    Ok(status.code().unwrap_or(1))
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> InsideError {
    move |source| InsideError::Io { what, source }
}

/// From now on children are in new namespaces. Root needs none of users.
fn leave() -> Result<(), InsideError> {
    let (user, group) = (getuid(), getgid());
    let spaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if user.is_root() && unshare(spaces).is_ok() {
        return Ok(());
    }
    unshare(spaces | CloneFlags::CLONE_NEWUSER).map_err(InsideError::Refused)?;
    // Who is not root inside loses the right to these namespaces with the first program it runs.
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(failed("map a user"))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {user} 1"))?;
    write("gid_map", format!("0 {group} 1"))
}

fn settle(root: PathBuf) -> Result<Inside, InsideError> {
    let left = root.clone();
    let watch = move || {
        // Nothing is written: this returns when the process outside has closed it, or is gone.
        let _ = io::stdin().lock().read(&mut [0]);
        let _ = std::fs::remove_dir_all(left);
        std::process::exit(1);
    };
    let watching = std::thread::Builder::new().name("outside".into()).spawn(watch);
    watching.map_err(failed("start a thread"))?;
    lift_loopback()?;
    Ok(Inside { root })
}
