//! The command line: what can be asked for. What it does stands in the modules below.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api_keys::ApiKeys;
use crate::engine::{Privacy, RouteWish};
use crate::failure::{Code, Failure};

mod ask;
mod client;
mod models;
mod node;
pub(crate) mod pulling;
mod trust;

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
5 swarm unreachable or model not covered · 7 disk, memory or port · 8 digest mismatch · 130 Ctrl-C\n\
The answer goes to stdout, all else to stderr.";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where this node keeps its key and state [default: the XDG data directory]
    #[arg(long, global = true, env = "TAIMATSU_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Where models are kept; may be shared and read-only [default: HOME/models]
    #[arg(long, global = true, env = "TAIMATSU_MODELS", value_name = "DIR")]
    pub(crate) models: Option<PathBuf>,
    /// Address of the node to talk to, for example 127.0.0.1:4810
    #[arg(long, global = true, env = "TAIMATSU_API", value_name = "ADDR")]
    pub(crate) api: Option<String>,
    /// Keys that open the API, one on each line of a file that only you can read; without it the
    /// key in TAIMATSU_API_KEY. `up` asks for them, other commands give the first
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) api_key: Option<PathBuf>,
    /// Fetch nothing from the internet
    #[arg(long, global = true, env = "TAIMATSU_OFFLINE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) offline: bool,
    /// One JSON object on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say less on stderr
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Say more on stderr; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A whole swarm on this machine: five processes, one question, one answer
    Demo(DemoArgs),
    /// Run this machine's node: the API, and hosting with --serve
    Up(UpArgs),
    /// Ask a model once
    Run(RunArgs),
    /// The best continuations after each token id
    Score(ScoreArgs),
    /// Fetch a model of the catalogue
    Pull {
        /// Its name, for example smollm2:135m
        model: String,
    },
    /// List the models that are stored here
    Ls,
    /// Show a model's manifest
    Show {
        /// A name, a file's path or blake3:<hex>
        model: String,
    },
    /// Remove a stored model
    Rm {
        /// Its name
        model: String,
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
        /// All of one answer: its id, or the beginning of it
        id: Option<String>,
    },
    /// Version and protocol
    Version,
    /// One process of the demo
    #[command(hide = true)]
    DemoNode(DemoNodeArgs),
}

/// `taimatsu demo`
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// The model to split over three hosts
    #[arg(long, default_value = "smollm2:135m")]
    pub(crate) model: String,
    /// What to ask
    #[arg(long, default_value = "In one sentence: why do people gather around a fire?")]
    pub(crate) prompt: String,
    /// Tokens of the answer at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) max_tokens: u32,
    /// Leave the swarm running until Ctrl-C, and print its addresses
    #[arg(long)]
    pub(crate) keep: bool,
}

/// `taimatsu up`
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Host a model, or a span of it: smollm2:135m, smollm2:135m@0-9. May be repeated
    #[arg(long, value_name = "MODEL[@A-B]")]
    pub(crate) serve: Vec<String>,
    /// Address for other nodes [default: port 4801 on every interface, TCP and QUIC; with no
    /// --serve: free ports]
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,
    /// A node to meet the swarm through
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) bootstrap: Vec<String>,
    /// Name of the swarm
    #[arg(long, env = "TAIMATSU_SWARM", default_value = "public")]
    pub(crate) swarm: String,
    /// Threads for computing [default: all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// Positions of KV for all sessions together
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub(crate) kv_positions: u32,
    /// Who may see this node's questions, at most
    #[arg(long, value_enum, default_value = "anyone")]
    pub(crate) privacy: PrivacyArg,
    /// A host that may see what is for trusted hosts alone: its full id. May be repeated
    #[arg(long, value_name = "PEER")]
    pub(crate) trust: Vec<String>,
    /// Sessions at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) max_sessions: u32,
}

/// One process of the demo.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoNodeArgs {
    /// Be the bootstrap node.
    #[arg(long)]
    pub(crate) bootstrap_only: bool,
    #[command(flatten)]
    pub(crate) up: UpArgs,
}

