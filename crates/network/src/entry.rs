//! Into the swarm: bootstrap addresses are dialled until each was reached, then visited now and
//! then, and at once whenever this node knows nobody. Addresses of peers that were good before are
//! tried beside them, a few at a time, until enough peers are met.
//!
//! The visits are for the others: a bootstrap node that was started anew knows nobody, and would
//! lead newcomers into an empty swarm beside the full one.

use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

/// The bootstrap addresses, and how far each has come. Pure: time comes in, due dials go out.
#[derive(Debug)]
pub(crate) struct Entry {
    points: Vec<Point>,
    /// Peers of this swarm that were met since this node last knew nobody; at most [`ENOUGH`].
    met: Vec<PeerId>,
}

#[derive(Debug)]
struct Point {
    address: Multiaddr,
    /// Of a peer that was good before; else a bootstrap address.
    remembered: bool,
    state: State,
    /// The wait after the next failure.
    backoff: Duration,
    reached: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be dialled then.
    Due(Instant),
    Dialling(ConnectionId),
    /// Connected; whether it is of this swarm, identify tells.
    Connected(PeerId),
    /// Reached before; to be visited then, or at once when nobody else is known.
    Resting(Instant),
    /// Not needed, unless nobody else is known.
    Spare,
    /// An address of this very node.
    Never,
}

impl Entry {
    pub(crate) fn new(bootstrap: &[Multiaddr], remembered: &[Multiaddr], now: Instant) -> Self {
        let point = |address: &Multiaddr, remembered, due| Point {
            address: address.clone(),
            remembered,
            state: State::Due(due),
            backoff: FIRST_BACKOFF,
            reached: false,
        };
        let given = bootstrap.iter().map(|address| point(address, false, now));
        let old = remembered.iter().enumerate();
        let old = old.map(|(number, address)| point(address, true, later(now, number)));
        Self { points: given.chain(old).collect(), met: Vec::new() }
    }

    /// How many bootstrap addresses there are.
    pub(crate) fn len(&self) -> usize {
        self.points.iter().filter(|point| !point.remembered).count()
    }

    /// Whether any bootstrap address was ever reached.
    pub(crate) fn reached(&self) -> bool {
        self.points.iter().any(|point| point.reached && !point.remembered)
    }

    /// When the next dial is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.points.iter().filter_map(Point::due).min()
    }

    /// An address to dial now; the caller says with [`dialling`](Self::dialling) that it does.
    pub(crate) fn due(&self, now: Instant) -> Option<(usize, &Multiaddr)> {
        let at = self.points.iter().position(|point| point.due().is_some_and(|due| due <= now))?;
        Some((at, &self.points[at].address))
    }

    /// Address `at` is being dialled as `connection`.
    pub(crate) fn dialling(&mut self, at: usize, connection: ConnectionId) {
        self.points[at].state = State::Dialling(connection);
    }

    /// Address `at` leads to this very node.
    pub(crate) fn is_myself(&mut self, at: usize) {
        self.points[at].state = State::Never;
    }

    /// Address `at` could not even be dialled.
    pub(crate) fn refused(&mut self, at: usize, now: Instant) {
        self.points[at].fail(now);
    }

    /// A connection was made.
    pub(crate) fn connected(&mut self, connection: ConnectionId, peer: PeerId) {
        for point in self.points.iter_mut().filter(|p| p.state == State::Dialling(connection)) {
            point.state = State::Connected(peer);
        }
    }

    /// A dial failed; `myself` when it led to this very node.
    pub(crate) fn failed(&mut self, connection: ConnectionId, myself: bool, now: Instant) {
        for point in self.points.iter_mut().filter(|p| p.state == State::Dialling(connection)) {
            if myself {
                point.state = State::Never;
            } else {
                point.fail(now);
            }
        }
    }

    /// A connected peer proved to be of this swarm.
    pub(crate) fn identified(&mut self, peer: PeerId) {
        for point in self.points.iter_mut().filter(|p| p.state == State::Connected(peer)) {
            (point.reached, point.backoff) = (true, FIRST_BACKOFF);
        }
        if self.met.len() < ENOUGH && !self.met.contains(&peer) {
            self.met.push(peer);
        }
        if self.met.len() >= ENOUGH {
            let waiting = |p: &&mut Point| p.remembered && matches!(p.state, State::Due(_));
            self.points.iter_mut().filter(waiting).for_each(|point| point.state = State::Spare);
        }
    }

    /// The last connection to a peer ended.
    pub(crate) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        for point in self.points.iter_mut().filter(|p| p.state == State::Connected(peer)) {
            if point.reached {
                let rest = State::Resting(now + VISIT_EVERY);
                point.state = if point.remembered { State::Spare } else { rest };
            } else {
                point.fail(now);
            }
        }
    }

    /// This node knows nobody any more.
    pub(crate) fn alone(&mut self, now: Instant) {
        self.met.clear();
        let idle = |p: &&mut Point| matches!(p.state, State::Resting(_) | State::Spare);
        let mut remembered = 0;
        for point in self.points.iter_mut().filter(idle) {
            if point.remembered {
                point.state = State::Due(later(now, remembered) + FIRST_BACKOFF);
                point.backoff = FIRST_BACKOFF;
                remembered += 1;
            } else {
                point.fail(now);
            }
        }
    }
}

