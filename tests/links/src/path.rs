//! One way from one host to another: what becomes of a packet on it. Pure; time is an argument.

use std::time::Duration;

use taimatsu_tests::simulation::Luck;

/// How one way behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// From the last bit's departure to its arrival.
    pub delay: Duration,
    /// A packet takes up to this much longer, evenly drawn. Order is kept, as on most real ways.
    pub jitter: Duration,
    /// Packets lost, of a million.
    pub loss_ppm: u32,
    /// Bits a second, headers included.
    pub rate: u64,
    /// How long the last bit of a packet may wait for its departure. What would wait longer is
    /// dropped, so what is under way is bounded: by the rate times queue, delay and jitter.
    pub queue: Duration,
}

impl Link {
    /// A way of half this round trip, with neither jitter nor loss, of [`RATE`] and [`QUEUE`].
    #[must_use]
    pub const fn of_round_trip(millis: u64) -> Self {
        Self {
            delay: Duration::from_micros(millis * 500),
            jitter: Duration::ZERO,
            loss_ppm: 0,
            rate: RATE,
            queue: QUEUE,
        }
    }
}

/// A home's fibre: what a volunteer may have.
pub const RATE: u64 = 100_000_000;

/// What the queue of a home's router holds when it is not tuned.
pub const QUEUE: Duration = Duration::from_millis(100);

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this time.
    Arrives(Duration),
    /// Lost on the way.
    Lost,
    /// No room in the queue.
    Overflows,
    /// The way is cut.
    Cut,
}

/// One way, with what it remembers.
#[derive(Debug, Clone)]
pub struct Path {
    link: Link,
    cut: bool,
    /// When the last bit of all that was taken has departed.
    free: Duration,
    /// When the last packet arrives.
    last: Duration,
}

impl Path {
    /// A way that nothing is on.
    #[must_use]
    pub const fn new(link: Link) -> Self {
        Self { link, cut: false, free: Duration::ZERO, last: Duration::ZERO }
    }

    /// How it behaves.
    #[must_use]
    pub const fn link(&self) -> Link {
        self.link
    }

    /// Behaves so from now on. What is under way arrives as was said.
    pub const fn change(&mut self, link: Link) {
        self.link = link;
    }

    /// Cuts or heals it.
    pub const fn cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Whether it is cut.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Takes a packet of so many bytes.
    pub fn take(&mut self, now: Duration, bytes: usize, luck: &mut Luck) -> Fate {
        if self.cut {
            return Fate::Cut;
        }
        // Drawn whether it is needed or not: the dice of a packet do not depend on the queue.
        let lost = luck.below(1_000_000) < u64::from(self.link.loss_ppm);
        let jitter = u64::try_from(self.link.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(luck.below(jitter.saturating_add(1)));
        let departs = self.free.max(now) + transmission(bytes, self.link.rate);
        if departs > now + self.link.queue {
            return Fate::Overflows;
        }
        // A lost packet was sent: it took its time of the line.
        self.free = departs;
        if lost {
            return Fate::Lost;
        }
        self.last = self.last.max(departs + self.link.delay + jitter);
        Fate::Arrives(self.last)
    }
}

fn transmission(bytes: usize, rate: u64) -> Duration {
    let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_packet_takes_its_transmission_and_the_delay() {
        // 1,250 bytes at 100 Mbit/s: 100 us; half of 5 ms: 2,500 us.
        let mut path = Path::new(Link::of_round_trip(5));
        let luck = &mut Luck::of(1);
        assert_eq!(path.take(at(10), 1_250, luck), Fate::Arrives(at(2_610)));
        // The next one waits until the line is free.
        assert_eq!(path.take(at(20), 1_250, luck), Fate::Arrives(at(2_710)));
        assert_eq!(path.take(at(9_000), 125, luck), Fate::Arrives(at(11_510)));
    }

    #[test]
    fn what_would_wait_too_long_is_dropped_and_takes_no_time() {
        let link = Link { queue: at(250), ..Link::of_round_trip(0) };
        let mut path = Path::new(link);
        let luck = &mut Luck::of(1);
        assert_eq!(path.take(at(0), 1_250, luck), Fate::Arrives(at(100)));
        assert_eq!(path.take(at(0), 1_250, luck), Fate::Arrives(at(200)));
        assert_eq!(path.take(at(0), 1_250, luck), Fate::Overflows);
        assert_eq!(path.take(at(50), 1_250, luck), Fate::Arrives(at(300)));
    }

    #[test]
    fn as_many_are_lost_as_was_said() {
        let mut path = Path::new(Link { loss_ppm: 20_000, ..Link::of_round_trip(5) });
        let luck = &mut Luck::of(7);
        let lost = (0..100_000).filter(|n| path.take(at(n * 1_000), 100, luck) == Fate::Lost);
        let lost = lost.count();
        // 2,000 with a deviation of 44.
        assert!((1_800..2_200).contains(&lost), "{lost}");
    }

    #[test]
    fn jitter_spreads_over_its_span_and_keeps_the_order() {
        let jitter = at(40_000);
        let mut path = Path::new(Link { jitter, ..Link::of_round_trip(5) });
        let luck = &mut Luck::of(7);
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for number in 0..1_000 {
            let now = Duration::from_secs(number);
            let Fate::Arrives(then) = path.take(now, 125, luck) else { panic!() };
            (least, most) = (least.min(then - now), most.max(then - now));
        }
        assert!((at(2_510)..at(4_000)).contains(&least), "{least:?}");
        assert!((at(41_000)..=at(42_510)).contains(&most), "{most:?}");
        let close = Duration::from_secs(2_000);
        let mut last = Duration::ZERO;
        for number in 0..1_000 {
            let now = close + at(number * 20);
            let Fate::Arrives(then) = path.take(now, 125, luck) else { panic!() };
            assert!(then >= last);
            last = then;
        }
    }

    #[test]
    fn a_cut_way_takes_nothing_until_it_is_healed() {
        let mut path = Path::new(Link::of_round_trip(5));
        let luck = &mut Luck::of(1);
        path.cut(true);
        assert_eq!(path.take(at(0), 125, luck), Fate::Cut);
        path.cut(false);
        assert_eq!(path.take(at(0), 125, luck), Fate::Arrives(at(2_510)));
        path.change(Link::of_round_trip(30));
        assert_eq!(path.take(at(10_000), 125, luck), Fate::Arrives(at(25_010)));
    }

    #[test]
    fn one_seed_is_one_fate() {
        let link = Link { loss_ppm: 300_000, jitter: at(40_000), ..Link::of_round_trip(5) };
        let fates = |seed| {
            let (mut path, mut luck) = (Path::new(link), Luck::of(seed));
            (0..50).map(|n| path.take(at(n * 100), 600, &mut luck)).collect::<Vec<_>>()
        };
        assert_eq!(fates(3), fates(3));
        assert_ne!(fates(3), fates(4));
    }
}
