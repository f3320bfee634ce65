//! Routing's numbers, each with its why (design.md section 6.2).

use std::time::Duration;

/// Announcements held of one model. A swarm of more hosts is known in part, which is enough to
/// route through it.
pub const MAX_PER_MODEL: usize = 512;

/// Announcements held of one host: more spans than one machine serves.
pub const MAX_PER_HOST: usize = 32;

/// Announcements held in all; at 4 KiB each at most 16 MiB.
pub const MAX_ANNOUNCEMENTS: usize = 4_096;

/// Announcements in one answer to a query, as the protocol bounds it.
pub const MAX_ANSWERED: usize = 256;

/// Hosts that are suspended at once, and hosts whose distance is remembered. Beyond it the
/// suspension that ends first goes, and the farthest host.
pub const MAX_REMEMBERED: usize = 1_024;

/// How long a host that just failed is passed over: long enough for a restart, short enough that
/// a hiccup costs little.
pub const SUSPENSION: Duration = Duration::from_secs(30);

/// How long this node's own measurement of a host's speed counts: a host that was slow under a
/// load gets another try, and one that lies costs one slow answer in that time.
pub const OBSERVED_LIFE: Duration = Duration::from_secs(600);

/// The round trip that is assumed where none was measured: across an ocean, so that a measured
/// neighbour is preferred.
pub const UNKNOWN_RTT_MICROS: u64 = 150_000;

/// The time for one block of a host that has not measured yet: a slow machine, so that saying
/// nothing is no advantage.
pub const UNMEASURED_BLOCK_MICROS: u64 = 5_000;

/// What a host is charged that has not the KV positions free that are asked for: it may have
/// them again when it is asked, and anybody else is better.
pub const SHORT_KV_MICROS: u64 = 10_000_000;

/// Hosts whose costs differ by less than this share the asks: each request adds up to so much to
/// a host's cost, by its own coin. What is announced of load is seconds old, and all who choose
/// the best by it choose the same.
pub const NEAR_EQUAL_PERMILLE: u64 = 250;

/// More hops are taken only where fewer would be slower by more than this: 5/4.
pub const PATIENCE: (u64, u64) = (5, 4);

/// Part-chains kept that end with the same span on the same host. More than one is kept only
/// where hosts have several spans, and their part-chains use different ones of these hosts.
pub const KEPT_PER_END: usize = 16;

/// Extensions of part-chains tried in one search. Chains of few hops are found first, so a table
/// made to be hard to search costs the long ones.
pub const MAX_EXTENSIONS: usize = 150_000;
