//! Where things are: the node's home and the model store (flag, then environment, then XDG).

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::Global;
use crate::failure::{Code, Failure};

/// Where the API listens unless told otherwise.
pub(crate) const DEFAULT_API: &str = "127.0.0.1:4810";

/// Where other nodes reach a host unless told otherwise.
pub(crate) const DEFAULT_PORT: u16 = 4801;

/// A node's home: its key, its lock, what it tells other commands.
pub(crate) fn home(global: &Global) -> Result<PathBuf, Failure> {
    match &global.home {
        Some(home) => Ok(home.clone()),
        None => directories::ProjectDirs::from("", "", "taimatsu")
            .map(|dirs| dirs.data_dir().to_path_buf())
            .ok_or_else(|| {
                Failure::new(Code::Resources, "there is no home directory")
                    .because("HOME is not set")
                    .try_this("--home DIR")
            }),
    }
}

/// The model store's directory.
pub(crate) fn models(global: &Global) -> Result<PathBuf, Failure> {
    match &global.models {
        Some(models) => Ok(models.clone()),
        None => Ok(home(global)?.join("models")),
    }
}

/// Where the API listens, for `up`.
pub(crate) fn api(global: &Global) -> Result<SocketAddr, Failure> {
    let text = global.api.as_deref().unwrap_or(DEFAULT_API);
    let text = text.trim_start_matches("http://").trim_end_matches('/').trim_end_matches("/v1");
    let text = if text.parse::<u16>().is_ok() { format!("127.0.0.1:{text}") } else { text.into() };
    text.replace("localhost", "127.0.0.1").parse().map_err(|_| {
        Failure::new(Code::Usage, format!("`{text}` is not an address"))
            .try_this("--api 127.0.0.1:4810")
    })
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

    fn global(home: Option<&str>, models: Option<&str>, api: Option<&str>) -> Global {
        Global {
            home: home.map(PathBuf::from),
            models: models.map(PathBuf::from),
            api: api.map(str::to_owned),
            api_key: None,
            offline: false,
            json: false,
            quiet: false,
            verbose: 0,
        }
    }

    #[test]
    fn models_live_at_home_unless_told_otherwise() {
        let models_of = |h, m| models(&global(h, m, None)).unwrap();
        assert_eq!(models_of(Some("/h"), None), PathBuf::from("/h/models"));
        assert_eq!(models_of(Some("/h"), Some("/m")), PathBuf::from("/m"));
    }

    #[test]
    fn an_api_address_is_read_in_every_form() {
        for text in ["4811", "127.0.0.1:4811", "localhost:4811", "http://127.0.0.1:4811/v1"] {
            let address = api(&global(None, None, Some(text))).unwrap();
            assert_eq!(address.to_string(), "127.0.0.1:4811", "{text}");
        }
        assert!(api(&global(None, None, Some("nowhere"))).is_err());
    }
}
