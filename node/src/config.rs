//! The settings, and where each comes from: a flag, else the environment, else the user's file,
//! else the machine's, else the default. The only file that reads the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taimatsu_network::Multiaddr;
use taimatsu_protocol::PeerId;

use crate::cli::Global;
use crate::failure::{Code, Failure};

mod layer;
mod values;

pub(crate) use layer::{Layer, variable};
pub(crate) use values::{
    Address, ApiAddress, Kibibytes, Mebibytes, Peer, Positions, PrivacyArg, Seconds, Sessions,
    SwarmName, Threads,
};

/// Where other nodes reach a host unless told otherwise.
pub(crate) const DEFAULT_PORT: u16 = 4801;

/// Where the API listens unless told otherwise.
const DEFAULT_API: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4810);

/// The swarm unless told otherwise.
const DEFAULT_SWARM: &str = "public";

/// The machine's file, below the user's.
const SYSTEM_FILE: &str = "/etc/taimatsu/config.toml";

/// What a node and its commands are told, each with its origin.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// None: there is no home directory to be found.
    pub(crate) home: Setting<Option<PathBuf>>,
    pub(crate) models: Setting<Option<PathBuf>>,
    pub(crate) api: Setting<SocketAddr>,
    pub(crate) listen: Setting<Vec<Multiaddr>>,
    pub(crate) bootstrap: Setting<Vec<Multiaddr>>,
    pub(crate) swarm: Setting<String>,
    pub(crate) serve: Setting<Vec<String>>,
    pub(crate) threads: Setting<u32>,
    pub(crate) kv_positions: Setting<u32>,
    pub(crate) max_sessions: Setting<u32>,
    /// None: as fast as it goes.
    pub(crate) upload_kib_per_second: Setting<Option<u32>>,
    /// None: whatever is asked for.
    pub(crate) memory_mib: Setting<Option<u32>>,
    pub(crate) drain_seconds: Setting<u32>,
    /// How long an answer that lost a host waits for another in its place.
    pub(crate) patience_seconds: Setting<u32>,
    pub(crate) offline: Setting<bool>,
    pub(crate) mdns: Setting<bool>,
    /// Who may see this node's questions, at most.
    pub(crate) privacy: Setting<PrivacyArg>,
    /// Hosts that may see what is for trusted hosts alone.
    pub(crate) trusted: Setting<Vec<PeerId>>,
}

/// A value, and who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    /// What is in force.
    pub(crate) value: T,
    /// Who said so.
    pub(crate) origin: Origin,
}

/// Who said something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// A variable.
    Environment,
    /// The user's file.
    File(PathBuf),
    /// The machine's file.
    System(PathBuf),
    /// Nobody.
    Default,
}

impl Origin {
    /// Whether it was said for this one call.
    pub(crate) const fn is_of_this_call(&self) -> bool {
        matches!(self, Self::Flag | Self::Environment)
    }

    /// In one word.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File(_) => "file",
            Self::System(_) => "system",
            Self::Default => "default",
        }
    }

    /// Where exactly, where that says more; `key` is whose origin it is.
    pub(crate) fn place(&self, key: &str) -> Option<String> {
        match self {
            Self::Environment => Some(variable(key)),
            Self::File(path) | Self::System(path) => Some(path.display().to_string()),
            Self::Flag | Self::Default => None,
        }
    }
}

/// The files that settings are read from.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The user's; none where there is no home directory.
    pub(crate) user: Option<PathBuf>,
    /// It was named, so it must be there.
    pub(crate) named: bool,
    /// The machine's.
    pub(crate) system: PathBuf,
}

impl Files {
    /// The files of this process; `named` is what `--config` says.
    pub(crate) fn of(named: Option<&Path>) -> Self {
        let set = |name| read_variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let named = named.map(Path::to_owned).or_else(|| set("TAIMATSU_CONFIG"));
        let system = set("TAIMATSU_SYSTEM_CONFIG").unwrap_or_else(|| SYSTEM_FILE.into());
        let dirs = directories::ProjectDirs::from("", "", "taimatsu");
        let usual = dirs.map(|dirs| dirs.config_dir().join("config.toml"));
        Self { named: named.is_some(), user: named.or(usual), system }
    }

