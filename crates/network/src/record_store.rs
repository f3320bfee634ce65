//! Who provides what: the part of the DHT that this node keeps for others.
//!
//! libp2p's own store keeps the first 20 providers of a key, so whoever squats a key first has it
//! for good. Here the newest refresh wins, and who holds the most records is the first to lose one:
//!
//! * a provider over its own bound replaces its own oldest record;
//! * a full key drops the record whose refresh is the oldest;
//! * a full store drops the oldest record of the provider that has the most.
//!
//! Records expire, so a host that is gone is soon forgotten. Values are refused: nothing but
//! provider records lives in this DHT.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::hash_map::Values;
use std::collections::{BTreeMap, HashMap};
use std::iter::{Empty, Map, empty};
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use crate::addresses::MAX_ADDRESSES;

/// How much a [`ProviderStore`] holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreBounds {
    /// Records of others altogether, and so also keys.
    pub(crate) records: usize,
    /// Providers of one key.
    pub(crate) per_key: usize,
    /// Keys of one provider.
    pub(crate) per_provider: usize,
    /// Keys that this node itself provides.
    pub(crate) provided: usize,
}

impl Default for StoreBounds {
    fn default() -> Self {
        Self { records: 16_384, per_key: 200, per_provider: 256, provided: MAX_PROVIDED }
    }
}

/// Keys that one node provides: 32 models of 64 blocks.
pub(crate) const MAX_PROVIDED: usize = 256;

/// Provider records, bounded and fair.
pub(crate) struct ProviderStore {
    local: PeerId,
    bounds: StoreBounds,
    /// What others provide, by key. No key without records.
    keys: HashMap<RecordKey, Vec<Held>>,
    /// The same by provider: its records by the age of their refresh. None without records.
    by_provider: HashMap<PeerId, BTreeMap<u64, RecordKey>>,
    records: usize,
    refreshes: u64,
    /// What this node provides; never dropped for the sake of others.
    provided: HashMap<RecordKey, ProviderRecord>,
    /// Where the next answer begins: kad sends the first 20 of what it is given, and every
    /// provider shall have its turn.
    turn: Cell<usize>,
}

