//! The command: `taimatsu-links --program PATH [--json] TASK`.
//!
//! Figures go to stdout, one to a line or with `--json` as one object; how it goes, to stderr. It
//! ends with 0 if everything is as it should be, with 1 if something is missed, and with 2 if it
//! cannot be run here.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Real processes in network namespaces, joined by links with delay, jitter, loss and rate.
#[derive(Debug, Parser)]
struct Command {
    /// What to run
    task: Task,
    /// The program `taimatsu`, or the tests' build of it
    #[arg(long)]
    program: PathBuf,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Task {
    /// Whether links are as they were set
    Check,
    /// Tokens a second over three continents, beside one a lap
    Lap,
    /// A whole-model host at 150 ms, beside its own speed
    WholeHost,
    /// What the gate runs: at most 90 s
    Short,
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("error: links are made of Linux' network namespaces");
    ExitCode::from(2)
}

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use taimatsu_links::enter;

    let command = Command::parse();
    let inside = match enter() {
        Ok(inside) => inside,
        Err(error) => return refused(&error),
    };
    match run(&command, &inside) {
        Ok(met) => ExitCode::from(u8::from(!met)),
        Err(error) => refused(error.as_ref()),
    }
}

/// Says why, and all that is behind it.
#[cfg(target_os = "linux")]
fn refused(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::from(2)
}

/// Whether all is as it should be.
#[cfg(target_os = "linux")]
fn run(
    command: &Command,
    inside: &taimatsu_links::Inside,
) -> Result<bool, Box<dyn std::error::Error>> {
    use taimatsu_links::tasks::{Means, check, lap, short, whole_host};

    let models = taimatsu_model::store::dir_from_environment();
    let models = models.ok_or("neither HOME nor XDG_DATA_HOME is set: there is no model store")?;
    let means =
        Means { program: command.program.canonicalize()?, models, root: inside.root().to_owned() };
    let outcome = match command.task {
        Task::Check => check(&means),
        Task::Lap => lap(&means),
        Task::WholeHost => whole_host(&means),
        Task::Short => short(&means),
    }?;
    if command.json {
        println!("{}", outcome.json());
    } else if let Some(figures) = outcome.json().as_object() {
        for (key, value) in figures {
            println!("{key}: {value}");
        }
    }
    for miss in outcome.misses() {
        eprintln!("missed: {miss}");
    }
    Ok(outcome.misses().is_empty())
}
