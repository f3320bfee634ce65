//! What hosts said of themselves, signed, until it expires.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use taimatsu_protocol::announcement::MAX_BLOCKS;
use taimatsu_protocol::signed::{SignedBytes, Verified};
use taimatsu_protocol::{Announcement, ModelId, Moment, PeerId, Span, UnixSeconds};

use crate::observed::{HopSpeed, Observations};
use crate::policy::{
    MAX_ANNOUNCEMENTS, MAX_ANSWERED, MAX_PER_HOST, MAX_PER_MODEL, MAX_REMEMBERED,
    UNKNOWN_RTT_MICROS,
};

/// Announcements by model, host and span; and what this node itself has seen of the hosts.
///
/// Bounded per host, per model and in all. When one of these is full, the announcement in it that
/// expires first goes, be it the new one: who renews stays.
#[derive(Debug, Default)]
pub struct HostTable {
    models: BTreeMap<ModelId, BTreeMap<(PeerId, Span), Verified<Announcement>>>,
    per_host: BTreeMap<PeerId, usize>,
    length: usize,
    /// Nothing held expires before: what is told by the thousand is not searched each time.
    quiet_until: Option<UnixSeconds>,
    suspended: BTreeMap<PeerId, Moment>,
    /// Neighbours in a chain that did not agree, and until when they are kept apart.
    apart: BTreeMap<(PeerId, PeerId), Moment>,
    /// Round trips from this node, in microseconds.
    rtts: BTreeMap<PeerId, u32>,
    observed: Observations,
}

/// Hosts that shall not follow each other in a chain: upstream, downstream.
pub(crate) type Pairs = BTreeSet<(PeerId, PeerId)>;

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is held, and nothing was known of this span on this host before.
    New,
    /// It is held, and took the place of an older one.
    Newer,
    /// One that is as new or newer is held.
    Stale,
    /// It has expired, or claims a longer life than is allowed.
    NotInForce,
    /// Its span is none of a model of so many blocks, or no model has so many.
    Malformed,
    /// No room: everything held expires later.
    Full,
}