/// When the remembered address of this number is dialled: a few at a time.
fn later(now: Instant, number: usize) -> Instant {
    now + ROUND * u32::try_from(number / AT_ONCE).unwrap_or(0)
}

impl Point {
    const fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(when) | State::Resting(when) => Some(when),
            _ => None,
        }
    }

    fn fail(&mut self, now: Instant) {
        self.state = State::Due(now + self.backoff);
        let most = if self.remembered { LAST_BACKOFF_REMEMBERED } else { LAST_BACKOFF };
        self.backoff = (self.backoff * 2).min(most);
    }
}

/// Nodes of one machine start together, and one listens a little earlier than the other.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// A bootstrap node that is down for a day is found again within half a minute.
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// A peer that was good once owes nobody to be there.
const LAST_BACKOFF_REMEMBERED: Duration = Duration::from_secs(600);

/// Remembered addresses that are dialled at once, and the time until the next are.
const AT_ONCE: usize = 16;
const ROUND: Duration = Duration::from_secs(1);

/// Peers that make the other remembered addresses needless: one may be as lost as this node, three
/// will hardly be.
const ENOUGH: usize = 3;

/// Idle connections close after a minute, so each node costs every bootstrap node a handshake
/// in three minutes.
const VISIT_EVERY: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> (Entry, Instant) {
        let now = Instant::now();
        (Entry::new(&["/ip4/127.0.0.1/tcp/1".parse().unwrap()], &[], now), now)
    }

    #[test]
    fn it_backs_off_until_reached_and_then_rests() {
        let (mut entry, now) = entry();
        let connection = ConnectionId::new_unchecked(1);
        let peer = PeerId::random();
        entry.dialling(0, connection);
        assert!(entry.due(now).is_none());
        entry.failed(connection, false, now);
        assert_eq!(entry.next_due(), Some(now + FIRST_BACKOFF));
        entry.dialling(0, connection);
        entry.failed(connection, false, now);
        assert_eq!(entry.next_due(), Some(now + 2 * FIRST_BACKOFF));
        entry.dialling(0, connection);
        entry.connected(connection, peer);
        assert!(!entry.reached());
        entry.identified(peer);
        entry.disconnected(peer, now);
        assert!(entry.reached() && entry.due(now).is_none());
        assert_eq!(entry.next_due(), Some(now + VISIT_EVERY));
        entry.alone(now);
        assert_eq!(entry.next_due(), Some(now + FIRST_BACKOFF));
    }

    #[test]
    fn a_peer_of_another_swarm_is_not_reached() {
        let (mut entry, now) = entry();
        let (connection, peer) = (ConnectionId::new_unchecked(1), PeerId::random());
        entry.dialling(0, connection);
        entry.connected(connection, peer);
        entry.disconnected(peer, now);
        assert!(!entry.reached() && entry.next_due().is_some());
    }

    #[test]
    fn remembered_addresses_are_tried_until_enough_are_met() {
        let now = Instant::now();
        let old: Vec<Multiaddr> =
            (1..=40).map(|port| format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()).collect();
        let mut entry = Entry::new(&[], &old, now);
        let mut dialled = Vec::new();
        while let Some((at, _)) = entry.due(now) {
            let connection = ConnectionId::new_unchecked(at);
            entry.dialling(at, connection);
            dialled.push(connection);
        }
        assert_eq!(dialled.len(), AT_ONCE, "the others a little later");
        let peers: Vec<PeerId> = (0..ENOUGH).map(|_| PeerId::random()).collect();
        for (connection, peer) in dialled.iter().zip(&peers) {
            entry.connected(*connection, *peer);
            entry.identified(*peer);
            entry.identified(*peer);
        }
        for connection in &dialled[ENOUGH..] {
            entry.failed(*connection, false, now);
        }
        let due = now + Duration::from_secs(3_600);
        assert_eq!((entry.len(), entry.reached()), (0, false), "none is a bootstrap address");
        // Those that failed come again, seldom; those that were not tried do not.
        let again = std::iter::from_fn(|| {
            let (at, _) = entry.due(due)?;
            entry.is_myself(at);
            Some(at)
        });
        assert!(again.collect::<Vec<_>>().iter().all(|at| *at < AT_ONCE));
        for peer in &peers {
            entry.disconnected(*peer, now);
        }
        assert_eq!(entry.next_due(), None);
        entry.alone(now);
        let back = entry.due(due).map(|(at, _)| at);
        assert_eq!(back, Some(0), "whoever was good before comes first");
        assert!(entry.next_due().unwrap() > now);
        let soon = now + FIRST_BACKOFF;
        let at_once = entry.points.iter().filter(|point| point.due().is_some_and(|at| at <= soon));
        assert!((1..=AT_ONCE).contains(&at_once.count()), "a few at a time, again");
    }

    #[test]
    fn the_wait_is_bounded() {
        let (mut entry, now) = entry();
        for _ in 0..100 {
            entry.refused(0, now);
        }
        assert_eq!(entry.next_due(), Some(now + LAST_BACKOFF));
        entry.is_myself(0);
        assert_eq!(entry.next_due(), None);
    }
}
