//! The program: its stdout, its key file, its end.

#![allow(clippy::unwrap_used, reason = "a test may panic, and its helpers are no `#[test]`")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Killed when dropped, so that a failing test leaves nothing behind.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(key: &Path, listen: &str) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_taimatsu-bootstrap"))
        .args(["--swarm", "program tests", "--listen", listen, "--key"])
        .arg(key)
        .env_remove("TAIMATSU_BOOTSTRAP")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Program(child.unwrap())
}

fn first_line(program: &mut Program) -> String {
    let mut line = String::new();
    BufReader::new(program.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

const ANY: &str = "/ip4/127.0.0.1/tcp/0";

#[test]
fn it_prints_where_it_is_and_keeps_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let id = |line: &str| line.rsplit_once("/p2p/12D3Koo").unwrap().1.to_owned();
    let first = first_line(&mut program(&key, ANY));
    assert!(first.starts_with("/ip4/127.0.0.1/tcp/"), "{first}");
    assert_eq!(id(&first_line(&mut program(&key, ANY))), id(&first));
    assert_ne!(id(&first_line(&mut program(&dir.path().join("other"), ANY))), id(&first));
}

#[test]
fn a_port_in_use_has_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = program(&dir.path().join("a"), ANY);
    let line = first_line(&mut first);
    let (address, _) = line.split_once("/p2p/").unwrap();
    let mut second = program(&dir.path().join("b"), address);
    assert_eq!(second.0.wait().unwrap().code(), Some(7));
    let mut said = String::new();
    second.0.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains(address) && said.contains("in use"), "{said}");
}

#[cfg(unix)]
#[test]
fn it_ends_well_at_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = program(&dir.path().join("key"), ANY);
    first_line(&mut program);
    let sent = Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(program.0.wait().unwrap().code(), Some(0));
}
