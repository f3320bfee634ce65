//! Models of a hub, `hf:ORG/REPO/FILE.gguf`: what such a name means, and, with the cargo feature
//! `hf`, how the file comes. Plain HTTPS; the digest that the hub tells beside the file decides.

use taimatsu_model::StoredModel;

use crate::cli::Global;
use crate::failure::{Code, Failure};

#[cfg(feature = "hf")]
mod fetching;

/// What names of this kind begin with.
const PREFIX: &str = "hf:";

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubFile {
    /// `ORG/REPO`.
    repository: String,
    /// Its path there.
    path: String,
}

/// Whether a name is of this kind.
pub(crate) fn is_hub_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

impl HubFile {
    /// Reads `hf:ORG/REPO/FILE.gguf`.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(name: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::new(Code::Usage, format!("`{name}` is no file of a hub"))
                .because(why)
                .try_this("hf:ORG/REPO/FILE.gguf")
        };
        let rest = name.strip_prefix(PREFIX).unwrap_or(name);
        let parts: Vec<&str> = rest.split('/').collect();
        let plain = |part: &&str| {
            let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            part.chars().all(letter) && part.chars().any(|c| c.is_ascii_alphanumeric())
        };
        let [organisation, repository, path @ ..] = parts.as_slice() else {
            return Err(wrong("it needs an organisation, a repository and a file"));
        };
        if path.is_empty() {
            return Err(wrong("it needs an organisation, a repository and a file"));
        }
        if !parts.iter().all(plain) {
            return Err(wrong("its parts are letters, digits, `.`, `_` and `-`"));
        }
        if !rest.ends_with(".gguf") {
            return Err(wrong("models are GGUF files"));
        }
        Ok(Self { repository: format!("{organisation}/{repository}"), path: path.join("/") })
    }

    /// The file's own name.
    #[cfg(feature = "hf")]
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Fetches a file into the store.
///
/// # Errors
/// It is not there, not what was told, or nothing may be fetched.
#[cfg(feature = "hf")]
pub(crate) async fn pull(global: &Global, file: &HubFile) -> Result<StoredModel, Failure> {
    fetching::pull(global, file).await
}

/// Says that this program cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "hf"))]
pub(crate) async fn pull(_: &Global, file: &HubFile) -> Result<StoredModel, Failure> {
    let HubFile { repository, path } = file;
    Err(Failure::new(Code::Usage, format!("cannot fetch {path} of {repository}"))
        .because("this program was built without the cargo feature `hf`")
        .try_this("cargo install --path node --features hf, or taimatsu import FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_three_parts_and_ends_rightly() {
        let file = HubFile::parse("hf:a-b/C.d/sub/m_1.Q4_K.gguf").unwrap();
        assert_eq!((&*file.repository, &*file.path), ("a-b/C.d", "sub/m_1.Q4_K.gguf"));
        for name in [
            "hf:",
            "hf:a/b",
            "hf:a/b/",
            "hf:a/b/c.bin",
            "hf:a//c.gguf",
            "hf:a/../c.gguf",
            "hf:a/b/../c.gguf",
            "hf:a/b/c d.gguf",
            "hf:a/b/c.gguf?x",
            "hf:a/b/é.gguf",
        ] {
            assert_eq!(HubFile::parse(name).unwrap_err().code, Code::Usage, "{name}");
        }
    }
}
