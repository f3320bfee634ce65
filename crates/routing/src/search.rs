//! The search itself: part-chains grow hop by hop, and the cheapest of each kind is kept.

use std::collections::{BTreeMap, BTreeSet};

use taimatsu_protocol::{Announcement, Numerics, PeerId, Span};

use crate::chain::Hop;
use crate::plan::{Request, mixed};
use crate::policy::{
    AVOIDED_PAIR_MICROS, KEPT_PER_END, MAX_EXTENSIONS, NEAR_EQUAL_PERMILLE, SHORT_KV_MICROS,
    UNKNOWN_RTT_MICROS, UNMEASURED_BLOCK_MICROS,
};
use crate::table::{HostTable, Pairs, announced_rtt};

/// One announced span that may become a hop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    host: &'a Announcement,
    /// Half a round trip from the asker, in microseconds.
    half_rtt_from_me: u64,
    /// This node's own measurement of the whole span.
    seen_micros: Option<u64>,
    short: bool,
    /// To hold, in permille.
    odds: u16,
    /// Drawn anew by each request, in permille of the cost.
    luck: u64,
}

/// What a way must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits<'a> {
    /// Where the first hop begins.
    pub(crate) from: u32,
    /// Where the last one ends.
    pub(crate) until: u32,
    pub(crate) min_hops: usize,
    pub(crate) max_hops: usize,
    /// Spans only as announced, none entered midway.
    pub(crate) exact: bool,
    /// Neighbours that did not agree with each other.
    pub(crate) avoided: &'a Pairs,
}

/// A way through the model.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Microseconds of a lap, with penalties.
    pub(crate) plain: u64,
    /// The same, with each host's luck: what ways of one length are compared by.
    pub(crate) cost: u64,
    /// Indices of candidates, leader first.
    pub(crate) path: Vec<usize>,
}

/// A part-chain from block 0 to the end of its last candidate.
#[derive(Debug, Clone)]
struct Part {
    plain: u64,
    cost: u64,
    path: Vec<usize>,
    /// Hosts in it that have more than one span: only these could be met again.
    met: BTreeSet<PeerId>,
}

impl<'a> Candidate<'a> {
    pub(crate) fn new(
        table: &HostTable,
        request: &Request,
        host: &'a Announcement,
        odds: u16,
    ) -> Self {
        let span = host.span.blocks();
        Self {
            host,
            half_rtt_from_me: table.rtt_from_me(&request.me, host) / 2,
            seen_micros: table.seen_micros(host, u64::from(span.end - span.start)),
            short: host.free_positions < request.positions,
            odds,
            luck: mixed(request.seed, &host.host) % NEAR_EQUAL_PERMILLE,
        }
    }

    pub(crate) const fn host(&self) -> PeerId {
        self.host.host
    }

    pub(crate) const fn numerics(&self) -> Numerics {
        self.host.numerics
    }

    /// Whether it has any KV free; how much is a question of cost, because it changes.
    pub(crate) const fn has_room(&self) -> bool {
        self.host.free_positions > 0
    }

    /// The hop that computes from `entry` to the end of this span, or to `until` where that is
    /// before it.
    pub(crate) fn hop(&self, entry: u32, until: u32, blocks: u32) -> Hop {
        let end = self.end().min(until);
        let span = Span::new(entry..end, blocks).expect("it is entered inside its span");
        Hop { peer: self.host.host, span, prekey: self.host.prekey }
    }

    fn first(&self) -> u32 {
        self.host.span.blocks().start
    }

    fn end(&self) -> u32 {
        self.host.span.blocks().end
    }

    /// Microseconds that it adds to a lap, entered at `entry` from `previous`.
    fn cost(&self, entry: u32, until: u32, previous: Option<&Self>, avoided: &Pairs) -> u64 {
        let half_rtt = previous.map_or(self.half_rtt_from_me, |previous| {
            let said = announced_rtt(previous.host, &self.host.host)
                .or_else(|| announced_rtt(self.host, &previous.host.host));
            said.map_or(UNKNOWN_RTT_MICROS, u64::from) / 2
        });
        let used = u64::from(self.end().min(until) - entry);
        let part = |micros: u64| micros.saturating_mul(used) / u64::from(self.end() - self.first());
        let said = match u64::from(self.host.decode_micros) {
            0 => used.saturating_mul(UNMEASURED_BLOCK_MICROS),
            measured => part(measured),
        };
        let said = said.saturating_mul(1 + u64::from(self.host.sessions));
        // What was seen here was seen under the load of the time; what is said may be a lie.
        let shared = match (self.seen_micros, self.host.decode_micros) {
            (Some(seen), 0) => part(seen),
            (Some(seen), _) => part(seen).max(said),
            (None, _) => said,
        };
        let short = if self.short { SHORT_KV_MICROS } else { 0 };
        let disputed =
            previous.is_some_and(|previous| avoided.contains(&(previous.host(), self.host())));
        let disputed = if disputed { AVOIDED_PAIR_MICROS } else { 0 };
        let cost = half_rtt.saturating_add(shared).saturating_add(short).saturating_add(disputed);
        cost.saturating_mul(1_000) / u64::from(self.odds)
    }
}