    fn layers(&self) -> Result<Vec<(Origin, Layer)>, Failure> {
        let mut layers = Vec::new();
        if let Some(path) = &self.user {
            match Layer::read(path)? {
                Some(layer) => layers.push((Origin::File(path.clone()), layer)),
                None if self.named => {
                    let what = format!("there is no file {}", path.display());
                    return Err(Failure::new(Code::NotFound, what)
                        .try_this("taimatsu config path, without --config"));
                }
                None => {}
            }
        }
        if let Some(layer) = Layer::read(&self.system)? {
            layers.push((Origin::System(self.system.clone()), layer));
        }
        Ok(layers)
    }
}

impl Settings {
    /// What flags, environment and files come to.
    ///
    /// # Errors
    /// A file or a variable says something that cannot be.
    pub(crate) fn resolve(flags: Layer, files: &Files) -> Result<Self, Failure> {
        let environment = Layer::of_environment(&read_variable)?;
        let mut layers = vec![(Origin::Flag, flags), (Origin::Environment, environment)];
        layers.extend(files.layers()?);
        Ok(Self::of(&layers))
    }

    /// What these layers come to, the first that says something first.
    pub(crate) fn of(layers: &[(Origin, Layer)]) -> Self {
        let home = pick(layers, |layer| layer.home.clone()).or_default(default_home);
        let below = || home.value.as_ref().map(|home| home.join("models"));
        let models = pick(layers, |layer| layer.models.clone()).or_default(below);
        let serve = pick(layers, |layer| layer.serve.clone()).or(Vec::new);
        let listen = pick(layers, |layer| layer.listen.as_deref().map(dialable));
        let bootstrap = pick(layers, |layer| layer.bootstrap.as_deref().map(dialable));
        let trusted = |layer: &Layer| Some(layer.trusted.as_ref()?.iter().map(|p| p.0).collect());
        Self {
            listen: listen.or(|| default_listen(!serve.value.is_empty())),
            bootstrap: bootstrap.or(Vec::new),
            api: pick(layers, |layer| layer.api.map(|api| api.0)).or(|| DEFAULT_API),
            swarm: pick(layers, |layer| layer.swarm.clone().map(|name| name.0))
                .or(|| DEFAULT_SWARM.into()),
            threads: pick(layers, |layer| layer.threads.map(Threads::get)).or(all_threads),
            kv_positions: pick(layers, |layer| layer.kv_positions)
                .or(Positions::fixed::<16_384>)
                .map(Positions::get),
            max_sessions: pick(layers, |layer| layer.max_sessions)
                .or(Sessions::fixed::<32>)
                .map(Sessions::get),
            upload_kib_per_second: pick(layers, |layer| layer.upload_kib_per_second)
                .or_default(|| None)
                .map(|limit| limit.map(Kibibytes::get)),
            memory_mib: pick(layers, |layer| layer.memory_mib)
                .or_default(|| None)
                .map(|limit| limit.map(Mebibytes::get)),
            drain_seconds: pick(layers, |layer| layer.drain_seconds)
                .or(Seconds::fixed::<5>)
                .map(Seconds::get),
            patience_seconds: pick(layers, |layer| layer.patience_seconds)
                .or(Seconds::fixed::<60>)
                .map(Seconds::get),
            offline: pick(layers, |layer| layer.offline).or(|| false),
            mdns: pick(layers, |layer| layer.mdns).or(|| false),
            privacy: pick(layers, |layer| layer.privacy).or(|| PrivacyArg::Anyone),
            trusted: pick(layers, trusted).or(Vec::new),
            home,
            models,
            serve,
        }
    }

