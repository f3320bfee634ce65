//! How long things take between nodes, what is lost, and who cannot hear whom.

use std::collections::BTreeSet;
use std::time::Duration;

use super::luck::Luck;
use super::world::NodeId;

/// The weather of a run.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// One way across the whole map, in microseconds.
    pub span_micros: u64,
    /// Added at random, at most this share of the way, in permille.
    pub jitter: u64,
    /// Frames that are lost, in permille: their stream sends them again, and what follows waits.
    pub loss: u64,
}

/// A lost packet is missed after this.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// One way to oneself's neighbour in the rack.
const LEAST_MICROS: u64 = 200;

/// The map's width.
const MAP: u64 = 1_000;

/// Places on a map, and cuts in it.
#[derive(Debug)]
pub struct Links {
    weather: Weather,
    places: Vec<(u64, u64)>,
    /// Directed: who is not heard by whom.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Which side of a partition; none: everybody on one.
    sides: Option<Vec<bool>>,
    /// Who cannot dial whom, though a third could reach both.
    undialable: BTreeSet<(NodeId, NodeId)>,
}

impl Links {
    /// A map without nodes.
    #[must_use]
    pub fn new(weather: Weather) -> Self {
        let (cut, undialable) = (BTreeSet::new(), BTreeSet::new());
        Self { weather, places: Vec::new(), cut, sides: None, undialable }
    }

    /// All live close to each other.
    pub fn shrink(&mut self, span_micros: u64) {
        self.weather.span_micros = span_micros;
    }

    /// A node hears nobody, and nobody hears it.
    pub fn isolate(&mut self, node: NodeId) {
        for other in (0..self.places.len()).filter(|other| *other != node) {
            self.cut.extend([(node, other), (other, node)]);
        }
    }

    /// And again.
    pub fn join(&mut self, node: NodeId) {
        self.cut.retain(|(from, to)| *from != node && *to != node);
    }

    /// Gives the next node a place.
    pub fn place(&mut self, luck: &mut Luck) {
        self.places.push((luck.below(MAP), luck.below(MAP)));
    }

    /// One way without jitter, in microseconds.
    #[must_use]
    pub fn one_way(&self, from: NodeId, to: NodeId) -> u64 {
        let ((ax, ay), (bx, by)) = (self.places[from], self.places[to]);
        let far = (ax.abs_diff(bx) + ay.abs_diff(by)) / 2;
        // Networks are no maps: the way may be straight, or lead round three corners.
        let detour = 50 + (ax * 31 + ay * 17 + bx * 31 + by * 17) % 151;
        LEAST_MICROS + self.weather.span_micros * far / MAP * detour / 100
    }

    /// How long a frame is on its way this time.
    pub fn delay(&self, luck: &mut Luck, from: NodeId, to: NodeId) -> Duration {
        let way = self.one_way(from, to);
        let mut micros = way + luck.below(way * self.weather.jitter / 1_000 + 1);
        while luck.permille(self.weather.loss) {
            micros += RETRANSMISSION.as_micros() as u64 + 2 * way;
        }
        Duration::from_micros(micros)
    }

    /// How long a frame that waited behind a cut takes after it.
    pub fn delay_after_cut(&self, luck: &mut Luck, from: NodeId, to: NodeId) -> Duration {
        self.delay(luck, from, to) + luck.millis(200, 1_500)
    }

    /// Whether nothing gets through in this direction.
    #[must_use]
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let apart = self.sides.as_ref().is_some_and(|sides| sides[from] != sides[to]);
        apart || self.cut.contains(&(from, to))
    }

    /// Whether a new connection cannot be made, and this is noticed at once.
    #[must_use]
    pub fn is_undialable(&self, from: NodeId, to: NodeId) -> bool {
        self.undialable.contains(&(from, to))
    }

    /// From now on `from` is not heard by `to`.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// From now on `from` cannot dial `to`.
    pub fn forbid(&mut self, from: NodeId, to: NodeId) {
        self.undialable.insert((from, to));
    }

    /// The map falls into two: true is one side.
    pub fn part(&mut self, sides: Vec<bool>) {
        self.sides = Some(sides);
    }

    /// Every cut is mended.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.sides = None;
    }
}
