//! What outlives the node: standings of peers, and receipts of answers, in one redb file. A thread
//! of its own writes, several changes in one transaction; readers never wait for the disk's sync.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use taimatsu_peer::reputation::Standing;
use taimatsu_protocol::{Digest, ModelId, PeerId, codec};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::failure::{Code, Failure};
use crate::kept::{KeptAnswer, MAX_KEPT};

mod file;

use file::{OpenError, Shelf};

const FILE: &str = "ledger.redb";

/// Changes that may wait for the disk. Beyond it the newest is left out, with a warning: it comes
/// again with the peer's next answer.
const WAITING: usize = 1_024;

/// Changes of one transaction.
const AT_ONCE: usize = 256;

/// Answers kept; the oldest go first.
const MOST_ANSWERS: u64 = 1_000;

/// The longest record of a standing, in bytes.
const MAX_STANDING: usize = 4_096;

/// Peer and model (32 bytes each) to standing.
const STANDINGS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("standings 2");

/// A number that grows to an answer.
const ANSWERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("answers 2");

/// A handle to the ledger; cloned freely. The file is closed when the last is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    changes: mpsc::Sender<Change>,
    shelf: Arc<Shelf>,
}

/// A standing as it is kept.
pub(crate) type Kept = (PeerId, ModelId, Standing);

#[derive(Debug)]
enum Change {
    Standing(Box<Kept>),
    Forget(PeerId, ModelId),
    Answer(Box<KeptAnswer>),
    /// Told when everything before it is on the disk.
    Flush(oneshot::Sender<()>),
}