    /// Every setting as it is shown, under its key.
    pub(crate) fn rows(&self) -> Vec<(&'static str, Value, &Origin)> {
        let texts = |all: &[Multiaddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let peers: Vec<String> = self.trusted.value.iter().map(ToString::to_string).collect();
        let path = |path: &Option<PathBuf>| json!(path.as_ref().map(|p| p.display().to_string()));
        vec![
            ("home", path(&self.home.value), &self.home.origin),
            ("models", path(&self.models.value), &self.models.origin),
            ("api", json!(self.api.value.to_string()), &self.api.origin),
            ("listen", json!(texts(&self.listen.value)), &self.listen.origin),
            ("bootstrap", json!(texts(&self.bootstrap.value)), &self.bootstrap.origin),
            ("swarm", json!(self.swarm.value), &self.swarm.origin),
            ("serve", json!(self.serve.value), &self.serve.origin),
            ("threads", json!(self.threads.value), &self.threads.origin),
            ("kv_positions", json!(self.kv_positions.value), &self.kv_positions.origin),
            ("max_sessions", json!(self.max_sessions.value), &self.max_sessions.origin),
            (
                "upload_kib_per_second",
                json!(self.upload_kib_per_second.value),
                &self.upload_kib_per_second.origin,
            ),
            ("memory_mib", json!(self.memory_mib.value), &self.memory_mib.origin),
            ("drain_seconds", json!(self.drain_seconds.value), &self.drain_seconds.origin),
            ("patience_seconds", json!(self.patience_seconds.value), &self.patience_seconds.origin),
            ("offline", json!(self.offline.value), &self.offline.origin),
            ("mdns", json!(self.mdns.value), &self.mdns.origin),
            ("privacy", json!(self.privacy.value.word()), &self.privacy.origin),
            ("trusted", json!(peers), &self.trusted.origin),
        ]
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(&[])
    }
}

impl<T> Setting<T> {
    fn map<U>(self, of: impl FnOnce(T) -> U) -> Setting<U> {
        Setting { value: of(self.value), origin: self.origin }
    }
}

/// The first layer that says something, if one does.
struct Picked<T>(Option<Setting<T>>);

fn pick<T>(layers: &[(Origin, Layer)], of: impl Fn(&Layer) -> Option<T>) -> Picked<T> {
    Picked(layers.iter().find_map(|(origin, layer)| {
        of(layer).map(|value| Setting { value, origin: origin.clone() })
    }))
}

impl<T> Picked<T> {
    fn or(self, default: impl FnOnce() -> T) -> Setting<T> {
        self.0.unwrap_or_else(|| Setting { value: default(), origin: Origin::Default })
    }

    fn or_default(self, default: impl FnOnce() -> Option<T>) -> Setting<Option<T>> {
        match self.0 {
            Some(Setting { value, origin }) => Setting { value: Some(value), origin },
            None => Setting { value: default(), origin: Origin::Default },
        }
    }
}

/// A node's home: its key, its lock, what it tells other commands.
pub(crate) fn home(global: &Global) -> Result<PathBuf, Failure> {
    global.settings.home.value.clone().ok_or_else(no_home)
}

/// The model store's directory.
pub(crate) fn models(global: &Global) -> Result<PathBuf, Failure> {
    global.settings.models.value.clone().ok_or_else(no_home)
}

fn no_home() -> Failure {
    Failure::new(Code::Resources, "there is no home directory")
        .because("HOME is not set")
        .try_this("--home DIR")
}

fn default_home() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "taimatsu").map(|dirs| dirs.data_dir().to_path_buf())
}

fn default_listen(hosts: bool) -> Vec<Multiaddr> {
    let port = if hosts { DEFAULT_PORT } else { 0 };
    let texts = [format!("/ip4/0.0.0.0/tcp/{port}"), format!("/ip4/0.0.0.0/udp/{port}/quic-v1")];
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn dialable(addresses: &[Address]) -> Vec<Multiaddr> {
    addresses.iter().map(|address| address.0.clone()).collect()
}

fn all_threads() -> u32 {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(all).unwrap_or(u32::MAX)
}

fn read_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Variables that look like settings and are none: somebody believes that they are in force.
pub(crate) fn stray_variables() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| name.starts_with(PREFIX) && !is_variable(name)).collect()
}

const PREFIX: &str = "TAIMATSU_";

fn is_variable(name: &str) -> bool {
    let others = ["TAIMATSU_CONFIG", "TAIMATSU_SYSTEM_CONFIG", "TAIMATSU_LOG", API_KEY];
    others.contains(&name) || layer::KEYS.iter().any(|key| variable(key) == name)
}

/// The environment's API key, where no file is named. It is the key itself, not a file.
pub(crate) const API_KEY: &str = "TAIMATSU_API_KEY";

