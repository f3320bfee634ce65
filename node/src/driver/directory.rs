//! Who hosts what: asked of the DHT for names of hosts, and of these for signed announcements.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use taimatsu_network::{Network, ProviderKey};
use taimatsu_peer::Input;
use taimatsu_protocol::announcement::{Answer, MAX_ANSWER, Query};
use taimatsu_protocol::signed::SignedBytes;
use taimatsu_protocol::{Announcement, Digest, ModelId, PeerId, SwarmId, codec};

use super::judge::Judge;

/// Hosts asked in one lookup: each answers for all that it knows.
const ASKED: usize = 32;

/// Of these at a time.
const AT_A_TIME: usize = 8;

/// What one host may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a lookup may take: less than an ask waits for it.
const LOOKUP: Duration = Duration::from_millis(4_500);

/// What a goodbye may take in all.
const GOODBYE: Duration = Duration::from_secs(1);

/// Peers that are told it at a time.
const TOLD_AT_A_TIME: usize = 32;

/// The first pause of a node that knows no answerable model: the nodes of one machine start
/// within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: announcements change every two minutes.
const LAST_PAUSE: Duration = Duration::from_secs(20);

/// Finds the hosts of a model, and hands what they say to the judge.
pub(crate) async fn look_up(
    network: &Network,
    judge: &Judge,
    swarm: SwarmId,
    model: ModelId,
    blocks: u32,
) {
    let last = ProviderKey::group_of(blocks.saturating_sub(1));
    let keys = (0..=last).map(|group| ProviderKey::for_group(swarm, model, group));
    let work = async {
        let found = providers(network, keys).await;
        ask_all(network, judge, found, Some(model)).await;
    };
    if tokio::time::timeout(LOOKUP, work).await.is_err() {
        tracing::debug!(%model, "a lookup took too long");
    }
}

/// The hosts that announce the first blocks of a model, or any.
pub(crate) async fn hosts_of(network: &Network, swarm: SwarmId, model: ModelId) -> Vec<PeerId> {
    let keys = [ProviderKey::for_group(swarm, model, 0), ProviderKey::directory(swarm)];
    providers(network, keys).await.into_iter().collect()
}

/// Keeps the node's picture of the swarm fresh for as long as it runs: which models there are,
/// and whether they can be answered.
pub(crate) async fn keep_fresh(network: Network, judge: Judge, swarm: SwarmId) {
    let mut pause = FIRST_PAUSE;
    let _ = network.joined().await;
    loop {
        let found = providers(&network, [ProviderKey::directory(swarm)]).await;
        ask_all(&network, &judge, found, None).await;
        for peer in network.status().await.peers {
            if let Some(rtt) = peer.rtt {
                let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
                judge.tell(Input::Rtt { peer: peer.peer, micros }).await;
            }
        }
        let complete = judge.coverage().await.iter().any(|model| model.missing.is_empty());
        pause = if complete { LAST_PAUSE } else { (pause * 5 / 4).min(LAST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

/// Tells who is connected that this node has no more room: who did not know would come, and take
/// the silence of a node that is gone for a fault.
pub(crate) async fn say_goodbye(network: &Network, judge: &Judge) {
    let me = network.peer_id();
    let own = |signed: SignedBytes| {
        let verified = signed.verify::<Announcement>().ok()?;
        (verified.record().host == me)
            .then(|| codec::encode(&Query::Announce(verified.wire().clone())))
    };
    // A node's own announcements come first.
    let words: Vec<Vec<u8>> = judge.answer(None).await.into_iter().map_while(own).collect();
    let peers = network.status().await.peers.into_iter().map(|peer| peer.peer);
    let told = peers.flat_map(|peer| words.iter().map(move |word| (peer, word.clone())));
    let all = stream::iter(told).for_each_concurrent(TOLD_AT_A_TIME, |(peer, word)| async move {
        let _ = network.ask(peer, word).await;
    });
    let _ = tokio::time::timeout(GOODBYE, all).await;
}

/// Takes in what a node says of itself unasked; of others it is not heard.
pub(crate) async fn heard(judge: &Judge, from: PeerId, told: SignedBytes) {
    match told.verify::<Announcement>() {
        Ok(verified) if verified.record().host == from => {
            judge.tell(Input::Announced(Box::new(verified))).await;
        }
        Ok(_) => tracing::debug!(%from, "an announcement of somebody else was told unasked"),
        Err(error) => tracing::debug!(%from, %error, "an announcement is not believed"),
    }
}

async fn providers(
    network: &Network,
    keys: impl IntoIterator<Item = ProviderKey>,
) -> BTreeSet<PeerId> {
    let queries = stream::iter(keys).map(|key| network.providers(key));
    let mut queries = queries.buffer_unordered(AT_A_TIME);
    let mut found = BTreeSet::new();
    while let Some(answer) = queries.next().await {
        match answer {
            Ok(peers) => found.extend(peers),
            Err(error) => tracing::debug!(%error, "the directory did not answer"),
        }
    }
    found
}

async fn ask_all(
    network: &Network,
    judge: &Judge,
    found: BTreeSet<PeerId>,
    model: Option<ModelId>,
) {
    let mut found: Vec<PeerId> = found.into_iter().collect();
    if found.len() > ASKED {
        // Others each time: what one node does not know, its neighbours in the list may.
        let start = crate::entropy::seed() % found.len() as u64;
        found.rotate_left(start as usize);
    }
    let asked = stream::iter(found.into_iter().take(ASKED));
    let seen = Seen::default();
    asked.for_each_concurrent(AT_A_TIME, |peer| ask(network, judge, peer, model, &seen)).await;
}

/// Announcements that were believed in one round: hosts tell each other's, and a signature takes
/// some 70 microseconds to check.
type Seen = Mutex<BTreeSet<Digest>>;

async fn ask(network: &Network, judge: &Judge, peer: PeerId, model: Option<ModelId>, seen: &Seen) {
    let query = codec::encode(&Query::Announcements { model });
    let asked = tokio::time::timeout(PATIENCE, network.ask(peer, query)).await;
    let Ok(Ok(answer)) = asked else {
        tracing::debug!(%peer, "a host did not say what it hosts");
        judge.tell(Input::HostFailed { host: peer }).await;
        return;
    };
    let Ok(Answer::Announcements(list)) = codec::decode(&answer, MAX_ANSWER) else { return };
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    for signed in list.into_vec() {
        let digest = signed.digest();
        if lock().contains(&digest) {
            continue;
        }
        match signed.verify::<Announcement>() {
            Ok(verified) => {
                lock().insert(digest);
                judge.tell(Input::Announced(Box::new(verified))).await;
            }
            Err(error) => tracing::debug!(%peer, %error, "an announcement is not believed"),
        }
    }
}
