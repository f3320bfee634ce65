//! A model from whoever sends its bytes: bounded by the length that was told, and checked against
//! the digest where one was.

use std::io::Read;
use std::path::Path;

use super::{PullError, PullEvent, PullOptions, wait_for_lock};
use crate::gguf::GgufFile;
use crate::store::{Names, Store, StoreError, StoredModel, name_of_file, write_hashed};

/// What a sender says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its name, of which the model's is made.
    pub file: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal, where it was told.
    pub sha256: Option<String>,
    /// Where it comes from, for people to read.
    pub source: String,
}

/// The stored model that has the digest that a sender tells, so that it need not be sent.
///
/// # Errors
/// The store is not readable.
pub fn present(store: &Store, sent: &Sent) -> Result<Option<StoredModel>, StoreError> {
    match &sent.sha256 {
        Some(sha256) => store.find_file(sha256),
        None => Ok(None),
    }
}

/// Takes a model in as it comes from `bytes`; what ends early, or is not what was told, leaves
/// nothing.
///
/// # Errors
/// See [`PullError`].
pub fn take_in(
    store: &Store,
    sent: &Sent,
    bytes: impl Read,
    options: &PullOptions,
    progress: &mut dyn FnMut(PullEvent),
) -> Result<StoredModel, PullError> {
    if options.offline {
        return Err(PullError::Offline { name: sent.file.clone() });
    }
    let names = Names::new(&[&name_of_file(Path::new(&sent.file))])?;
    let _lock = wait_for_lock(store, options, progress)?;
    store.need(sent.bytes)?;
    let scratch = store.scratch()?;
    let file = scratch.path().join("model.gguf");
    let began = std::time::Instant::now();
    // One byte more than was told shows the lie.
    let limited = bytes.take(sent.bytes.saturating_add(1));
    let (length, sha256) = write_hashed(limited, &file, &mut |done| {
        let rate = (done as f64 / began.elapsed().as_secs_f64().max(0.001)) as u64;
        let left = sent.bytes.saturating_sub(done).checked_div(rate);
        let eta = left.map(std::time::Duration::from_secs);
        progress(PullEvent::Downloading { done, total: sent.bytes, rate, eta });
    })?;
    options.check()?;
    if length != sent.bytes {
        let what = sent.file.clone();
        return Err(PullError::Size { what, expected: sent.bytes, actual: length });
    }
    if let Some(expected) = sent.sha256.clone().filter(|expected| *expected != sha256) {
        let member = sent.file.clone();
        return Err(PullError::Digest { member, expected, actual: sha256 });
    }
    let opened = GgufFile::open(&file)
        .map_err(|source| StoreError::Gguf { path: sent.file.clone().into(), source })?;
    let license = opened.text("general.license").map(str::to_owned);
    drop(opened);
    let model = store.adopt(&file, &sha256, &names, license, sent.source.clone())?;
    progress(PullEvent::Done);
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sha256_of;

    const TINY: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tiny/llama.q4_1.gguf");

    fn setting() -> (tempfile::TempDir, Store, Vec<u8>, Sent) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let bytes = std::fs::read(TINY).unwrap();
        let sent = Sent {
            file: "Tiny.Q4_1.gguf".into(),
            bytes: bytes.len() as u64,
            sha256: Some(sha256_of(TINY.as_ref()).unwrap()),
            source: "a test".into(),
        };
        (dir, store, bytes, sent)
    }

    fn take(store: &Store, sent: &Sent, bytes: &[u8]) -> Result<StoredModel, PullError> {
        take_in(store, sent, bytes, &PullOptions::default(), &mut |_| {})
    }

    #[test]
    fn what_was_told_is_taken_in_and_not_sent_twice() {
        let (_dir, store, bytes, sent) = setting();
        assert!(present(&store, &sent).unwrap().is_none());
        let model = take(&store, &sent, &bytes).unwrap();
        assert_eq!(model.names, ["tiny.q4_1"]);
        assert_eq!(present(&store, &sent).unwrap().unwrap().id, model.id);
        let unsaid = Sent { sha256: None, ..sent };
        assert!(present(&store, &unsaid).unwrap().is_none());
        assert_eq!(take(&store, &unsaid, &bytes).unwrap().id, model.id);
    }

    #[test]
    fn anything_else_leaves_nothing() {
        let (_dir, store, bytes, sent) = setting();
        let mut other = bytes.clone();
        *other.last_mut().unwrap() ^= 1;
        let longer = [&bytes[..], b"x"].concat();
        for (sent, bytes) in [
            (sent.clone(), &other),
            (sent.clone(), &longer),
            (sent.clone(), &bytes[..bytes.len() / 2].to_vec()),
            (Sent { bytes: 3, sha256: None, ..sent.clone() }, &b"GGU".to_vec()),
        ] {
            assert!(take(&store, &sent, bytes).is_err());
            assert!(store.list().unwrap().is_empty());
            assert_eq!(std::fs::read_dir(store.dir().join("partial")).unwrap().count(), 0);
        }
        let offline = PullOptions { offline: true, ..PullOptions::default() };
        let told = take_in(&store, &sent, &bytes[..], &offline, &mut |_| {}).unwrap_err();
        assert!(told.to_string().contains("TAIMATSU_OFFLINE"), "{told}");
    }
}
