//! One source of settings: a file, the environment, the flags. What it does not say, it leaves to
//! the next.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use taimatsu_model::whole_file;
use toml::Spanned;

use super::values::{
    Address, ApiAddress, Kibibytes, Mebibytes, Peer, Positions, PrivacyArg, Seconds, Sessions,
    SwarmName, Threads, Truth,
};
use crate::failure::{Code, Failure};

/// What one source says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Layer {
    pub(crate) home: Option<PathBuf>,
    pub(crate) models: Option<PathBuf>,
    pub(crate) api: Option<ApiAddress>,
    pub(crate) listen: Option<Vec<Address>>,
    pub(crate) bootstrap: Option<Vec<Address>>,
    pub(crate) swarm: Option<SwarmName>,
    pub(crate) serve: Option<Vec<String>>,
    pub(crate) threads: Option<Threads>,
    pub(crate) kv_positions: Option<Positions>,
    pub(crate) max_sessions: Option<Sessions>,
    pub(crate) upload_kib_per_second: Option<Kibibytes>,
    pub(crate) memory_mib: Option<Mebibytes>,
    pub(crate) drain_seconds: Option<Seconds>,
    pub(crate) patience_seconds: Option<Seconds>,
    pub(crate) offline: Option<bool>,
    pub(crate) mdns: Option<bool>,
    pub(crate) privacy: Option<PrivacyArg>,
    pub(crate) trusted: Option<Vec<Peer>>,
}

/// Every key, in the order in which they are shown.
pub(crate) const KEYS: [&str; 18] = [
    "home",
    "models",
    "api",
    "listen",
    "bootstrap",
    "swarm",
    "serve",
    "threads",
    "kv_positions",
    "max_sessions",
    "upload_kib_per_second",
    "memory_mib",
    "drain_seconds",
    "patience_seconds",
    "offline",
    "mdns",
    "privacy",
    "trusted",
];

impl Layer {
    /// Reads a file; none where there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or something in it cannot be: named with its line.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let refused = |error: &std::io::Error| {
            Failure::of(Code::Resources, format!("cannot read {}", path.display()), error)
                .try_this("--config FILE, with a file that you can read")
        };
        // What people name when they mean none.
        if path == Path::new("/dev/null") {
            return Ok(Some(Self::default()));
        }
        let unfit = |cause: String| {
            Failure::new(Code::Usage, format!("{} cannot hold settings", path.display()))
                .because(cause)
                .try_this("--config FILE")
        };
        let bytes = match whole_file::read(path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) => match error.kind() {
                ErrorKind::NotFound => return Ok(None),
                ErrorKind::InvalidInput | ErrorKind::FileTooLarge => {
                    return Err(unfit(error.to_string()));
                }
                _ => return Err(refused(&error)),
            },
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| unfit(error.to_string()))?;
        Self::parse(path, text).map(Some)
    }

    /// The settings of a file with this text.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let place = Place { path, text };
        let keys: std::collections::BTreeMap<Spanned<String>, toml::Value> =
            toml::from_str(text).map_err(|error| place.wrong(&error))?;
        for key in keys.keys() {
            if !KEYS.contains(&key.get_ref().as_str()) {
                return Err(place.unknown(key));
            }
        }
        let layer: Self = toml::from_str(text).map_err(|error| place.wrong(&error))?;
        Ok(layer.relative_to(path))
    }

    /// Paths of a file are meant from where it lies.
    fn relative_to(mut self, path: &Path) -> Self {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        for named in [&mut self.home, &mut self.models].into_iter().flatten() {
            *named = folder.join(&named);
        }
        self
    }

    /// What the environment says; `get` reads a variable. An empty one says nothing.
    ///
    /// # Errors
    /// A variable's value cannot be.
    pub(crate) fn of_environment(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let path = |key: &str| get(&variable(key)).filter(|v| !v.is_empty()).map(PathBuf::from);
        let text = |key: &str| {
            let value = get(&variable(key))?.to_string_lossy().into_owned();
            Some(value).filter(|value| !value.is_empty())
        };
        let truth = |key: &str| Ok::<_, Failure>(one::<Truth>(key, text(key))?.map(|said| said.0));
        Ok(Self {
            home: path("home"),
            models: path("models"),
            api: one("api", text("api"))?,
            listen: list("listen", text("listen"))?,
            bootstrap: list("bootstrap", text("bootstrap"))?,
            swarm: one("swarm", text("swarm"))?,
            serve: list("serve", text("serve"))?,
            threads: one("threads", text("threads"))?,
            kv_positions: one("kv_positions", text("kv_positions"))?,
            max_sessions: one("max_sessions", text("max_sessions"))?,
            upload_kib_per_second: one("upload_kib_per_second", text("upload_kib_per_second"))?,
            memory_mib: one("memory_mib", text("memory_mib"))?,
            drain_seconds: one("drain_seconds", text("drain_seconds"))?,
            patience_seconds: one("patience_seconds", text("patience_seconds"))?,
            offline: truth("offline")?,
            mdns: truth("mdns")?,
            privacy: one("privacy", text("privacy"))?,
            trusted: list("trusted", text("trusted"))?,
        })
    }
}

