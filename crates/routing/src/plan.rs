//! From a table and a wish to the best chain.

use std::collections::BTreeSet;
use std::ops::Range;

use taimatsu_protocol::opening::MAX_HOPS;
use taimatsu_protocol::{Announcement, ModelId, Moment, Numerics, PeerId};

use crate::chain::{Chain, Hop};
use crate::outlook::Outlook;
use crate::policy::PATIENCE;
use crate::search::{Candidate, Found, Limits, search};
use crate::table::{HostTable, Pairs, missing, missing_of};

/// What is asked of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Which model.
    pub model: ModelId,
    /// Its number of blocks, from its manifest.
    pub blocks: u32,
    /// How it may be spread.
    pub wish: Wish,
    /// KV positions that each hop will need: prompt and answer.
    pub positions: u32,
    /// Who asks. It is never a hop: nobody dials himself.
    pub me: PeerId,
    /// Decides between hosts that are nearly equally good, so that not all askers choose the same.
    pub seed: u64,
}

/// How a model may be spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// Whatever is best.
    #[default]
    Any,
    /// One host that has the whole model.
    Whole,
    /// At least two hosts.
    Chain,
}

/// A part of a chain that is to be taken by others, while the rest of it stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its blocks.
    pub blocks: Range<u32>,
    /// Who may not be in it: the hops that stay, and whoever was just found wanting.
    pub without: BTreeSet<PeerId>,
    /// The arithmetic of the rest.
    pub numerics: Numerics,
}

/// Why there is no chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nobody else hosts these blocks.
    #[error("no host for blocks {}; host them, or wait for one that does", ranges(missing))]
    Uncovered {
        /// Inclusive ranges, in order.
        missing: Vec<[u32; 2]>,
    },
    /// Every block has a host, but they do not fit together as wished: their spans leave no way
    /// from the first block to the last with each host used once, or their arithmetic differs.
    #[error("all blocks have hosts, but no chain of them is as wished; ask for another route")]
    NoSuchRoute,
    /// There is a chain, through hosts that have no KV free at all.
    #[error("the hosts of this model have no room for another session; try again soon")]
    NoCapacity,
}

/// The best chain for a request, from what the table holds (call [`HostTable::expire`] first).
///
/// A hop costs half a round trip to it, its measured time for one position times the sessions it
/// would share with (but never less than this node has itself seen of it, see
/// [`HostTable::observed`]), ten seconds where its free KV is short, and ten where the pair with the
/// hop before is avoided; all divided by its odds to hold. The fewest hops win, unless more are
/// faster by [`PATIENCE`]; ways of one length share the requests where they are near-equal
/// ([`NEAR_EQUAL_PERMILLE`](crate::policy::NEAR_EQUAL_PERMILLE)). Spans are used as announced where
/// possible, otherwise from their middle on; a suspended or distrusted host is used only where there
/// is no way without.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(
    table: &HostTable,
    request: &Request,
    outlook: &Outlook,
    now: Moment,
) -> Result<Chain, PlanError> {
    let hosts = hosts(table, request, outlook, |_| true);
    let missing = missing(hosts.iter().map(|host| host.span), request.blocks);
    if !missing.is_empty() || request.blocks == 0 {
        return Err(PlanError::Uncovered { missing });
    }
    let (numerics, hops) = way(table, request, outlook, now, hosts, 0..request.blocks)?;
    Ok(Chain::new(request.blocks, numerics, hops).expect("a search keeps the chain's rules"))
}

/// The best hops for a part of a chain, by the same figures. A host around the part may compute
/// just that much of its span.
///
/// # Errors
/// See [`PlanError`].
pub fn plan_part(
    table: &HostTable,
    request: &Request,
    part: &Part,
    outlook: &Outlook,
    now: Moment,
) -> Result<Vec<Hop>, PlanError> {
    let may =
        |host: &Announcement| host.numerics == part.numerics && !part.without.contains(&host.host);
    let hosts = hosts(table, request, outlook, may);
    let missing = missing_of(hosts.iter().map(|host| host.span), part.blocks.clone());
    if !missing.is_empty() || part.blocks.is_empty() {
        return Err(PlanError::Uncovered { missing });
    }
    // How many hops the whole has is not for its parts.
    let request = Request { wish: Wish::Any, ..*request };
    Ok(way(table, &request, outlook, now, hosts, part.blocks.clone())?.1)
}

