//! Checks of this machine: settings, clock, home, ports, processor.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::HumanBytes;
use taimatsu_network::Multiaddr;

use super::Check;
use crate::cli::Global;
use crate::config::{self, Origin};
use crate::failure::Failure;
use crate::home::read_key;
use crate::ledger::Ledger;
use crate::ports::{self, FREE_PORT};

/// A clock that shows less has not been set: this program was not written yet (1 January 2025).
const WRITTEN: Duration = Duration::from_secs(1_735_689_600);

/// How far the clocks of process and file system may be apart; some keep whole seconds only.
const APART: Duration = Duration::from_secs(3);

/// Too little room for a ledger and a log.
const LITTLE: u64 = 16 << 20;

/// Too little room for a model.
const TIGHT: u64 = 512 << 20;

/// Whether the settings can be read.
pub(super) fn settings(global: &Global, trouble: Option<&Failure>) -> Check {
    if let Some(failure) = trouble {
        return Check::failed("settings", failure);
    }
    let rows = global.settings.rows();
    let mut files: Vec<String> = rows
        .iter()
        .filter(|(.., origin)| matches!(origin, Origin::File(_) | Origin::System(_)))
        .filter_map(|(key, _, origin)| origin.place(key))
        .collect();
    files.sort();
    files.dedup();
    let said =
        if files.is_empty() { "defaults, flags and environment".into() } else { files.join(", ") };
    Check::pass("settings", said)
}

/// The rest. `running` says that the node of this home answers.
pub(super) fn examine(global: &Global, running: bool) -> Vec<Check> {
    let mut checks = vec![clock(global), home(global)];
    if !running {
        checks.extend(config::home(global).ok().map(|home| ledger(&home)));
    }
    checks.push(api_port(global.settings.api.value, running));
    checks.push(listen_ports(&global.settings.listen.value, running));
    checks.push(processor());
    checks
}

fn clock(global: &Global) -> Check {
    let now = SystemTime::now();
    if now.duration_since(UNIX_EPOCH).unwrap_or_default() < WRITTEN {
        return Check::fail("clock", "it was never set", "set the clock, best by NTP");
    }
    let place = config::home(global).ok().and_then(|home| existing(&home));
    let place = place.unwrap_or_else(config::temporary_dir);
    // Where nothing can be written, another check says so.
    let written = tempfile::NamedTempFile::new_in(&place)
        .and_then(|file| file.as_file().metadata()?.modified());
    let Ok(written) = written else {
        return Check::pass("clock", "set; the file system's was not compared");
    };
    let apart = written.duration_since(now).unwrap_or_else(|error| error.duration());
    if apart > APART {
        return Check::warn(
            "clock",
            format!("the file system's is {} s off", apart.as_secs()),
            "synchronise this machine and its file server (NTP)",
        );
    }
    Check::pass("clock", "set, and the file system agrees")
}

fn home(global: &Global) -> Check {
    let home = match config::home(global) {
        Ok(home) => home,
        Err(failure) => return Check::failed("home", &failure),
    };
    if let Err(failure) = read_key(&home) {
        return Check::failed("home", &failure);
    }
    match room(&home) {
        Ok(free) if free < LITTLE => Check::fail(
            "home",
            format!("{} free in {}", HumanBytes(free), home.display()),
            "room on the disk, or --home DIR on another",
        ),
        Ok(free) => {
            let state = if home.is_dir() { "" } else { ", not made yet" };
            Check::pass("home", format!("{}{state} · {} free", home.display(), HumanBytes(free)))
        }
        Err(error) => Check::fail(
            "home",
            format!("{} cannot be written: {error}", home.display()),
            "--home DIR, with a directory that you can write to",
        ),
    }
}

/// What outlives the node, where none runs that has it open.
fn ledger(home: &Path) -> Check {
    match Ledger::check(home) {
        Ok(Some(())) => Check::pass("ledger", "every page of it is sound"),
        Ok(None) => Check::pass("ledger", "none yet"),
        Err(failure) => Check::failed("ledger", &failure),
    }
}

/// Where models lie.
pub(super) fn models_dir(models: &Path) -> Check {
    let free = match room(models) {
        Ok(free) => free,
        Err(_) if models.is_dir() => {
            return Check::warn(
                "store",
                format!("{} can only be read: nothing can be pulled", models.display()),
                "--models DIR that you can write to, if you want to pull",
            );
        }
        Err(error) => {
            return Check::fail(
                "store",
                format!("{} cannot be made: {error}", models.display()),
                "--models DIR that you can write to",
            );
        }
    };
    let said = format!("{} · {} free", models.display(), HumanBytes(free));
    if free < TIGHT {
        return Check::warn("store", said, "taimatsu rm MODEL, or --models DIR on a larger disk");
    }
    Check::pass("store", said)
}

/// Free bytes where this directory is or would be, if something can be written there.
fn room(dir: &Path) -> std::io::Result<u64> {
    let place = existing(dir).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such disk")
    })?;
    tempfile::NamedTempFile::new_in(&place)?;
    fs4::available_space(&place)
}

/// The nearest that there is: the directory, or what it would be made in.
fn existing(dir: &Path) -> Option<PathBuf> {
    let dir = std::path::absolute(dir).ok()?;
    dir.ancestors().find(|place| place.exists()).map(Path::to_owned)
}

fn api_port(address: SocketAddr, running: bool) -> Check {
    if running {
        return Check::pass("api", "the node here answers");
    }
    match TcpListener::bind(address) {
        Ok(_) => Check::pass("api", format!("{address} is free")),
        Err(error) => Check::fail(
            "api",
            format!("{address} cannot be used: {error}"),
            "--api 127.0.0.1:0 for a free port, or stop the other program",
        ),
    }
}

fn listen_ports(addresses: &[Multiaddr], running: bool) -> Check {
    if running {
        return Check::pass("ports", "in use by the node here");
    }
    if let Some((address, error)) = ports::taken(addresses) {
        return Check::fail("ports", format!("{address} cannot be used: {error}"), FREE_PORT);
    }
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Check::pass("ports", format!("{} free", shown.join(" ")))
}

#[cfg(target_arch = "x86_64")]
fn processor() -> Check {
    let has = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    let names: Vec<&str> = has.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let said = format!("x86_64 {} · {threads} threads", names.join(" "));
    if !has[0].1 {
        return Check::warn("cpu", said, "a processor with AVX2 for speed; results are the same");
    }
    Check::pass("cpu", said)
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Check::pass("cpu", format!("{} · {threads} threads", std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_port_in_use_is_seen_and_our_own_is_well() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        assert_eq!(api_port(address, false).state, State::Fail);
        assert_eq!(api_port(address, true).state, State::Pass);
        let door: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", address.port()).parse().unwrap();
        let check = listen_ports(std::slice::from_ref(&door), false);
        assert!(check.state == State::Fail && check.fix.is_some(), "{check:?}");
        assert_eq!(listen_ports(&[door], true).state, State::Pass);
        let free: Multiaddr = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
        assert_eq!(listen_ports(&[free], false).state, State::Pass);
    }

    #[test]
    fn a_directory_that_is_not_there_has_the_room_of_its_place() {
        let dir = tempfile::tempdir().unwrap();
        assert!(room(&dir.path().join("a/b/c")).unwrap() > 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(room(&file.join("below")).is_err());
        assert_eq!(models_dir(&file.join("below")).state, State::Fail);
    }
}
