//! Reputation's numbers, each with its why (design.md section 9; notes on trust, 2.3).

use std::time::Duration;

/// Evidence of availability counts half after this: machines come and go within a day.
pub const AVAILABLE_HALF_LIFE: Duration = Duration::from_secs(6 * 3_600);

/// Evidence of correct work counts half after this: what somebody did a month ago says little.
pub const CORRECT_HALF_LIFE: Duration = Duration::from_secs(14 * 86_400);

/// A fault is remembered for longer than good work.
pub const FAULT_HALF_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// Evidence kept of one kind, in observations: a long good record must not hide what a peer has
/// become.
pub const MOST_EVIDENCE: f64 = 400.0;

/// What an answer whose receipts hold together is worth as evidence of correct work: nobody has
/// computed it again.
pub const UNAUDITED_WORTH: f64 = 0.2;

/// Unaudited work never counts for more than this in all: without an audit nobody becomes trusted
/// by being busy.
pub const MOST_UNAUDITED: f64 = 4.0;

/// A miss counts this much where several peers failed together: then it was rather this node's
/// own link.
pub const SHARED_MISS: f64 = 0.25;

/// So many peers, within so long, are "together".
pub const TOGETHER: (usize, Duration) = (3, Duration::from_secs(10));

/// What a newcomer's availability is drawn with: nine answers in ten come in time in a healthy
/// swarm, and a host must not fall behind strangers by its first success.
pub const NEWCOMER: f64 = 9.0;

/// Peers and models remembered. Beyond it, the one heard of longest ago is forgotten, unless a
/// fault of it is remembered.
pub const MOST_STANDINGS: usize = 4_096;

/// Reasons shown of one standing; the oldest go first.
pub const MOST_REASONS: usize = 16;

/// Below this expected correctness a peer is used only where there is nobody else: one fault of a
/// newcomer leaves a third, and brings it there.
pub const DISTRUST: f64 = 0.35;