/// Whoever may be asked, in an order that differs from request to request.
fn hosts<'a>(
    table: &'a HostTable,
    request: &Request,
    outlook: &Outlook,
    may: impl Fn(&Announcement) -> bool,
) -> Vec<&'a Announcement> {
    let of_model = |host: &&Announcement| {
        host.blocks == request.blocks
            && !host.leaving
            && host.host != request.me
            && outlook.allows(&host.host)
            && may(host)
    };
    let mut hosts: Vec<_> = table.hosts(request.model).filter(of_model).collect();
    hosts.sort_by_key(|host| (mixed(request.seed, &host.host), host.host, host.span));
    hosts
}

fn way(
    table: &HostTable,
    request: &Request,
    outlook: &Outlook,
    now: Moment,
    hosts: Vec<&Announcement>,
    part: Range<u32>,
) -> Result<Way, PlanError> {
    let candidates: Vec<_> = hosts
        .into_iter()
        .map(|host| Candidate::new(table, request, host, outlook.odds(&host.host)))
        .collect();
    let with_room: Vec<_> = candidates.iter().copied().filter(Candidate::has_room).collect();
    let avoided = table.avoided(now);
    let best = |candidates: &[Candidate<'_>]| best(candidates, request, &part, &avoided);
    let trusted = |candidate: &Candidate<'_>| {
        let host = candidate.host();
        !table.is_suspended(&host, now) && !outlook.is_distrusted(&host)
    };
    let preferred: Vec<_> = with_room.iter().copied().filter(trusted).collect();
    if let Some(way) = best(&preferred) {
        return Ok(way);
    }
    // The same hosts again would give the same answer.
    if with_room.len() > preferred.len()
        && let Some(way) = best(&with_room)
    {
        return Ok(way);
    }
    let full = candidates.len() > with_room.len() && best(&candidates).is_some();
    Err(if full { PlanError::NoCapacity } else { PlanError::NoSuchRoute })
}

/// Hops in order, and the arithmetic of all.
type Way = (Numerics, Vec<Hop>);

/// The best way of these hosts: with spans as announced, otherwise entering some midway.
fn best(
    candidates: &[Candidate<'_>],
    request: &Request,
    part: &Range<u32>,
    avoided: &Pairs,
) -> Option<Way> {
    best_of(candidates, request, part, avoided, true)
        .or_else(|| best_of(candidates, request, part, avoided, false))
}

fn best_of(
    candidates: &[Candidate<'_>],
    request: &Request,
    part: &Range<u32>,
    avoided: &Pairs,
    exact: bool,
) -> Option<Way> {
    let (min_hops, max_hops) = match request.wish {
        Wish::Any => (1, MAX_HOPS),
        Wish::Whole => (1, 1),
        Wish::Chain => (2, MAX_HOPS),
    };
    let Range { start: from, end: until } = *part;
    let limits = Limits { from, until, min_hops, max_hops, exact, avoided };
    let kinds: BTreeSet<Numerics> = candidates.iter().map(Candidate::numerics).collect();
    let mut found = Vec::new();
    for numerics in kinds {
        let alike: Vec<_> =
            candidates.iter().copied().filter(|host| host.numerics() == numerics).collect();
        let ways = search(&alike, limits).into_iter();
        let hops = |way: &Found| hops(&alike, way, part, request.blocks);
        found.extend(ways.map(|way| (way.plain, (numerics, hops(&way)))));
    }
    choose(found)
}

/// Of ways through: the fewest hops that are not too slow; of these the cheapest.
fn choose(found: Vec<(u64, Way)>) -> Option<Way> {
    let cheapest = found.iter().map(|(cost, _)| *cost).min()?;
    let (more, than) = PATIENCE;
    let bearable = u128::from(cheapest) * u128::from(more);
    found
        .into_iter()
        .filter(|(cost, _)| u128::from(*cost) * u128::from(than) <= bearable)
        .min_by_key(|(cost, (_, hops))| (hops.len(), *cost))
        .map(|(_, way)| way)
}

fn hops(candidates: &[Candidate<'_>], way: &Found, part: &Range<u32>, blocks: u32) -> Vec<Hop> {
    let mut entry = part.start;
    let mut hops = Vec::with_capacity(way.path.len());
    for index in &way.path {
        let hop: Hop = candidates[*index].hop(entry, part.end, blocks);
        entry = hop.span.blocks().end;
        hops.push(hop);
    }
    hops
}

fn ranges(missing: &[[u32; 2]]) -> String {
    let texts: Vec<_> = missing.iter().map(|[first, last]| format!("{first}-{last}")).collect();
    texts.join(", ")
}

/// A number that differs per seed and host (FNV-1a): a coin, not a secret.
pub(crate) fn mixed(seed: u64, host: &PeerId) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(*host.public_key());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
