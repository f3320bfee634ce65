//! `taimatsu completion`: a script that lets a shell complete our command lines.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::{Cli, Global};
use crate::failure::Failure;
use crate::stdout::{print, say};

/// Prints the script of a shell.
pub(super) fn script(global: &Global, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "taimatsu", &mut script);
    let script = String::from_utf8_lossy(&script);
    if global.json {
        return say(json!({"schema_version": 1, "shell": shell.to_string(), "script": script}));
    }
    print(&script)
}
