//! How far hosts are from each other, under names. Pure.

use std::time::Duration;

use crate::path::Link;

/// A named arrangement of hosts. A host's place is the first letter of its name: `a`, `b` and `c`
/// are three of them, `a2` stands where `a` does, and all others stand at `a`'s place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// All within 5 ms of each other (round trip, as all of these).
    Village,
    /// All within 30 ms.
    Continent,
    /// 30 ms from `a` to `b`, 80 ms from `b` to `c`, 150 ms from `c` to `a`; 5 ms within a place.
    ThreeContinents,
    /// A village in which `b` hears and is heard with 2 % loss and up to 40 ms more, each way.
    OneBadPeer,
}

/// All of them.
pub const SETTINGS: [Setting; 4] =
    [Setting::Village, Setting::Continent, Setting::ThreeContinents, Setting::OneBadPeer];

impl Setting {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Village => "village",
            Self::Continent => "continent",
            Self::ThreeContinents => "three continents",
            Self::OneBadPeer => "one bad peer",
        }
    }

    /// The way from one host to another.
    #[must_use]
    pub fn way(self, from: &str, to: &str) -> Link {
        let (from, to) = (place(from), place(to));
        match self {
            Self::Village => Link::of_round_trip(5),
            Self::Continent => Link::of_round_trip(30),
            Self::ThreeContinents => Link::of_round_trip(match (from.min(to), from.max(to)) {
                ('a', 'b') => 30,
                ('b', 'c') => 80,
                ('a', 'c') => 150,
                _ => 5,
            }),
            Self::OneBadPeer if from == 'b' || to == 'b' => Link {
                jitter: Duration::from_millis(40),
                loss_ppm: 20_000,
                ..Link::of_round_trip(5)
            },
            Self::OneBadPeer => Link::of_round_trip(5),
        }
    }

    /// How long the way round these hosts takes, the last one back to the first.
    #[must_use]
    pub fn lap(self, hosts: &[&str]) -> Duration {
        let next = hosts.iter().cycle().skip(1);
        hosts.iter().zip(next).map(|(from, to)| self.way(from, to).delay).sum()
    }
}

fn place(host: &str) -> char {
    host.chars().next().filter(|letter| ('a'..='c').contains(letter)).unwrap_or('a')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_as_long_as_their_names_say() {
        let round = |setting: Setting, a, b| {
            (setting.way(a, b).delay + setting.way(b, a).delay).as_millis()
        };
        assert_eq!(round(Setting::Village, "a", "c"), 5);
        assert_eq!(round(Setting::Continent, "b", "door"), 30);
        let three = |a, b| round(Setting::ThreeContinents, a, b);
        assert_eq!((three("a", "b"), three("b", "c"), three("c", "a")), (30, 80, 150));
        assert_eq!((three("door", "c2"), three("a", "a2"), three("door", "a")), (150, 5, 5));
    }

    #[test]
    fn a_lap_is_half_of_all_round_trips() {
        let lap = Setting::ThreeContinents.lap(&["a", "b", "c"]);
        assert_eq!(lap, Duration::from_millis((30 + 80 + 150) / 2));
        assert_eq!(Setting::Village.lap(&["a", "b", "c"]), Duration::from_micros(7_500));
    }

    #[test]
    fn the_bad_peer_is_bad_both_ways_and_nobody_else_is() {
        let loss = |from, to| Setting::OneBadPeer.way(from, to).loss_ppm;
        assert_eq!((loss("a", "b"), loss("b", "door"), loss("a", "c")), (20_000, 20_000, 0));
    }
}