/// What [`API_KEY`] says, if it is there.
pub(crate) fn api_key() -> Option<OsString> {
    read_variable(API_KEY)
}

/// What shall be logged, where somebody wishes.
pub(crate) fn log_filter() -> Option<String> {
    read_variable("TAIMATSU_LOG").map(|filter| filter.to_string_lossy().into_owned())
}

/// The hub that `hf:` names mean.
#[cfg(feature = "hf")]
pub(crate) fn hub_endpoint() -> String {
    let named = read_variable("HF_ENDPOINT").filter(|endpoint| !endpoint.is_empty());
    let named = named.map(|endpoint| endpoint.to_string_lossy().into_owned());
    let endpoint = named.unwrap_or_else(|| "https://hf.co".into());
    endpoint.trim_end_matches('/').to_owned()
}

/// Where files of the moment go.
pub(crate) fn temporary_dir() -> PathBuf {
    std::env::temp_dir()
}

/// How this program was called, for hints that can be copied: through cargo, or by its name.
pub(crate) fn invocation() -> String {
    if std::env::var_os("CARGO").is_some() {
        return "cargo run --release --".into();
    }
    std::env::args_os()
        .next()
        .map_or_else(|| "taimatsu".into(), |program| program.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_variables_are_strays() {
        let strays = ["TAIMATSU_SWRAM", "TAIMATSU_TRUST", "TAIMATSU_"];
        assert!(!strays.into_iter().any(is_variable));
        let known = ["TAIMATSU_SWARM", "TAIMATSU_TRUSTED", "TAIMATSU_API_KEY", "TAIMATSU_LOG"];
        assert!(known.into_iter().all(is_variable));
    }

    fn layer(text: &str) -> Layer {
        Layer::parse(Path::new("/c/config.toml"), text).unwrap()
    }

    #[test]
    fn the_nearest_word_counts_and_its_origin_is_told() {
        let layers = [
            (Origin::Flag, layer("threads = 1")),
            (Origin::Environment, layer("threads = 2\nswarm = \"e\"")),
            (Origin::File("/u".into()), layer("threads = 3\nswarm = \"u\"\nkv_positions = 64")),
            (Origin::System("/s".into()), layer("kv_positions = 32\nmax_sessions = 4")),
        ];
        let settings = Settings::of(&layers);
        let Settings { threads, swarm, kv_positions, max_sessions, .. } = &settings;
        assert_eq!((threads.value, &threads.origin), (1, &Origin::Flag));
        assert_eq!((&*swarm.value, &swarm.origin), ("e", &Origin::Environment));
        assert_eq!(kv_positions.value, 64);
        assert_eq!(kv_positions.origin.place("kv_positions").as_deref(), Some("/u"));
        assert_eq!((max_sessions.value, max_sessions.origin.word()), (4, "system"));
        assert_eq!(swarm.origin.place("swarm").as_deref(), Some("TAIMATSU_SWARM"));
        assert_eq!((settings.drain_seconds.value, settings.api.origin.word()), (5, "default"));
    }

    #[test]
    fn every_key_is_shown_once_and_in_order() {
        let settings = Settings::default();
        let keys: Vec<_> = settings.rows().into_iter().map(|(key, ..)| key).collect();
        assert_eq!(keys, layer::KEYS);
    }

    #[test]
    fn models_live_at_home_unless_told_otherwise() {
        let of = |text: &str| Settings::of(&[(Origin::Flag, layer(text))]).models;
        let below = of("home = \"/h\"");
        assert_eq!((below.value, below.origin), (Some("/h/models".into()), Origin::Default));
        assert_eq!(of("home = \"/h\"\nmodels = \"/m\"").value, Some("/m".into()));
    }

    #[test]
    fn a_host_has_a_port_that_others_know() {
        let of = |text: &str| Settings::of(&[(Origin::Flag, layer(text))]).listen.value;
        assert!(of("serve = [\"m\"]")[0].to_string().ends_with("/tcp/4801"));
        assert!(of("")[0].to_string().ends_with("/tcp/0"));
        assert_eq!(of("listen = [\"/ip4/127.0.0.1/tcp/9\"]").len(), 1);
    }
}
