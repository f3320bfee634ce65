//! Peers that were good, in the home's `peers.json`: where they can be dialled, so that a node that
//! was in the swarm once finds its way back when its bootstrap nodes are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use taimatsu_model::whole_file;
use taimatsu_network::{Multiaddr, Network, PeerStatus};

use crate::driver::clock::Clock;
use crate::home::write_private;

/// Peers kept of one swarm; who was seen last stays.
const MOST: usize = 64;

/// Swarms kept; the one that was seen last stays.
const MOST_SWARMS: usize = 16;

/// Addresses kept of one peer.
const MOST_ADDRESSES: usize = 3;

/// How often the network is asked who is there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks between two writes that only renew when somebody was seen: ten minutes.
const RENEWAL: u32 = 300;

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The good peers of one swarm.
#[derive(Debug, Clone)]
pub(crate) struct GoodPeers {
    path: PathBuf,
    swarm: String,
}

/// The file as it is written.
#[derive(Debug, Default, Serialize)]
struct Kept {
    schema_version: u32,
    swarms: BTreeMap<String, Vec<GoodPeer>>,
}

/// The file as it may be found.
#[derive(Debug, Deserialize)]
struct File {
    schema_version: u32,
    swarms: BTreeMap<String, Value>,
}

/// One peer, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GoodPeer {
    peer: String,
    addresses: Vec<String>,
    /// When it was connected last, in Unix seconds.
    seen: u64,
}

impl GoodPeers {
    /// Those that a node's home keeps of a swarm.
    pub(crate) fn of(home: &Path, swarm: &str) -> Self {
        Self { path: home.join("peers.json"), swarm: swarm.to_owned() }
    }

    /// Where they can be dialled, newest first; none where nothing is kept, or it cannot be read.
    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        let kept = self.read().swarms.remove(&self.swarm).unwrap_or_default();
        let peers = kept.into_iter().take(MOST);
        let texts = peers.flat_map(|peer| peer.addresses.into_iter().take(MOST_ADDRESSES));
        // A line that somebody has spoilt is not worth a word.
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    /// Keeps who is there, for as long as the node runs.
    pub(crate) async fn keep(self, network: Network) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut news = News::default();
        loop {
            looks.tick().await;
            let there = good(&network.status().await.peers);
            if news.is_due(&there) {
                self.save(there).await;
            }
        }
    }

    /// Keeps who is there now.
    pub(crate) async fn keep_now(&self, network: &Network) {
        self.save(good(&network.status().await.peers)).await;
    }

    async fn save(&self, there: Vec<(String, Vec<String>)>) {
        if there.is_empty() {
            return;
        }
        let (this, now) = (self.clone(), Clock::wall().0);
        let written = tokio::task::spawn_blocking(move || this.write(there, now)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "good peers were not kept");
        }
    }

    fn write(&self, there: Vec<(String, Vec<String>)>, now: u64) -> std::io::Result<()> {
        let mut kept = self.read();
        let old = kept.swarms.remove(&self.swarm).unwrap_or_default();
        kept.swarms.insert(self.swarm.clone(), merged(old, there, now));
        while kept.swarms.len() > MOST_SWARMS {
            let seen = |peers: &Vec<GoodPeer>| peers.first().map_or(0, |peer| peer.seen);
            let oldest = kept.swarms.iter().min_by_key(|(_, peers)| seen(peers));
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { break };
            kept.swarms.remove(&name);
        }
        kept.schema_version = 1;
        write_private(&self.path, &serde_json::to_vec_pretty(&kept).unwrap_or_default())
    }

    fn read(&self) -> Kept {
        let spoilt = |error: &dyn std::fmt::Display| {
            tracing::error!(path = %self.path.display(), %error, "kept peers are not readable");
            Kept::default()
        };
        match whole_file::read(&self.path, MAX_FILE) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_or_else(|error| spoilt(&error), sound),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(error) => spoilt(&error),
        }
    }
}

/// What can be read of the file. An entry that somebody has spoilt costs itself alone.
fn sound(file: File) -> Kept {
    let of_swarm = |(swarm, entries): (String, Value)| {
        let Value::Array(entries) = entries else {
            tracing::error!(swarm, "kept peers of this swarm are not readable");
            return (swarm, Vec::new());
        };
        let all = entries.len();
        let peers: Vec<GoodPeer> =
            entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect();
        if peers.len() < all {
            tracing::error!(swarm, spoilt = all - peers.len(), "some kept peers are not readable");
        }
        (swarm, peers)
    };
    Kept {
        schema_version: file.schema_version,
        swarms: file.swarms.into_iter().map(of_swarm).collect(),
    }
}

/// When the file is written: for a peer that it has not, and now and then to renew when they were
/// seen. Those who leave are no news: connections that nobody uses end in a minute.
#[derive(Debug, Default)]
struct News {
    /// Written since the last renewal.
    known: BTreeSet<String>,
    looks: u32,
}

impl News {
    fn is_due(&mut self, there: &[(String, Vec<String>)]) -> bool {
        self.looks += 1;
        if self.looks >= RENEWAL {
            *self = Self::default();
        }
        let new = |(peer, _): &(String, Vec<String>)| !self.known.contains(peer);
        let due = self.known.len() < MOST && there.iter().any(new);
        if due {
            self.known.extend(there.iter().map(|(peer, _)| peer.clone()));
        }
        due
    }
}

