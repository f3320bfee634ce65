//! Into the swarm: bootstrap addresses are dialled until each was reached, then visited now and
//! then, and at once whenever this node knows nobody.
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
}

#[derive(Debug)]
struct Point {
    address: Multiaddr,
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
    /// An address of this very node.
    Never,
}

impl Entry {
    pub(crate) fn new(addresses: &[Multiaddr], now: Instant) -> Self {
        let points = addresses.iter().map(|address| Point {
            address: address.clone(),
            state: State::Due(now),
            backoff: FIRST_BACKOFF,
            reached: false,
        });
        Self { points: points.collect() }
    }

    /// How many addresses there are.
    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether any was ever reached.
    pub(crate) fn reached(&self) -> bool {
        self.points.iter().any(|point| point.reached)
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
    }

    /// The last connection to a peer ended.
    pub(crate) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        for point in self.points.iter_mut().filter(|p| p.state == State::Connected(peer)) {
            if point.reached {
                point.state = State::Resting(now + VISIT_EVERY);
            } else {
                point.fail(now);
            }
        }
    }

    /// This node knows nobody any more.
    pub(crate) fn alone(&mut self, now: Instant) {
        for point in self.points.iter_mut().filter(|p| matches!(p.state, State::Resting(_))) {
            point.fail(now);
        }
    }
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
        self.backoff = (self.backoff * 2).min(LAST_BACKOFF);
    }
}

/// Nodes of one machine start together, and one listens a little earlier than the other.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// A bootstrap node that is down for a day is found again within half a minute.
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// Idle connections close after a minute, so each node costs every bootstrap node a handshake
/// in three minutes.
const VISIT_EVERY: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> (Entry, Instant) {
        let now = Instant::now();
        (Entry::new(&["/ip4/127.0.0.1/tcp/1".parse().unwrap()], now), now)
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