#[derive(Debug, thiserror::Error)]
enum LedgerError {
    #[error(transparent)]
    Begin(#[from] redb::TransactionError),
    #[error(transparent)]
    Table(#[from] redb::TableError),
    #[error(transparent)]
    Storage(#[from] redb::StorageError),
    #[error(transparent)]
    Commit(#[from] redb::CommitError),
    #[error("its file cannot be opened again")]
    Reopen(#[from] OpenError),
    #[error("its file is not open")]
    Closed,
    #[error("its file is damaged: {0}")]
    Panicked(String),
}

impl Ledger {
    /// Opens the ledger in a node's home, making it where there is none. A damaged one is moved
    /// aside and named.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn open(home: &Path) -> Result<Self, Failure> {
        let path = home.join(FILE);
        let what = format!("cannot use {}", path.display());
        let refused = |error: &dyn std::error::Error| {
            Failure::of(Code::Resources, what.clone(), error)
                .try_this("room on the disk, and a home that you can write to")
        };
        let shelf = Arc::new(Shelf::open(path).map_err(|error| refused(&error))?);
        let (changes, inbox) = mpsc::channel(WAITING);
        let writer = shelf.clone();
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || write(&writer, inbox))
            .map_err(|error| refused(&error))?;
        Ok(Self { changes, shelf })
    }

    /// Whether the ledger in a home that no node runs on is sound; none where there is none.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub(crate) fn check(home: &Path) -> Result<Option<()>, Failure> {
        let path = home.join(FILE);
        let found = file::check(&path).map_err(|error| {
            Failure::of(Code::Integrity, format!("cannot use {}", path.display()), &error)
                .try_this("taimatsu up, which moves a damaged one aside and begins anew")
        })?;
        Ok(found.then_some(()))
    }

    /// Why the last write failed, if it did.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.shelf.trouble()
    }

    /// Keeps a standing.
    pub(crate) fn remember(&self, peer: PeerId, model: ModelId, standing: Standing) {
        self.change(Change::Standing(Box::new((peer, model, standing))));
    }

    /// Keeps nothing of a peer and model any more.
    pub(crate) fn forget(&self, peer: PeerId, model: ModelId) {
        self.change(Change::Forget(peer, model));
    }

    /// Keeps an answer's receipts.
    pub(crate) fn keep(&self, answer: KeptAnswer) {
        self.change(Change::Answer(Box::new(answer)));
    }

    /// Waits until everything before is on the disk.
    pub(crate) async fn flush(&self) {
        let (done, told) = oneshot::channel();
        if self.changes.send(Change::Flush(done)).await.is_ok() {
            let _ = told.await;
        }
    }

    /// All standings. Reads the disk.
    pub(crate) fn standings(&self) -> Vec<Kept> {
        self.read(|database| {
            let table = match database.begin_read()?.open_table(STANDINGS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let read =
                |(key, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>)| {
                    let (peer, model) = read_key(key.value())?;
                    let standing = codec::decode(value.value(), MAX_STANDING).ok()?;
                    Some((peer, model, standing))
                };
            Ok(table.iter()?.map_while(Result::ok).filter_map(read).collect())
        })
    }

    /// The answers kept, newest first, at most `most`. Reads the disk.
    pub(crate) fn answers(&self, most: usize) -> Vec<KeptAnswer> {
        self.some_answers(most, |_| true)
    }

    /// The answers that are called so, newest first, at most `most`. Reads the disk.
    pub(crate) fn answers_called(&self, id: &str, most: usize) -> Vec<KeptAnswer> {
        self.some_answers(most, |answer| answer.is_called(id))
    }

    fn some_answers(&self, most: usize, is: impl Fn(&KeptAnswer) -> bool) -> Vec<KeptAnswer> {
        self.read(|database| {
            let table = match database.begin_read()?.open_table(ANSWERS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            // A file that cannot be read gives its error again and again.
            let newest = table.iter()?.rev().map_while(Result::ok);
            let decoded =
                newest.filter_map(|(_, value)| codec::decode(value.value(), MAX_KEPT).ok());
            Ok(decoded.filter(is).take(most).collect())
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<Vec<T>, LedgerError>) -> Vec<T> {
        self.shelf.with(read).unwrap_or_else(|error| {
            tracing::error!(%error, "the ledger cannot be read");
            Vec::new()
        })
    }

    fn change(&self, change: Change) {
        match self.changes.try_send(change) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!("the disk does not keep up; something was not remembered");
            }
            Err(TrySendError::Closed(_)) => tracing::error!(
                "the ledger's thread has ended; nothing is remembered until the node is restarted"
            ),
        }
    }
}

fn write(shelf: &Shelf, mut inbox: mpsc::Receiver<Change>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut changes = vec![first];
        while changes.len() < AT_ONCE
            && let Ok(change) = inbox.try_recv()
        {
            changes.push(change);
        }
        if changes.iter().any(|change| !matches!(change, Change::Flush(_))) {
            shelf.write(|database| commit(database, &changes));
        }
        for change in changes {
            if let Change::Flush(done) = change {
                let _ = done.send(());
            }
        }
    }
}

fn commit(database: &Database, changes: &[Change]) -> Result<(), LedgerError> {
    let transaction = database.begin_write()?;
    {
        let mut standings = transaction.open_table(STANDINGS)?;
        let mut answers = transaction.open_table(ANSWERS)?;
        for change in changes {
            match change {
                Change::Standing(kept) => {
                    let (peer, model, standing) = &**kept;
                    standings.insert(&key(peer, model)[..], &codec::encode(standing)[..])?;
                }
                Change::Forget(peer, model) => {
                    standings.remove(&key(peer, model)[..])?;
                }
                Change::Answer(answer) => {
                    let next = answers.last()?.map_or(0, |(number, _)| number.value() + 1);
                    answers.insert(next, &codec::encode(answer)[..])?;
                }
                Change::Flush(_) => {}
            }
        }
        while answers.len()? > MOST_ANSWERS {
            answers.pop_first()?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn key(peer: &PeerId, model: &ModelId) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(peer.public_key());
    key[32..].copy_from_slice(model.digest().as_bytes());
    key
}

fn read_key(key: &[u8]) -> Option<(PeerId, ModelId)> {
    let (peer, model) = key.split_at_checked(32)?;
    let peer = PeerId::from_public_key(peer.try_into().ok()?);
    let model = ModelId::from_digest(Digest::from_bytes(model.try_into().ok()?));
    Some((peer, model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_peer::reputation::{Evidence, Reputation};
    use taimatsu_protocol::UnixSeconds;

    fn kept(seed: u8) -> Kept {
        let (peer, model) = (PeerId::from_public_key([seed; 32]), ModelId::of(b"m"));
        let mut reputation = Reputation::new();
        let (standing, _) = reputation.add(UnixSeconds(7), peer, model, Evidence::InTime);
        let standing = standing.clone();
        (peer, model, standing)
    }

    #[tokio::test]
    async fn what_was_remembered_is_there_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(home.path()).unwrap();
        assert!(ledger.standings().is_empty() && ledger.answers(9).is_empty());
        for seed in 0..50 {
            let (peer, model, standing) = kept(seed);
            ledger.remember(peer, model, standing);
        }
        let (peer, model, _) = kept(7);
        ledger.forget(peer, model);
        ledger.flush().await;
        let before = ledger.standings();
        drop(ledger);
        let again = reopened(home.path());
        assert_eq!(again.standings(), before);
        assert_eq!(before.len(), 49);
    }

    /// The names in a home.
    fn names(home: &Path) -> Vec<String> {
        let names = std::fs::read_dir(home).unwrap();
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Opens a home's ledger, whose last owner may be about to let go of it.
    fn reopened(home: &Path) -> Ledger {
        loop {
            match Ledger::open(home) {
                Ok(ledger) => return ledger,
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    #[tokio::test]
    async fn a_broken_file_is_moved_aside() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(FILE), vec![7; 10_000]).unwrap();
        assert!(Ledger::check(home.path()).is_err());
        let ledger = Ledger::open(home.path()).unwrap();
        assert!(ledger.standings().is_empty());
        let names = names(home.path());
        assert!(names.iter().any(|name| name.contains("broken")), "{names:?}");
    }

    #[tokio::test]
    async fn a_file_that_was_closed_well_and_is_damaged_does_not_end_the_node() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Ledger::check(home.path()).unwrap(), None);
        let ledger = Ledger::open(home.path()).unwrap();
        for seed in 0..200 {
            let (peer, model, standing) = kept(seed);
            ledger.remember(peer, model, standing);
        }
        ledger.flush().await;
        drop(ledger);
        drop(reopened(home.path()));
        while Ledger::check(home.path()).is_err() {}
        let path = home.path().join(FILE);
        let sound = std::fs::read(&path).unwrap();
        let pages =
            sound.chunks(4_096).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0));
        let pages: Vec<usize> = pages.map(|(page, _)| page).collect();
        let mut damaged = 0;
        for page in pages {
            let mut bytes = sound.clone();
            bytes[page * 4_096..][..600].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
            damaged += usize::from(Ledger::check(home.path()).is_err());
            let ledger = reopened(home.path());
            let (peer, model, standing) = kept(250);
            ledger.remember(peer, model, standing);
            ledger.flush().await;
            assert_eq!((ledger.trouble(), page), (None, page));
            assert!(ledger.standings().contains(&kept(250)), "page {page}");
            drop(ledger);
            drop(reopened(home.path()));
        }
        assert!(damaged > 2, "{damaged}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused() {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::net::UnixListener::bind(home.path().join(FILE)).unwrap();
        let told = Ledger::open(home.path()).unwrap_err().to_string();
        assert!(told.contains("no regular file"), "{told}");
        assert!(Ledger::check(home.path()).is_err());
    }
}