/// `taimatsu run`
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// A name, a file's path or blake3:<hex>
    pub(crate) model: String,
    /// What to ask; `-` reads stdin
    #[arg(conflicts_with = "prompt_ids", required_unless_present = "prompt_ids")]
    pub(crate) prompt: Option<String>,
    /// No chat template: the text as it stands, BOS where the file says so, special tokens read
    #[arg(long, conflicts_with = "prompt_ids")]
    pub(crate) raw: bool,
    /// Token ids instead of text; nothing is added
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    pub(crate) prompt_ids: Option<Vec<u32>>,
    /// Tokens of the answer at most
    #[arg(long, default_value_t = 256)]
    pub(crate) max_tokens: u32,
    /// 0 is greedy: always the likeliest token
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Keep the k likeliest tokens; 0: all
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: u32,
    /// Keep the likeliest tokens up to this probability together
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f32,
    /// Drop tokens below this share of the likeliest one's probability
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f32,
    /// Make tokens that occurred less likely; 1: off
    #[arg(long, default_value_t = 1.0)]
    pub(crate) repeat_penalty: f32,
    /// Same seed, same answer [default: drawn, and told]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// A text that ends the answer. May be repeated
    #[arg(long)]
    pub(crate) stop: Vec<String>,
    /// Go on after end tokens, and count them
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Who computes; needs a running node
    #[arg(long, value_enum)]
    pub(crate) route: Option<RouteArg>,
    /// Who may see it [default: as the node was started]
    #[arg(long, value_enum)]
    pub(crate) privacy: Option<PrivacyArg>,
}

/// `taimatsu score`
#[derive(Debug, Clone, Args)]
pub(crate) struct ScoreArgs {
    /// A name, a file's path or blake3:<hex>
    pub(crate) model: String,
    /// Token ids
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) ids: Vec<u32>,
    /// Continuations per position (through a node: at most 64)
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top: u32,
    /// Who computes; needs a running node
    #[arg(long, value_enum)]
    pub(crate) route: Option<RouteArg>,
}

/// `--privacy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrivacyArg {
    /// Nobody but the node itself
    Local,
    /// Hosts named with `up --trust`
    Trusted,
    /// Whoever hosts it
    Anyone,
}

impl From<PrivacyArg> for Privacy {
    fn from(privacy: PrivacyArg) -> Self {
        match privacy {
            PrivacyArg::Local => Self::Local,
            PrivacyArg::Trusted => Self::Trusted,
            PrivacyArg::Anyone => Self::Anyone,
        }
    }
}

/// `--route`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RouteArg {
    /// The node itself, if it hosts the whole model
    Local,
    /// One host of the whole model
    Whole,
    /// At least two hosts
    Chain,
}

impl From<RouteArg> for RouteWish {
    fn from(route: RouteArg) -> Self {
        match route {
            RouteArg::Local => Self::Local,
            RouteArg::Whole => Self::Whole,
            RouteArg::Chain => Self::Chain,
        }
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
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return report(&wrong(&error.to_string())),
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    crate::logging::start(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::of(Code::Resources, "cannot start", &error)),
    };
    let outcome = runtime.block_on(perform(cli));
    // A download that was called off takes its process and folder with it; a computation must not
    // hold the exit up.
    runtime.shutdown_timeout(WIND_UP);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
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

fn report(failure: &Failure) -> ExitCode {
    crate::stderr::tell(&format!("{failure}"));
    ExitCode::from(failure.code as u8)
}

async fn perform(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    // A file of keys that cannot be used is told, whatever the command.
    ApiKeys::of(&global)?;
    match cli.command {
        None => client::help_and_state(&global).await,
        Some(Command::Demo(args)) => crate::demo::demo(&global, args).await,
        Some(Command::Up(args)) => node::up(&global, args).await,
        Some(Command::Run(args)) => ask::run(&global, args).await,
        Some(Command::Score(args)) => ask::score(&global, args).await,
        Some(Command::Pull { model }) => pulling::pull(&global, &model).await,
        Some(Command::Ls) => models::list(&global),
        Some(Command::Show { model }) => models::show(&global, &model),
        Some(Command::Rm { model }) => models::remove(&global, &model),
        Some(Command::Import { file, name }) => models::import(&global, &file, name.as_deref()),
        Some(Command::Status) => client::status(&global).await,
        Some(Command::Reputation { peer }) => trust::reputation(&global, peer.as_deref()).await,
        Some(Command::Receipts { id }) => trust::receipts(&global, id.as_deref()).await,
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
