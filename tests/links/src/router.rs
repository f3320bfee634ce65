//! All packets under way between all hosts. Pure: told of frames and of time, it says which frame
//! goes to whom, and when it wants to be asked again.
//!
//! Call [`Router::handle`] for each frame that a host sent, then [`Router::poll_output`] until it
//! has nothing, then come back at [`Router::poll_timeout`] or with the next frame.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use taimatsu_tests::simulation::Luck;

use crate::path::{Fate, Link, Path};

/// A host's number.
pub type Port = usize;

/// What became of frames since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to their host.
    pub delivered: u64,
    /// Lost by the way's own dice.
    pub lost: u64,
    /// Dropped for want of room in a queue.
    pub overflowed: u64,
    /// On a cut way, when sent or when due.
    pub cut: u64,
}

/// The router.
#[derive(Debug)]
pub struct Router {
    paths: BTreeMap<(Port, Port), Path>,
    /// Bounded by what each path lets be under way.
    under_way: BinaryHeap<Reverse<Flight>>,
    luck: Luck,
    taken: u64,
    counts: Counts,
}

/// In the order of arrival; of those that arrive together, in the order of sending.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Duration,
    number: u64,
    way: (Port, Port),
    frame: Vec<u8>,
}

impl Router {
    /// One that knows these ways and throws these dice.
    #[must_use]
    pub fn new(ways: impl IntoIterator<Item = ((Port, Port), Link)>, seed: u64) -> Self {
        Self {
            paths: ways.into_iter().map(|(way, link)| (way, Path::new(link))).collect(),
            under_way: BinaryHeap::new(),
            luck: Luck::of(seed),
            taken: 0,
            counts: Counts::default(),
        }
    }

    /// A host sent a frame to another. Without a way between them it is dropped.
    pub fn handle(&mut self, now: Duration, way: (Port, Port), frame: Vec<u8>) {
        let Some(path) = self.paths.get_mut(&way) else { return };
        match path.take(now, frame.len(), &mut self.luck) {
            Fate::Arrives(due) => {
                let number = self.taken;
                self.taken += 1;
                self.under_way.push(Reverse(Flight { due, number, way, frame }));
            }
            Fate::Lost => self.counts.lost += 1,
            Fate::Overflows => self.counts.overflowed += 1,
            Fate::Cut => self.counts.cut += 1,
        }
    }

    /// The next frame that has arrived, and at whom.
    pub fn poll_output(&mut self, now: Duration) -> Option<(Port, Vec<u8>)> {
        while self.under_way.peek().is_some_and(|Reverse(flight)| flight.due <= now) {
            let Reverse(flight) = self.under_way.pop()?;
            if self.paths.get(&flight.way).is_some_and(Path::is_cut) {
                self.counts.cut += 1;
                continue;
            }
            self.counts.delivered += 1;
            return Some((flight.way.1, flight.frame));
        }
        None
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(flight)| flight.due)
    }

    /// A way, to be changed.
    pub fn path(&mut self, way: (Port, Port)) -> Option<&mut Path> {
        self.paths.get_mut(&way)
    }

    /// What became of frames.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn router() -> Router {
        let near = Link::of_round_trip(2);
        let far = Link::of_round_trip(20);
        Router::new([((0, 1), near), ((1, 0), near), ((0, 2), far)], 1)
    }

    #[test]
    fn frames_arrive_where_and_when_they_should() {
        let mut router = router();
        router.handle(at(0), (0, 2), vec![1; 125]);
        router.handle(at(0), (0, 1), vec![2; 125]);
        router.handle(at(0), (2, 1), vec![3; 125]);
        assert_eq!(router.poll_timeout(), Some(at(1_010)));
        assert_eq!(router.poll_output(at(1_009)), None);
        assert_eq!(router.poll_output(at(1_010)), Some((1, vec![2; 125])));
        assert_eq!(router.poll_output(at(1_010)), None);
        assert_eq!(router.poll_output(at(10_010)), Some((2, vec![1; 125])));
        // Nothing leads from 2 to 1.
        assert_eq!((router.poll_timeout(), router.counts().delivered), (None, 2));
    }

    #[test]
    fn those_that_arrive_together_keep_their_order() {
        let link = Link { rate: u64::MAX, ..Link::of_round_trip(2) };
        let mut router = Router::new([((0, 1), link)], 1);
        for byte in 0..50 {
            router.handle(at(0), (0, 1), vec![byte; 100 - usize::from(byte)]);
        }
        for byte in 0..50 {
            let (_, frame) = router.poll_output(at(5_000)).unwrap();
            assert_eq!(frame[0], byte);
        }
    }

    #[test]
    fn a_cut_takes_what_is_under_way_and_one_way_alone_can_be_cut() {
        let mut router = router();
        router.handle(at(0), (0, 1), vec![1; 125]);
        router.path((0, 1)).unwrap().cut(true);
        router.handle(at(0), (0, 1), vec![2; 125]);
        router.handle(at(0), (1, 0), vec![3; 125]);
        assert_eq!(router.poll_output(at(5_000)), Some((0, vec![3; 125])));
        assert_eq!(router.poll_output(at(5_000)), None);
        assert_eq!((router.counts().cut, router.counts().delivered), (2, 1));
        router.path((0, 1)).unwrap().cut(false);
        router.handle(at(5_000), (0, 1), vec![4; 125]);
        assert_eq!(router.poll_output(at(9_000)), Some((1, vec![4; 125])));
    }
}