/// The environment's name of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("TAIMATSU_{}", key.to_uppercase())
}

fn one<T: FromStr>(key: &str, text: Option<String>) -> Result<Option<T>, Failure>
where
    T::Err: std::fmt::Display,
{
    let Some(text) = text else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|error: T::Err| {
        Failure::new(Code::Usage, format!("{}={text} cannot be", variable(key)))
            .because(error)
            .try_this(format!("another value, or without it: unset {}", variable(key)))
    })
}

fn list<T: FromStr>(key: &str, text: Option<String>) -> Result<Option<Vec<T>>, Failure>
where
    T::Err: std::fmt::Display,
{
    let Some(text) = text else { return Ok(None) };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    let all = parts.map(|part| one(key, Some(part.to_owned())));
    all.filter_map(Result::transpose).collect::<Result<_, _>>().map(Some)
}

/// A file that is being read, to name places in it.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn at(&self, start: usize) -> (usize, &str) {
        let before = self.text.get(..start).unwrap_or(self.text);
        let number = before.matches('\n').count();
        (number + 1, self.text.lines().nth(number).unwrap_or_default().trim())
    }

    fn wrong(&self, error: &toml::de::Error) -> Failure {
        let (number, line) = self.at(error.span().map_or(0, |span| span.start));
        let what = format!("{}, line {number}: {}", self.path.display(), error.message());
        let shown: String = line.chars().take(SHOWN).collect();
        Failure::new(Code::Usage, what)
            .because(format!("the line is `{shown}`"))
            .try_this(format!("an editor on {}", self.path.display()))
    }

    fn unknown(&self, key: &Spanned<String>) -> Failure {
        let (number, _) = self.at(key.span().start);
        let name: String = key.get_ref().chars().take(SHOWN).collect();
        let what = format!("{}, line {number}: unknown key `{name}`", self.path.display());
        let alike = |known: &&str| strsim::jaro_winkler(&name, known);
        let nearest = KEYS.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)));
        let failure = Failure::new(Code::Usage, what);
        if name.replace('-', "_").starts_with("api_key") {
            return failure
                .because("a key stands in a file of its own, which nobody else may read")
                .try_this("--api-key FILE, or TAIMATSU_API_KEY");
        }
        match nearest.filter(|known| alike(known) >= ALIKE) {
            Some(known) => failure.try_this(format!("`{known}` in its place")),
            None => {
                failure.because(format!("known are {}", KEYS.join(", "))).try_this("one of these")
            }
        }
    }
}

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Letters of a line, or a key, that are shown.
const SHOWN: usize = 80;