struct Held {
    provider: PeerId,
    addresses: Vec<Multiaddr>,
    expires: Instant,
    /// Grows with every refresh in the store; names the record in `by_provider`.
    refresh: u64,
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId, bounds: StoreBounds) -> Self {
        Self {
            local,
            bounds,
            keys: HashMap::new(),
            by_provider: HashMap::new(),
            records: 0,
            refreshes: 0,
            provided: HashMap::new(),
            turn: Cell::new(0),
        }
    }

    /// Records of others that are held.
    pub(crate) fn len(&self) -> usize {
        self.records
    }

    /// Forgets what has expired.
    pub(crate) fn expire(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (key, held) in &self.keys {
            let expired = held.iter().filter(|held| held.expires <= now);
            gone.extend(expired.map(|held| (key.clone(), held.provider)));
        }
        for (key, provider) in gone {
            self.drop_record(&key, &provider);
        }
    }

    /// Keeps a record, as the bounds allow.
    pub(crate) fn add(&mut self, record: ProviderRecord, now: Instant) -> Result<()> {
        if record.provider == self.local {
            return self.add_own(record);
        }
        let Some(expires) = record.expires.filter(|expires| *expires > now) else { return Ok(()) };
        if record.key.as_ref().len() != KEY_LENGTH {
            return Err(Error::ValueTooLarge);
        }
        self.drop_record(&record.key, &record.provider);
        self.make_room(&record, now);
        self.refreshes += 1;
        let refresh = self.refreshes;
        let ProviderRecord { key, provider, mut addresses, .. } = record;
        addresses.truncate(MAX_ADDRESSES);
        self.by_provider.entry(provider).or_default().insert(refresh, key.clone());
        let held = Held { provider, addresses, expires, refresh };
        self.keys.entry(key).or_default().push(held);
        self.records += 1;
        Ok(())
    }

    fn add_own(&mut self, record: ProviderRecord) -> Result<()> {
        let known = self.provided.contains_key(&record.key);
        if !known && self.provided.len() >= self.bounds.provided {
            return Err(Error::MaxProvidedKeys);
        }
        self.provided.insert(record.key.clone(), record);
        Ok(())
    }

    fn make_room(&mut self, record: &ProviderRecord, now: Instant) {
        let own = self.by_provider.get(&record.provider);
        if own.is_some_and(|own| own.len() >= self.bounds.per_provider) {
            self.drop_oldest_of(record.provider);
        }
        let crowd = self.keys.get(&record.key);
        if let Some(crowd) = crowd.filter(|crowd| crowd.len() >= self.bounds.per_key) {
            let oldest = crowd.iter().min_by_key(|held| (held.expires > now, held.refresh));
            if let Some(provider) = oldest.map(|held| held.provider) {
                self.drop_record(&record.key, &provider);
            }
        }
        if self.records >= self.bounds.records {
            self.expire(now);
        }
        if self.records >= self.bounds.records {
            let heaviest = self.by_provider.iter().max_by_key(|(_, own)| {
                (own.len(), Reverse(own.first_key_value().map(|(refresh, _)| *refresh)))
            });
            if let Some(provider) = heaviest.map(|(provider, _)| *provider) {
                self.drop_oldest_of(provider);
            }
        }
    }

    fn drop_oldest_of(&mut self, provider: PeerId) {
        let own = self.by_provider.get(&provider);
        let oldest = own.and_then(|own| own.first_key_value()).map(|(_, key)| key.clone());
        if let Some(key) = oldest {
            self.drop_record(&key, &provider);
        }
    }

    fn drop_record(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(crowd) = self.keys.get_mut(key) else { return };
        let Some(at) = crowd.iter().position(|held| held.provider == *provider) else { return };
        let held = crowd.swap_remove(at);
        if crowd.is_empty() {
            self.keys.remove(key);
        }
        self.records -= 1;
        if let Some(own) = self.by_provider.get_mut(provider) {
            own.remove(&held.refresh);
            if own.is_empty() {
                self.by_provider.remove(provider);
            }
        }
    }

    fn fresh(&self, key: &RecordKey, now: Instant) -> Vec<ProviderRecord> {
        let others = self.keys.get(key).into_iter().flatten();
        let mut others: Vec<_> = others
            .filter(|held| held.expires > now)
            .map(|held| ProviderRecord {
                key: key.clone(),
                provider: held.provider,
                expires: Some(held.expires),
                addresses: held.addresses.clone(),
            })
            .collect();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(A_TURN));
        let begin = turn.checked_rem(others.len()).unwrap_or(0);
        others.rotate_left(begin);
        self.provided.get(key).cloned().into_iter().chain(others).collect()
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Map<
        Values<'a, RecordKey, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        self.add(record, Instant::now())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.fresh(key, Instant::now())
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.provided.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.provided.remove(key);
        } else {
            self.drop_record(key, provider);
        }
    }
}

/// Bytes of a key: [`ProviderKey`](crate::ProviderKey)'s.
const KEY_LENGTH: usize = 32;