/// Whoever proved to be of this swarm and can be dialled.
fn good(peers: &[PeerStatus]) -> Vec<(String, Vec<String>)> {
    let good = peers.iter().filter(|peer| !peer.dialable.is_empty());
    good.map(|peer| {
        let addresses = peer.dialable.iter().take(MOST_ADDRESSES).map(ToString::to_string);
        (peer.peer.to_string(), addresses.collect())
    })
    .collect()
}

/// The new ones before the old ones, each once.
fn merged(old: Vec<GoodPeer>, there: Vec<(String, Vec<String>)>, now: u64) -> Vec<GoodPeer> {
    let gone = |peer: &GoodPeer| !there.iter().any(|(name, _)| *name == peer.peer);
    let mut old: Vec<GoodPeer> = old.into_iter().filter(gone).collect();
    // A clock that was ahead must not keep others out.
    old.iter_mut().for_each(|peer| peer.seen = peer.seen.min(now));
    old.sort_by_key(|peer| std::cmp::Reverse(peer.seen));
    let new = there.into_iter();
    let new = new.map(|(peer, addresses)| GoodPeer { peer, addresses, seen: now });
    new.chain(old).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(names: &[&str]) -> Vec<(String, Vec<String>)> {
        let port = |name: &str| format!("/ip4/127.0.0.1/tcp/{}", 1 + name.len());
        names.iter().map(|name| ((*name).to_owned(), vec![port(name)])).collect()
    }

    #[test]
    fn who_was_seen_last_is_first_and_swarms_are_apart() {
        let dir = tempfile::tempdir().unwrap();
        let [club, other] = ["club", "other"].map(|swarm| GoodPeers::of(dir.path(), swarm));
        assert!(club.addresses().is_empty());
        club.write(there(&["a", "bb"]), 10).unwrap();
        other.write(there(&["zzzzz"]), 11).unwrap();
        club.write(there(&["bb", "ccc"]), 12).unwrap();
        let ports: Vec<String> = club.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["/ip4/127.0.0.1/tcp/3", "/ip4/127.0.0.1/tcp/4", "/ip4/127.0.0.1/tcp/2"]);
        assert_eq!(other.addresses().len(), 1);
    }

    #[test]
    fn no_more_are_kept_than_are_of_use() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..200).map(|number| format!("{number:0>3}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let club = GoodPeers::of(dir.path(), "club");
        for chunk in names.chunks(50) {
            club.write(there(chunk), 10).unwrap();
        }
        assert_eq!(club.read().swarms["club"].len(), MOST);
        assert_eq!(club.read().swarms["club"][0].peer, "150");
        for swarm in 0..40 {
            GoodPeers::of(dir.path(), &swarm.to_string()).write(there(&["a"]), 20 + swarm).unwrap();
        }
        let kept = club.read().swarms;
        assert!(kept.len() == MOST_SWARMS && kept.contains_key("39"), "{:?}", kept.keys());
    }

    #[test]
    fn who_comes_is_news_and_who_goes_is_none() {
        let mut news = News::default();
        assert!(!news.is_due(&[]));
        assert!(news.is_due(&there(&["a", "b"])));
        for same in [&["a"][..], &[], &["b"], &["b", "a"]] {
            assert!(!news.is_due(&there(same)), "{same:?}");
        }
        assert!(news.is_due(&there(&["c", "a"])));
        let later = (0..RENEWAL).filter(|_| news.is_due(&there(&["a"]))).count();
        assert_eq!(later, 1, "renewed once in a while");
        let many: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
        let many = many.iter().filter(|name| news.is_due(&there(&[name]))).count();
        assert!(many <= MOST, "a crowd does not wear out the disk: {many}");
    }

    #[test]
    fn a_spoilt_entry_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let club = GoodPeers::of(dir.path(), "club");
        club.write(there(&["a", "bb"]), 10).unwrap();
        GoodPeers::of(dir.path(), "other").write(there(&["ccc"]), 11).unwrap();
        let text = std::fs::read_to_string(&club.path).unwrap();
        let mut kept: Value = serde_json::from_str(&text).unwrap();
        kept["swarms"]["club"][0] = serde_json::json!({"peer": 3});
        kept["swarms"]["third"] = serde_json::json!("x");
        std::fs::write(&club.path, kept.to_string()).unwrap();
        assert_eq!(club.addresses().len(), 1);
        assert_eq!(GoodPeers::of(dir.path(), "other").addresses().len(), 1);
        club.write(there(&["dddd"]), 12).unwrap();
        assert_eq!((club.addresses().len(), club.read().swarms["other"].len()), (2, 1));
    }

    #[test]
    fn a_spoilt_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let club = GoodPeers::of(dir.path(), "club");
        for text in ["", "{", "[1]", "{\"schema_version\":1,\"swarms\":{\"club\":3}}"] {
            std::fs::write(&club.path, text).unwrap();
            assert!(club.addresses().is_empty(), "{text}");
        }
        let spoilt = GoodPeer { peer: "x".into(), addresses: vec!["nowhere".into()], seen: 1 };
        let swarms = BTreeMap::from([("club".to_owned(), vec![spoilt])]);
        let kept = Kept { schema_version: 1, swarms };
        std::fs::write(&club.path, serde_json::to_vec(&kept).unwrap()).unwrap();
        assert!(club.addresses().is_empty());
        club.write(there(&["a"]), 2).unwrap();
        assert_eq!(club.addresses().len(), 1);
    }
}