/// How alike a key must be to be suggested: 1 is equal (Jaro-Winkler).
const ALIKE: f64 = 0.7;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Layer, String> {
        Layer::parse(Path::new("/etc/c.toml"), text).map_err(|failure| failure.to_string())
    }

    #[test]
    fn every_key_is_read() {
        let peer = taimatsu_protocol::PeerId::from_public_key([3; 32]);
        let text = format!(
            "home = \"/h\"\nmodels = \"m\"\napi = \"4811\"\nlisten = [\"/ip4/0.0.0.0/tcp/1\"]\n\
             bootstrap = []\nswarm = \"club\"\nserve = [\"a:b@0-9\"]\nthreads = 2\n\
             kv_positions = 64\nmax_sessions = 3\nupload_kib_per_second = 100\nmemory_mib = 512\n\
             drain_seconds = 0\npatience_seconds = 9\noffline = true\nmdns = false\nprivacy = \"local\"\ntrusted = [\"{peer}\"]\n"
        );
        assert_eq!(text.lines().count(), KEYS.len());
        let layer = parse(&text).unwrap();
        assert_eq!(layer.home.as_deref(), Some(Path::new("/h")));
        assert_eq!(layer.models.as_deref(), Some(Path::new("/etc/m")), "from where the file is");
        assert_eq!(layer.trusted.unwrap()[0].0, peer);
        assert_eq!(layer.drain_seconds.unwrap().get(), 0);
        assert_eq!(parse("").unwrap(), Layer::default());
    }

    /// The half that was cut off may be the half that says `privacy`.
    #[test]
    fn a_file_that_is_too_long_is_refused_and_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let filler = "#".repeat(usize::try_from(MAX_FILE).unwrap());
        std::fs::write(&path, format!("{filler}\nprivacy = \"local\"\n")).unwrap();
        let told = Layer::read(&path).unwrap_err().to_string();
        assert!(told.contains("longer than") && told.contains("config.toml"), "{told}");
        std::fs::write(&path, [b'#', 0xff]).unwrap();
        assert!(Layer::read(&path).unwrap_err().to_string().contains("utf-8"));
        assert!(Layer::read(dir.path()).unwrap_err().to_string().contains("no regular file"));
        assert_eq!(Layer::read(&dir.path().join("none")).unwrap(), None);
        assert_eq!(Layer::read(Path::new("/dev/null")).unwrap(), Some(Layer::default()));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        for (key, near) in [("model", "models"), ("thread", "threads"), ("boostrap", "bootstrap")] {
            let told = parse(&format!("\n{key} = 1")).unwrap_err();
            assert!(told.contains("line 2") && told.contains(&format!("`{near}`")), "{told}");
        }
        let told = parse("[node]\nhome = \"/h\"").unwrap_err();
        assert!(told.contains("`node`"), "{told}");
        assert!(parse("zzz = 1").unwrap_err().contains("kv_positions"));
    }

    #[test]
    fn what_cannot_be_is_named_with_its_line() {
        for (line, word) in [
            ("threads = \"four\"", "1 to 1024"),
            ("threads = 0", "1 to 1024"),
            ("threads = 1.5", "1 to 1024"),
            ("offline = 1", "boolean"),
            ("serve = \"a\"", "sequence"),
            ("listen = [\"nowhere\"]", "/ip4/"),
            ("trusted = [\"me\"]", "peer id"),
            ("home = 3", "string"),
            ("api = \"here\"", "127.0.0.1:4810"),
            ("swarm = \"open", "string"),
            ("swarm = \"\"", "a name"),
            ("swarm = \"a\\u001bb\"", "a name"),
        ] {
            let told = parse(&format!("# a comment\n{line}\n")).unwrap_err();
            assert!(told.contains("line 2") && told.contains(word), "{line}: {told}");
            assert!(told.lines().count() <= 4, "{told}");
        }
    }

    #[test]
    fn the_environment_says_the_same_things() {
        let with = |name: &'static str, value: &'static str| {
            Layer::of_environment(&move |asked| (asked == name).then(|| value.into()))
        };
        assert_eq!(with("TAIMATSU_HOME", "/h").unwrap().home, Some("/h".into()));
        assert_eq!(with("TAIMATSU_HOME", "").unwrap(), Layer::default());
        let serve = with("TAIMATSU_SERVE", "a@0-1, b").unwrap().serve.unwrap();
        assert_eq!(serve, ["a@0-1", "b"]);
        assert_eq!(with("TAIMATSU_OFFLINE", "0").unwrap().offline, Some(false));
        for (text, means) in [("yes", true), (" false", false), ("OFF\n", false), ("On", true)] {
            assert_eq!(with("TAIMATSU_MDNS", text).unwrap().mdns, Some(means), "{text:?}");
        }
        for text in ["nope", "2", "disabled", "n", " "] {
            let told = with("TAIMATSU_OFFLINE", text).unwrap_err().to_string();
            assert!(
                told.contains("TAIMATSU_OFFLINE") && told.contains("true, false, yes"),
                "{told}"
            );
        }
        assert!(with("TAIMATSU_SWARM", " ").is_err());
        let told = with("TAIMATSU_THREADS", "many").unwrap_err().to_string();
        assert!(told.contains("TAIMATSU_THREADS=many") && told.contains("1024"), "{told}");
    }
}