/// How many providers kad sends of those it is given.
const A_TURN: usize = 20;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SMALL: StoreBounds =
        StoreBounds { records: 12, per_key: 4, per_provider: 3, provided: 2 };

    fn peer(n: u8) -> PeerId {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([n.wrapping_add(1); 32]).unwrap();
        key.public().to_peer_id()
    }

    fn key(n: u8) -> RecordKey {
        RecordKey::new(&[n; 32])
    }

    fn record(k: u8, provider: PeerId, expires: Instant) -> ProviderRecord {
        ProviderRecord { key: key(k), provider, expires: Some(expires), addresses: Vec::new() }
    }

    fn who(store: &ProviderStore, k: u8, now: Instant) -> BTreeSet<PeerId> {
        store.fresh(&key(k), now).into_iter().map(|record| record.provider).collect()
    }

    #[test]
    fn squatters_do_not_keep_a_key() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut store = ProviderStore::new(peer(200), SMALL);
        for squatter in 0..4 {
            store.add(record(1, peer(squatter), later), now).unwrap();
        }
        store.add(record(1, peer(1), later), now).unwrap();
        store.add(record(1, peer(9), later), now).unwrap();
        // The record whose refresh was the oldest went; the refreshed one and the newcomer stay.
        assert_eq!(who(&store, 1, now), [peer(1), peer(2), peer(3), peer(9)].into());
    }

    #[test]
    fn expired_records_go_first_and_are_never_told() {
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(1), now + Duration::from_secs(60));
        let mut store = ProviderStore::new(peer(200), SMALL);
        store.add(record(1, peer(0), later), now).unwrap();
        for n in 1..4 {
            store.add(record(1, peer(n), soon), now).unwrap();
        }
        assert_eq!(who(&store, 1, soon), [peer(0)].into());
        store.add(record(1, peer(9), later), soon).unwrap();
        assert_eq!(who(&store, 1, soon), [peer(0), peer(9)].into());
        store.expire(soon);
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn a_flood_costs_the_flooder() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut store = ProviderStore::new(peer(200), SMALL);
        store.add(record(0, peer(9), later), now).unwrap();
        for flooder in 0..8 {
            for k in 1..60 {
                store.add(record(k, peer(flooder), later), now).unwrap();
            }
        }
        assert_eq!(who(&store, 0, now), [peer(9)].into());
        assert!(store.len() <= SMALL.records);
    }

    #[test]
    fn own_records_are_bounded_and_apart() {
        let now = Instant::now();
        let me = peer(200);
        let mut store = ProviderStore::new(me, SMALL);
        for k in 0..2 {
            store.add(ProviderRecord::new(key(k), me, Vec::new()), now).unwrap();
        }
        assert!(store.add(ProviderRecord::new(key(2), me, Vec::new()), now).is_err());
        assert_eq!((store.provided().count(), store.len()), (2, 0));
        store.remove_provider(&key(0), &me);
        assert!(who(&store, 0, now).is_empty());
    }

    #[test]
    fn every_provider_has_its_turn() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut store = ProviderStore::new(peer(200), StoreBounds::default());
        for n in 0..50 {
            store.add(record(1, peer(n), later), now).unwrap();
        }
        let told: BTreeSet<_> = (0..10)
            .flat_map(|_| store.fresh(&key(1), now).into_iter().take(A_TURN))
            .map(|record| record.provider)
            .collect();
        assert_eq!(told.len(), 50);
    }

    #[test]
    fn values_and_odd_keys_are_refused() {
        let now = Instant::now();
        let mut store = ProviderStore::new(peer(200), SMALL);
        assert!(store.put(Record::new(key(1), vec![1])).is_err());
        let mut odd = record(1, peer(1), now + Duration::from_secs(60));
        odd.key = RecordKey::new(&[1; 5000]);
        assert!(store.add(odd, now).is_err());
        assert_eq!(store.len(), 0);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_the_indices_agree(
            steps in proptest::collection::vec((0_u8..10, 0_u8..12, 0_u64..40, 0_u8..8), 0..300),
        ) {
            let peers: Vec<_> = (0..12).map(peer).collect();
            let start = Instant::now();
            let mut store = ProviderStore::new(peer(200), SMALL);
            for (at, (k, who, life, what)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(at as u64);
                let provider = peers[usize::from(who)];
                match what {
                    0 => store.remove_provider(&key(k), &provider),
                    1 => store.expire(now),
                    _ => {
                        let expires = now + Duration::from_secs(life);
                        store.add(record(k, provider, expires), now).unwrap();
                        let told = store.fresh(&key(k), now);
                        prop_assert!(life == 0 || told.iter().any(|r| r.provider == provider));
                    }
                }
                let crowds: usize = store.keys.values().map(Vec::len).sum();
                let owned: usize = store.by_provider.values().map(BTreeMap::len).sum();
                prop_assert!(store.records <= SMALL.records);
                prop_assert_eq!((crowds, owned), (store.records, store.records));
                for crowd in store.keys.values() {
                    prop_assert!(!crowd.is_empty() && crowd.len() <= SMALL.per_key);
                }
                for own in store.by_provider.values() {
                    prop_assert!(!own.is_empty() && own.len() <= SMALL.per_provider);
                }
            }
        }
    }
}
