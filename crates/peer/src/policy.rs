//! The judgement's numbers, each with its why (design.md sections 6 and 8).

use std::time::Duration;

/// A hosted span is announced again after this: two may be lost before the first expires.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(120);

/// How long an announcement lives, in seconds.
pub const ANNOUNCEMENT_LIFE: u64 = 300;

/// Changes of load are gathered for this long: KV changes with every session, and askers only
/// need to know about how much is free.
pub const LOAD_COALESCE: Duration = Duration::from_secs(15);

/// Spans that a node hosts: more than a machine holds in memory. Beyond it none is added.
pub const MAX_HOSTED: usize = 16;

/// What was found of a model is believed for this long; an ask after that looks again, without
/// waiting for it if there is a way already.
pub const LOOKUP_FRESH: Duration = Duration::from_secs(10);

/// A lookup that is not done by then was lost; the next ask looks again.
pub const LOOKUP_LOST: Duration = Duration::from_secs(10);

/// How long an ask waits for a lookup: a few round trips of a DHT on a bad link.
pub const ASK_PATIENCE: Duration = Duration::from_secs(5);

/// Asks that wait for a lookup. Beyond it they are answered `Busy` at once.
pub const MAX_WAITING: usize = 256;

/// Models whose last lookup is remembered. Beyond it the one looked up longest ago is forgotten,
/// and would be looked up again.
pub const MAX_LOOKUPS: usize = 256;

/// Sessions remembered against replay, at some 40 bytes each. When full, openings are refused as
/// `busy` until prekeys expire: forgetting one early would let its copy in.
pub const MAX_REPLAY: usize = 65_536;

/// When a host that is busy asks to be tried again, in milliseconds.
pub const RETRY_MS: u32 = 1_000;
