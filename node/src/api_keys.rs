//! The keys that open a node's API: from a file, or one from the environment.

use std::path::Path;

use taimatsu_model::whole_file;
use zeroize::Zeroizing;

use crate::config::{self, API_KEY};
use crate::failure::{Code, Failure};

/// The largest file of keys that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// Some keys; none of them: the API is open to whoever reaches it.
#[derive(Clone, Default)]
pub(crate) struct ApiKeys(Vec<Zeroizing<String>>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl ApiKeys {
    /// The keys of `--api-key`, else that of the environment, else none.
    ///
    /// # Errors
    /// The file cannot be read, can be read by others, or holds something that is no key.
    pub(crate) fn of(file: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = file {
            return Self::from_file(path);
        }
        let Some(key) = config::api_key() else { return Ok(Self::default()) };
        match key.into_string().map(Zeroizing::new) {
            Ok(key) if key.is_empty() => Ok(Self::default()),
            Ok(key) if is_key(&key) => Ok(Self(vec![key])),
            _ => Err(no_key(&format!("{API_KEY} is no key"))),
        }
    }

    fn from_file(path: &Path) -> Result<Self, Failure> {
        let what = format!("cannot use the keys in {}", path.display());
        let unreadable = |error: std::io::Error| {
            let code = match error.kind() {
                std::io::ErrorKind::NotFound => Code::NotFound,
                _ => Code::Resources,
            };
            Failure::of(code, what.clone(), &error).try_this("--api-key FILE that you can read")
        };
        if is_open(&std::fs::metadata(path).map_err(unreadable)?) {
            return Err(Failure::new(Code::Usage, what)
                .because("others on this machine can read or write the file")
                .try_this(format!("chmod 600 {}", path.display())));
        }
        let bytes = Zeroizing::new(whole_file::read(path, MAX_FILE).map_err(|error| {
            match error.kind() {
                std::io::ErrorKind::InvalidInput | std::io::ErrorKind::FileTooLarge => {
                    Failure::of(Code::Usage, what.clone(), &error)
                        .try_this("a file with one key on each line")
                }
                _ => unreadable(error),
            }
        })?);
        let text = std::str::from_utf8(&bytes).map_err(|_| no_key(&what))?;
        let lines = text.lines().map(str::trim);
        let keys: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        if keys.is_empty() || !keys.iter().all(|key| is_key(key)) {
            return Err(no_key(&what));
        }
        Ok(Self(keys.into_iter().map(|key| Zeroizing::new(key.to_owned())).collect()))
    }

    /// The keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.as_str())
    }
}

fn no_key(what: &str) -> Failure {
    Failure::new(Code::Usage, what)
        .because("a key is a line of printable ASCII characters without spaces")
        .try_this("head -c 24 /dev/urandom | base64")
}

/// What can stand in a header behind `Bearer`.
fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(unix)]
fn is_open(file: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn is_open(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn keys(text: &str, mode: u32) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let keys = ApiKeys::from_file(&path).map_err(|failure| failure.to_string())?;
        Ok(keys.iter().map(str::to_owned).collect())
    }

    #[test]
    fn a_file_has_a_key_on_each_line() {
        assert_eq!(keys("one\n\n  two \r\n", 0o600).unwrap(), ["one", "two"]);
        assert_eq!(keys("one", 0o400).unwrap(), ["one"]);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o660] {
            let told = keys("one", mode).unwrap_err();
            assert!(told.contains("chmod 600") && told.lines().count() <= 4, "{told}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "\n \n", "two words", "schlüssel", "good\nb\u{7f}d"] {
            assert!(keys(text, 0o600).unwrap_err().contains("printable"), "{text:?}");
        }
        assert!(ApiKeys::from_file(Path::new("/nowhere/keys")).is_err());
    }
}
