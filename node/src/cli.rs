//! The command line: what can be asked for. What it does stands in the modules below.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::api_keys::ApiKeys;
use crate::config::{ApiAddress, Files, Layer, Origin, Settings};
use crate::failure::{Code, Failure};

mod arguments;
mod ask;
mod bench;
mod client;
mod completion;
mod doctor;
mod models;
mod node;
pub(crate) mod pulling;
mod settings;
mod swarm;
mod trust;

pub(crate) use arguments::{
    BenchArgs, BenchWhat, DemoArgs, DemoNodeArgs, RouteArg, RunArgs, ScoreArgs, ServeArgs, UpArgs,
};
pub(crate) use client::missing;

/// Community-run inference: a model too big for one machine is carried by many.
#[derive(Debug, Parser)]
#[command(name = "taimatsu", bin_name = "taimatsu", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 done · 1 failure · 2 usage · 3 not found · 4 no node here · \
5 swarm unreachable or model not covered · 7 disk, memory or port · 8 digest mismatch · \
9 doctor found something wrong · 130 Ctrl-C\n\
The answer goes to stdout, all else to stderr. With --json it is one JSON object; a failure leaves \
stdout empty and is the last line on stderr, {\"error\":{...}}.\n\
A setting is taken from its flag, else from TAIMATSU_NAME in the environment, else from \
config.toml, else from /etc/taimatsu/config.toml: taimatsu config show --origin";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where this node keeps its key and state [default: the XDG data directory]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Where models are kept; may be shared and read-only [default: HOME/models]
    #[arg(long, global = true, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Address of the node to talk to, and where `up` offers it [default: 127.0.0.1:4810]
    #[arg(long, global = true, value_name = "ADDR")]
    api: Option<ApiAddress>,
    /// Keys that open the API, one on each line of a file that only you can read; without it the
    /// key in TAIMATSU_API_KEY. `up` asks for them, other commands give the first
    #[arg(long, global = true, value_name = "FILE")]
    api_key: Option<PathBuf>,
    /// Settings, in place of the file in the XDG configuration directory
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Fetch nothing from the internet
    #[arg(long, global = true)]
    offline: bool,
    /// One JSON object on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say less on stderr
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Say more on stderr; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// What flags, environment and files come to; set before a command begins.
    #[arg(skip)]
    pub(crate) settings: Settings,
    /// What opens the API; read with the settings.
    #[arg(skip)]
    pub(crate) keys: ApiKeys,
}

#[cfg(all(test, feature = "hf"))]
impl Global {
    /// Options of a test: nothing is said.
    pub(crate) fn silent() -> Self {
        Cli::try_parse_from(["taimatsu", "--quiet"]).expect("it is one").global
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A whole swarm on this machine: five processes, one question, one answer
    Demo(DemoArgs),
    /// Run this machine's node: the API, and hosting with --serve
    Up(UpArgs),
    /// Host models, or spans of them: `up --serve`, in fewer words
    Serve(ServeArgs),
    /// Ask a model once
    Run(RunArgs),
    /// The best continuations after each token id
    Score(ScoreArgs),
    /// Measure how fast this machine computes a model
    Bench(BenchArgs),
    /// Fetch a model of the catalogue
    Pull {
        /// Its name, for example smollm2:135m; with the feature `hf`, also hf:ORG/REPO/FILE.gguf
        model: String,
    },
    /// List the models that are stored here
    Ls,
    /// Show a model's manifest
    Show {
        /// A name, a file's path or blake3:<hex>
        model: String,
    },
    /// Remove a name of a stored model; with the last one, the model
    Rm {
        /// Its name; or blake3:<hex>, for the model with all its names
        model: String,
        /// Also where the node here hosts it
        #[arg(long)]
        force: bool,
    },
    /// Store a GGUF file
    Import {
        /// The file
        file: PathBuf,
        /// What to call it [default: the file's name]
        #[arg(long)]
        name: Option<String>,
    },
    /// What the node here is doing
    Status,
    /// What the node here has seen of others: scores, and why they moved
    Reputation {
        /// Only of this peer: its id, or the end of it
        peer: Option<String>,
    },
    /// Receipts of answers that the node here asked for
    Receipts {
        /// All of one answer: its id (`chatcmpl-…`, or as listed), or the beginning of it
        id: Option<String>,
    },
    /// Who hosts which blocks of a model, as the node here sees it
    Map {
        /// A name or blake3:<hex>
        model: String,
    },
    /// Who is connected to the node here
    Peers,
    /// This home's peer id
    Id,
    /// Look for what is wrong with this machine, its node and its way into the swarm
    Doctor,
    /// The settings; without a word more, every one in force
    Config {
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// A completion script for your shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Version and protocol
    Version,
    /// One process of the demo
    #[command(hide = true)]
    DemoNode(DemoNodeArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Every setting in force
    Show {
        /// And where each comes from
        #[arg(long)]
        origin: bool,
    },
    /// Where the file is, or would be
    Path,
}

impl Cli {
    fn flags(&self) -> Layer {
        let of_node = match &self.command {
            Some(Command::Up(up)) => up.node.layer(&up.serve),
            Some(Command::Serve(serve)) => serve.node.layer(&serve.spans),
            Some(Command::DemoNode(demo)) => demo.up.node.layer(&demo.up.serve),
            _ => Layer::default(),
        };
        Layer {
            home: self.global.home.clone(),
            models: self.global.models.clone(),
            api: self.global.api,
            offline: self.global.offline.then_some(true),
            ..of_node
        }
    }

    /// What the command goes by. A demo's process goes by its flags alone.
    fn settings(&self) -> Result<Settings, Failure> {
        match &self.command {
            Some(Command::DemoNode(_)) => Ok(Settings::of(&[(Origin::Flag, self.flags())])),
            _ => Settings::resolve(self.flags(), &Files::of(self.global.config.as_deref())),
        }
    }

    /// Whether it does something even where the settings cannot be read.
    const fn needs_no_settings(&self) -> bool {
        matches!(
            self.command,
            Some(
                Command::Doctor
                    | Command::Version
                    | Command::Completion { .. }
                    | Command::Config { command: Some(ConfigCommand::Path) }
            )
        )
    }
}

/// How long work in other threads may take to wind up.
const WIND_UP: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Runs a command line.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let json = args.iter().any(|arg| arg == "--json");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return report(&wrong(&error.to_string()), json),
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let (json, home) = (cli.global.json, cli.global.home.clone());
    if !cli.global.quiet && !matches!(cli.command, Some(Command::DemoNode(_))) {
        for name in crate::config::stray_variables() {
            crate::stderr::tell(&format!("note: {name} is no setting; see: taimatsu config show"));
        }
    }
    crate::logging::start(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::of(Code::Resources, "cannot start", &error), json),
    };
    let outcome = runtime.block_on(perform(cli));
    // A download that was called off takes its process and folder with it; a computation must not
    // hold the exit up.
    runtime.shutdown_timeout(WIND_UP);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure.at_home(home.as_deref()), json),
    }
}