impl HostTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an announcement in, if it is in force at `now` and news.
    pub fn insert(&mut self, verified: Verified<Announcement>, now: UnixSeconds) -> Inserted {
        let announcement = verified.record();
        let Announcement { host, model, span, blocks, .. } = *announcement;
        if !announcement.in_force(now) {
            return Inserted::NotInForce;
        }
        if blocks > MAX_BLOCKS || Span::new(span.blocks(), blocks) != Ok(span) {
            return Inserted::Malformed;
        }
        let expires = announcement.expires;
        let quiet_until = Some(self.quiet_until.map_or(expires, |until| until.min(expires)));
        let held = self.models.get_mut(&model).and_then(|held| held.get_mut(&(host, span)));
        if let Some(held) = held {
            if announcement.sequence <= held.record().sequence {
                return Inserted::Stale;
            }
            // A prekey lives in memory alone: with another one, the host has begun anew.
            if announcement.prekey.id != held.record().prekey.id {
                self.suspended.remove(&host);
            }
            *held = verified;
            self.quiet_until = quiet_until;
            return Inserted::Newer;
        }
        if !self.make_room(announcement) {
            return Inserted::Full;
        }
        self.models.entry(model).or_default().insert((host, span), verified);
        *self.per_host.entry(host).or_default() += 1;
        self.length += 1;
        self.quiet_until = quiet_until;
        Inserted::New
    }

    /// Forgets what has expired by `wall`, and suspensions that are over by `now`.
    pub fn expire(&mut self, now: Moment, wall: UnixSeconds) {
        self.suspended.retain(|_, until| *until > now);
        self.apart.retain(|_, until| *until > now);
        self.observed.expire(now);
        if self.quiet_until.is_none_or(|until| wall < until) {
            return;
        }
        let records = self.iter().map(Verified::record);
        let expired: Vec<Key> = records.filter(|held| held.expires <= wall).map(key).collect();
        for key in expired {
            self.remove(key);
        }
        self.quiet_until = self.iter().map(|held| held.record().expires).min();
    }

    /// Passes over a host until then, unless there is no other. When too many are suspended, the
    /// one whose suspension ends first is not any more.
    pub fn suspend(&mut self, host: PeerId, until: Moment) {
        self.suspended.insert(host, until);
        if self.suspended.len() > MAX_REMEMBERED {
            let first = self.suspended.iter().min_by_key(|(_, until)| **until);
            if let Some(host) = first.map(|(host, _)| *host) {
                self.suspended.remove(&host);
            }
        }
    }

    /// Passes over a host no more: it has answered.
    pub fn unsuspend(&mut self, host: &PeerId) {
        self.suspended.remove(host);
    }

    /// Whether a host is passed over at `now`.
    #[must_use]
    pub fn is_suspended(&self, host: &PeerId, now: Moment) -> bool {
        self.suspended.get(host).is_some_and(|until| *until > now)
    }

    /// Keeps two hosts apart, in either order, unless there is no other way. When too many pairs
    /// are, the one whose time ends first is not any more.
    pub fn keep_apart(&mut self, one: PeerId, other: PeerId, until: Moment) {
        self.apart.insert((one, other), until);
        self.apart.insert((other, one), until);
        while self.apart.len() > 2 * MAX_REMEMBERED {
            let first = self.apart.iter().min_by_key(|(_, until)| **until).map(|(pair, _)| *pair);
            let Some((one, other)) = first else { return };
            self.apart.remove(&(one, other));
            self.apart.remove(&(other, one));
        }
    }

    pub(crate) fn avoided(&self, now: Moment) -> Pairs {
        let apart = self.apart.iter().filter(|(_, until)| **until > now);
        apart.map(|(pair, _)| *pair).collect()
    }

    /// Notes this node's own round trip to a peer. When too many are known, the farthest goes.
    pub fn measured(&mut self, peer: PeerId, rtt_micros: u32) {
        self.rtts.insert(peer, rtt_micros);
        if self.rtts.len() > MAX_REMEMBERED {
            let farthest = self.rtts.iter().max_by_key(|(_, rtt)| **rtt);
            if let Some(peer) = farthest.map(|(peer, _)| *peer) {
                self.rtts.remove(&peer);
            }
        }
    }

    /// This node's own round trips, in microseconds, nearest first.
    #[must_use]
    pub fn nearest(&self) -> Vec<(PeerId, u32)> {
        let mut nearest: Vec<_> = self.rtts.iter().map(|(peer, rtt)| (*peer, *rtt)).collect();
        nearest.sort_by_key(|(_, rtt)| *rtt);
        nearest
    }

    /// The round trip from this node to a host in microseconds: measured here, else as the host
    /// announces it, else a pessimistic guess.
    pub(crate) fn rtt_from_me(&self, me: &PeerId, host: &Announcement) -> u64 {
        let measured = self.rtts.get(&host.host).copied();
        measured.or_else(|| announced_rtt(host, me)).map_or(UNKNOWN_RTT_MICROS, u64::from)
    }

    /// Notes how fast the hops of an answer were, leader first: as they reported it, and how long
    /// a token took by this node's own clock. From now on no announcement makes them faster.
    pub fn observed(
        &mut self,
        now: Moment,
        model: ModelId,
        hops: &[HopSpeed],
        lap: Option<Duration>,
    ) {
        let neighbours = hops.iter().zip(hops.iter().cycle().skip(1));
        let links = match hops.len() {
            0 | 1 => 0,
            _ => neighbours.map(|(a, b)| self.rtt_between(model, &a.host, &b.host) / 2).sum(),
        };
        self.observed.note(now, model, hops, lap, links);
    }

    /// Microseconds that `blocks` blocks of this host's span take, if this node has seen it.
    pub(crate) fn seen_micros(&self, host: &Announcement, blocks: u64) -> Option<u64> {
        self.observed.micros(host.host, host.model, blocks)
    }

    /// As one of them announces it; an unknown one excuses nothing.
    fn rtt_between(&self, model: ModelId, a: &PeerId, b: &PeerId) -> u64 {
        let said = |from: &PeerId, to: &PeerId| {
            let announced = self.models.get(&model)?.values().map(Verified::record);
            announced.filter(|held| held.host == *from).find_map(|held| announced_rtt(held, to))
        };
        said(a, b).or_else(|| said(b, a)).map_or(0, u64::from)
    }

    /// The models that somebody announces, in order.
    pub fn models(&self) -> impl Iterator<Item = ModelId> + '_ {
        self.models.keys().copied()
    }

    /// What is announced of a model, in order of hosts and spans.
    pub fn hosts(&self, model: ModelId) -> impl Iterator<Item = &Announcement> + '_ {
        self.models.get(&model).into_iter().flat_map(BTreeMap::values).map(Verified::record)
    }

    /// The blocks of a model of `blocks` blocks that nobody announces, as inclusive ranges.
    /// Announcements that know another number of blocks do not count, nor do hosts that leave or are
    /// suspended.
    #[must_use]
    pub fn coverage(&self, model: ModelId, blocks: u32, now: Moment) -> Vec<[u32; 2]> {
        let counts = |host: &&Announcement| {
            host.blocks == blocks && !host.leaving && !self.is_suspended(&host.host, now)
        };
        missing(self.hosts(model).filter(counts).map(|host| host.span), blocks)
    }

    /// Signed announcements of one model or of all, to answer a query with; at most
    /// [`MAX_ANSWERED`], the first span of every model first so that a newcomer learns of all.
    #[must_use]
    pub fn all(&self, model: Option<ModelId>) -> Vec<SignedBytes> {
        if let Some(model) = model {
            let held = self.models.get(&model).into_iter().flat_map(BTreeMap::values);
            return held.take(MAX_ANSWERED).map(|held| held.wire().clone()).collect();
        }
        let firsts = self.models.values().flat_map(|held| held.values().take(1));
        let others = self.models.values().flat_map(|held| held.values().skip(1));
        firsts.chain(others).take(MAX_ANSWERED).map(|held| held.wire().clone()).collect()
    }

    /// Announcements held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether none is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn iter(&self) -> impl Iterator<Item = &Verified<Announcement>> {
        self.models.values().flat_map(BTreeMap::values)
    }

    /// Makes room for `new` wherever it would be one too many; false if it is the one to go.
    fn make_room(&mut self, new: &Announcement) -> bool {
        let of_host = |held: &Announcement| held.host == new.host;
        let of_model = |held: &Announcement| held.model == new.model;
        if self.per_host.get(&new.host).is_some_and(|count| *count >= MAX_PER_HOST)
            && !self.evict(new, of_host)
        {
            return false;
        }
        if self.models.get(&new.model).is_some_and(|held| held.len() >= MAX_PER_MODEL)
            && !self.evict(new, of_model)
        {
            return false;
        }
        self.length < MAX_ANNOUNCEMENTS || self.evict(new, |_| true)
    }

    fn evict(&mut self, new: &Announcement, among: impl Fn(&Announcement) -> bool) -> bool {
        let records = self.iter().map(Verified::record).filter(|held| among(held));
        let first =
            records.min_by_key(|held| held.expires).filter(|held| held.expires < new.expires);
        let Some(first) = first.map(key) else { return false };
        self.remove(first);
        true
    }

    fn remove(&mut self, (model, host, span): Key) {
        let Some(held) = self.models.get_mut(&model) else { return };
        if held.remove(&(host, span)).is_none() {
            return;
        }
        if held.is_empty() {
            self.models.remove(&model);
        }
        self.length -= 1;
        if let Some(count) = self.per_host.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.per_host.remove(&host);
            }
        }
    }
}