/// The cheapest way for each number of hops that has one, fewest first. Numbers of hops that
/// cost more than fewer are left out. Of equal ways, the one of the earlier candidates.
pub(crate) fn search(candidates: &[Candidate<'_>], limits: Limits<'_>) -> Vec<Found> {
    let mut spans_of: BTreeMap<PeerId, usize> = BTreeMap::new();
    let mut by_first: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        *spans_of.entry(candidate.host()).or_default() += 1;
        by_first.entry(candidate.first()).or_default().push(index);
    }
    let mut found: Vec<Found> = Vec::new();
    let mut budget = MAX_EXTENSIONS;
    let root = Part { plain: 0, cost: 0, path: Vec::new(), met: BTreeSet::new() };
    let mut parts = vec![root];
    for hops in 1..=limits.max_hops {
        let mut grown: BTreeMap<usize, Vec<Part>> = BTreeMap::new();
        for part in &parts {
            let entry = part.path.last().map_or(limits.from, |last| candidates[*last].end());
            let from = if limits.exact { entry } else { 0 };
            for index in
                by_first.range(from..=entry).flat_map(|(_, indices)| indices.iter().copied())
            {
                if budget == 0 {
                    return found;
                }
                budget -= 1;
                let candidate = &candidates[index];
                if candidate.end() <= entry || part.met.contains(&candidate.host()) {
                    continue;
                }
                let again = spans_of.get(&candidate.host()).is_some_and(|spans| *spans > 1);
                keep(
                    grown.entry(index).or_default(),
                    extend(candidates, part, index, again, limits),
                );
            }
        }
        let (complete, partial): (Vec<_>, Vec<_>) = grown
            .into_iter()
            .flat_map(|(index, kept)| kept.into_iter().map(move |part| (index, part)))
            .partition(|(index, _)| candidates[*index].end() >= limits.until);
        let limit = found.iter().map(|way| way.cost).min().unwrap_or(u64::MAX);
        if let Some((_, part)) = complete.into_iter().min_by_key(|(index, p)| (p.cost, *index))
            && hops >= limits.min_hops
            && part.cost < limit
        {
            found.push(Found { plain: part.plain, cost: part.cost, path: part.path });
        }
        // A longer way is of use only if it is cheaper; costs only grow.
        let limit = found.iter().map(|way| way.cost).min().unwrap_or(u64::MAX);
        parts = partial.into_iter().map(|(_, part)| part).filter(|p| p.cost < limit).collect();
        if parts.is_empty() {
            break;
        }
    }
    found
}

fn extend(
    candidates: &[Candidate<'_>],
    part: &Part,
    index: usize,
    again: bool,
    limits: Limits<'_>,
) -> Part {
    let previous = part.path.last().map(|last| &candidates[*last]);
    let entry = previous.map_or(limits.from, Candidate::end);
    let candidate = &candidates[index];
    let mut grown = part.clone();
    let plain = candidate.cost(entry, limits.until, previous, limits.avoided);
    let lucky = plain.saturating_add(plain.saturating_mul(candidate.luck) / 1_000);
    grown.plain = part.plain.saturating_add(plain);
    grown.cost = part.cost.saturating_add(lucky);
    grown.path.push(index);
    if again {
        grown.met.insert(candidate.host());
    }
    grown
}

/// Keeps a part-chain unless one that is as cheap leaves as much open. What it makes needless
/// goes; when there are too many, the dearest goes.
fn keep(kept: &mut Vec<Part>, new: Part) {
    let serves = |one: &Part, other: &Part| one.cost <= other.cost && one.met.is_subset(&other.met);
    if kept.iter().any(|held| serves(held, &new)) {
        return;
    }
    kept.retain(|held| !serves(&new, held));
    let place = kept.partition_point(|held| held.cost <= new.cost);
    kept.insert(place, new);
    kept.truncate(KEPT_PER_END);
}