/// What clap says of a wrong command line, in the form of all our failures: its first paragraph
/// is what is wrong, a tip may follow, then the usage.
fn wrong(said: &str) -> Failure {
    let mut paragraphs = said.split("\n\n").map(str::trim);
    let what = paragraphs.next().unwrap_or_default();
    let mut failure = Failure::new(Code::Usage, what.trim_start_matches("error: "));
    let mut usage = "taimatsu --help";
    for paragraph in paragraphs {
        if let Some(tip) = paragraph.strip_prefix("tip: ") {
            failure = failure.because(tip);
        } else if let Some(line) = paragraph.strip_prefix("Usage: ") {
            usage = line;
        }
    }
    failure.try_this(usage)
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    if json {
        crate::stderr::tell(&failure.to_json().to_string());
    } else {
        crate::stderr::tell(&format!("{failure}"));
    }
    ExitCode::from(failure.code as u8)
}

async fn perform(cli: Cli) -> Result<(), Failure> {
    crate::signals::outlive_file_limits();
    let settings = cli.settings();
    let trouble = settings.as_ref().err().cloned();
    if let Some(failure) = trouble.as_ref().filter(|_| !cli.needs_no_settings()) {
        return Err(failure.clone());
    }
    // A file of keys that cannot be used is told, whatever the command.
    let keys = ApiKeys::of(cli.global.api_key.as_deref())?;
    let flags = cli.flags();
    let mut global = cli.global;
    global.settings = settings.unwrap_or_else(|_| Settings::of(&[(Origin::Flag, flags)]));
    global.keys = keys;
    match cli.command {
        None => client::help_and_state(&global).await,
        Some(Command::Demo(args)) => crate::demo::demo(&global, args).await,
        Some(Command::Up(_) | Command::Serve(_)) => node::up(&global).await,
        Some(Command::Run(args)) => ask::run(&global, args).await,
        Some(Command::Score(args)) => ask::score(&global, args).await,
        Some(Command::Bench(args)) => bench::bench(&global, args).await,
        Some(Command::Pull { model }) => pulling::pull(&global, &model).await,
        Some(Command::Ls) => models::list(&global),
        Some(Command::Show { model }) => models::show(&global, &model),
        Some(Command::Rm { model, force }) => models::remove(&global, &model, force).await,
        Some(Command::Import { file, name }) => models::import(&global, &file, name.as_deref()),
        Some(Command::Status) => client::status(&global).await,
        Some(Command::Reputation { peer }) => trust::reputation(&global, peer.as_deref()).await,
        Some(Command::Receipts { id }) => trust::receipts(&global, id.as_deref()).await,
        Some(Command::Map { model }) => swarm::map(&global, &model).await,
        Some(Command::Peers) => swarm::peers(&global).await,
        Some(Command::Id) => client::id(&global),
        Some(Command::Doctor) => doctor::doctor(&global, trouble).await,
        Some(Command::Config { command }) => match command {
            None => settings::show(&global, false),
            Some(ConfigCommand::Show { origin }) => settings::show(&global, origin),
            Some(ConfigCommand::Path) => settings::path(&global),
        },
        Some(Command::Completion { shell }) => completion::script(&global, shell),
        Some(Command::Version) => client::version(&global),
        Some(Command::DemoNode(args)) => node::demo_node(&global, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_prompt_or_ids_but_not_both() {
        let parse =
            |args: &[&str]| Cli::try_parse_from([&["taimatsu", "run", "m"], args].concat()).is_ok();
        assert!(parse(&["hello"]));
        assert!(parse(&["--prompt-ids", "1,2,3"]));
        assert!(!parse(&[]));
        assert!(!parse(&["hello", "--prompt-ids", "1"]));
        assert!(!parse(&["--prompt-ids", "1,x"]));
        assert!(!parse(&["hello", "--route", "somewhere"]));
    }
}
