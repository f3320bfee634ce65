//! The session's numbers, each with its why (docs/protocol.md 3.5).

use std::time::Duration;

/// How long the client waits for all hops to accept and all lanes to stand: two dials and some
/// round trips on a bad link.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a neighbour's hello waits for the client's opening.
pub const EARLY: Duration = Duration::from_secs(5);

/// Hellos that may wait. Beyond it they are refused: whoever opens so many without openings is no
/// neighbour.
pub const EARLY_HELLOS: usize = 128;

/// How long the next hop may take to be dialled and to answer. It covers the time that a hello may
/// wait for its opening.
pub const DIAL: Duration = Duration::from_secs(6);

/// A hop that says nothing for this long is lost. Three missed acknowledgements, and less than
/// the five seconds that a caller is promised.
pub const HOP_SILENCE: Duration = Duration::from_millis(3_500);

/// How long a hop's word that a lane is lost waits for better evidence: a hop that is gone takes
/// its stream to the client with it, and that is heard of within a round trip.
pub const HEARSAY: Duration = Duration::from_millis(500);

/// A client that says nothing for this long is gone, and its KV is freed.
pub const CLIENT_SILENCE: Duration = Duration::from_secs(10);

/// Each side says something at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// News for the client (received, computed) is gathered for this long.
pub const ACK_COALESCE: Duration = Duration::from_millis(250);

/// How long a newcomer may take to accept, in the middle of an answer: two dials and a round trip
/// on a bad link. Another one may be better than one that takes longer.
pub const NEWCOMER: Duration = Duration::from_secs(4);

/// How long a lost hop's place may stay vacant, unless the owner says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// After so long it is looked again for somebody to take a place, at first and at most.
pub const SEEK_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Losses without a token between them: more are no chance, and every one costs a rebuild.
pub const LOSSES: u32 = 16;

/// Losses of one answer where it is open who is wrong, and both were replaced.
pub const DISPUTES: u32 = 3;

/// Nothing computed and nothing released for this long, though there is credit: somebody is
/// stuck.
pub const STALL: Duration = Duration::from_secs(60);

/// Nothing moves for this long, and a hop lacks what the one before it has computed: the lane
/// between them carries nothing, though both are there. A dial on a bad link is cheaper than a
/// minute.
pub const LANE_STALL: Duration = Duration::from_secs(5);

/// How long the client waits for the hops' last figures.
pub const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Tokens that the chain may be ahead of its consumer. It is renewed by halves, so one half lasts a
/// round trip: 150 ms at 850 tokens a second, two seconds at 64. With 64 in all, a whole-model host
/// 150 ms away would wait for its reader from 213 a second on.
pub const CREDIT: u32 = 256;

/// Positions that a sender may be ahead of its receiver's computing. Both ends begin with it.
pub const WINDOW: u32 = 512;

/// Positions of one prefill chunk: small enough that three hops work at once on a prompt of
/// two hundred tokens, large enough that a frame's cost does not show.
pub const PREFILL_CHUNK: u32 = 64;

/// A receiver renews its permission when this much of it is used: an acknowledgement a step
/// would double the frames of a lap.
pub const WINDOW_RENEWAL: u32 = WINDOW / 4;
