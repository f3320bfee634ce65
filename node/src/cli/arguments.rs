//! The arguments of the commands that take many.

use clap::{Args, ValueEnum};

use crate::config::{
    Address, Kibibytes, Layer, Mebibytes, Peer, Positions, PrivacyArg, Seconds, Sessions,
    SwarmName, Threads,
};
use crate::engine::RouteWish;

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

/// `taimatsu bench`
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    pub(crate) what: BenchWhat,
    /// Of which model
    #[arg(long, default_value = "smollm2:135m")]
    pub(crate) model: String,
    /// Threads for computing [default: as `up`; 1 of each host for `chain`]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Hosts of the chain, for `chain` alone [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub(crate) hops: Option<u32>,
    /// Sessions that decode together, for `batch` alone [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) sessions: Option<u32>,
    /// Tokens of a run, of each session [default: 512 for prefill, else 128]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) tokens: Option<u32>,
    /// Runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchWhat {
    /// One token after another
    Decode,
    /// A prompt at once
    Prefill,
    /// One token after another, of several sessions together
    Batch,
    /// One token after another, through processes that host a part each, beside one process
    Chain,
}

impl BenchWhat {
    /// Tokens of a run where nobody says.
    pub(crate) const fn usual(self) -> u32 {
        match self {
            Self::Decode | Self::Batch | Self::Chain => 128,
            Self::Prefill => 512,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
            Self::Batch => "batch",
            Self::Chain => "chain",
        }
    }
}

/// `taimatsu up`
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Host a model, or a span of it: smollm2:135m, smollm2:135m@0-9. May be repeated
    #[arg(long, value_name = "MODEL[@A-B]")]
    pub(crate) serve: Vec<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `taimatsu serve`
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// What to host: smollm2:135m, or a span of it, smollm2:135m@0-9
    #[arg(required = true, value_name = "MODEL[@A-B]")]
    pub(crate) spans: Vec<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// What a node is told. Each of these is a key of config.toml, too.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// Address for other nodes [default: port 4801 on every interface, TCP and QUIC; of a node
    /// that hosts nothing: free ports]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Address>,
    /// A node to meet the swarm through
    #[arg(long, value_name = "MULTIADDR")]
    bootstrap: Vec<Address>,
    /// Name of the swarm [default: public]
    #[arg(long)]
    swarm: Option<SwarmName>,
    /// Threads for computing, for all hosted spans together [default: all]
    #[arg(long)]
    threads: Option<Threads>,
    /// Positions of KV of each hosted span, for all sessions together [default: 16384]
    #[arg(long)]
    kv_positions: Option<Positions>,
    /// Sessions at a time [default: 32]
    #[arg(long)]
    max_sessions: Option<Sessions>,
    /// Upload at most so many KiB a second: frames of sessions, and files for others [default: no
    /// limit]
    #[arg(long, value_name = "KIB")]
    upload_kib_per_second: Option<Kibibytes>,
    /// Host nothing that needs more memory, tensors and KV together [default: no limit]
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<Mebibytes>,
    /// How long running answers may go on when the node is told to stop [default: 5]
    #[arg(long, value_name = "SECONDS")]
    drain_seconds: Option<Seconds>,
    /// How long an answer that lost a host waits for another in its place [default: 60]
    #[arg(long, value_name = "SECONDS")]
    patience_seconds: Option<Seconds>,
    /// Find other nodes of this local network, and be found by them (multicast DNS)
    #[arg(long)]
    mdns: bool,
    /// Who may see this node's questions, at most [default: anyone]
    #[arg(long, value_enum)]
    privacy: Option<PrivacyArg>,
    /// A host that may see what is for trusted hosts alone: its full id. May be repeated
    #[arg(long, visible_alias = "trust", value_name = "PEER")]
    trusted: Vec<Peer>,
}

impl NodeArgs {
    /// As settings; `serve` is what shall be hosted.
    pub(super) fn layer(&self, serve: &[String]) -> Layer {
        fn some<T: Clone>(all: &[T]) -> Option<Vec<T>> {
            (!all.is_empty()).then(|| all.to_vec())
        }
        Layer {
            listen: some(&self.listen),
            bootstrap: some(&self.bootstrap),
            swarm: self.swarm.clone(),
            serve: some(serve),
            threads: self.threads,
            kv_positions: self.kv_positions,
            max_sessions: self.max_sessions,
            upload_kib_per_second: self.upload_kib_per_second,
            memory_mib: self.memory_mib,
            drain_seconds: self.drain_seconds,
            patience_seconds: self.patience_seconds,
            mdns: self.mdns.then_some(true),
            privacy: self.privacy,
            trusted: some(&self.trusted),
            ..Layer::default()
        }
    }
}

/// One process of the demo. It heeds nothing but its flags.
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
    /// Who may see it [default: as the node was started]
    #[arg(long, value_enum)]
    pub(crate) privacy: Option<PrivacyArg>,
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