type Key = (ModelId, PeerId, Span);

fn key(announcement: &Announcement) -> Key {
    (announcement.model, announcement.host, announcement.span)
}

/// The round trip that a host says it has to a peer, in microseconds.
pub(crate) fn announced_rtt(host: &Announcement, to: &PeerId) -> Option<u32> {
    host.rtts.iter().find(|(peer, _)| peer == to).map(|(_, rtt)| *rtt)
}

/// What is left of `0..blocks` without these spans, as inclusive ranges.
#[must_use]
pub fn missing(spans: impl Iterator<Item = Span>, blocks: u32) -> Vec<[u32; 2]> {
    missing_of(spans, 0..blocks)
}

/// What is left of a part without these spans, as inclusive ranges.
pub(crate) fn missing_of(spans: impl Iterator<Item = Span>, part: Range<u32>) -> Vec<[u32; 2]> {
    let mut spans: Vec<_> = spans.map(|span| span.blocks()).collect();
    spans.sort_by_key(|span| span.start);
    let mut missing = Vec::new();
    let mut covered = part.start;
    for span in spans {
        if span.start > covered && covered < part.end {
            missing.push([covered, span.start.min(part.end) - 1]);
        }
        covered = covered.max(span.end);
    }
    if covered < part.end {
        missing.push([covered, part.end - 1]);
    }
    missing
}
