//! What this node has itself seen of hosts' speed: it corrects what they announce.

use std::collections::BTreeMap;
use std::time::Duration;

use taimatsu_protocol::{ModelId, Moment, PeerId, Span};

use crate::policy::{MAX_REMEMBERED, OBSERVED_LIFE};

/// One host's part in an answer that this node has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopSpeed {
    /// Who.
    pub host: PeerId,
    /// What it computed.
    pub span: Span,
    /// Microseconds of one position in decode, as the host itself reported them.
    pub decode_micros: u64,
}

/// Per host and model the last measurement. Bounded; what ends first goes.
#[derive(Debug, Default)]
pub(crate) struct Observations(BTreeMap<(PeerId, ModelId), Observed>);

#[derive(Debug, Clone, Copy)]
struct Observed {
    micros: u64,
    blocks: u64,
    until: Moment,
}

impl Observations {
    /// Takes in what the hops of one answer reported, and how long a lap took by this node's own
    /// clock. What their figures and `links` (the lanes' share of a lap) do not explain is charged
    /// to all alike: the honest ones are soon seen in other company.
    pub(crate) fn note(
        &mut self,
        now: Moment,
        model: ModelId,
        hops: &[HopSpeed],
        lap: Option<Duration>,
        links: u64,
    ) {
        let reported = hops.iter().fold(links, |sum, hop| sum.saturating_add(hop.decode_micros));
        let lap = lap.map_or(0, |lap| u64::try_from(lap.as_micros()).unwrap_or(u64::MAX));
        let share = lap.saturating_sub(reported) / (hops.len() as u64).max(1);
        for hop in hops {
            let span = hop.span.blocks();
            let observed = Observed {
                micros: hop.decode_micros.saturating_add(share),
                blocks: u64::from(span.end - span.start).max(1),
                until: now + OBSERVED_LIFE,
            };
            self.0.insert((hop.host, model), observed);
        }
        while self.0.len() > MAX_REMEMBERED {
            let first = self.0.iter().min_by_key(|(_, observed)| observed.until);
            let Some(key) = first.map(|(key, _)| *key) else { return };
            self.0.remove(&key);
        }
    }

    /// Microseconds that `blocks` blocks of this model take on this host, if that was seen.
    pub(crate) fn micros(&self, host: PeerId, model: ModelId, blocks: u64) -> Option<u64> {
        let observed = self.0.get(&(host, model))?;
        Some(observed.micros.saturating_mul(blocks) / observed.blocks)
    }

    pub(crate) fn expire(&mut self, now: Moment) {
        self.0.retain(|_, observed| observed.until > now);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(host: u32, span: &str, decode_micros: u64) -> HopSpeed {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&host.to_le_bytes());
        let span = Span::parse_inclusive(span, 30).unwrap();
        HopSpeed { host: PeerId::from_public_key(key), span, decode_micros }
    }

    #[test]
    fn what_no_report_explains_is_everybodys() {
        let (model, now) = (ModelId::of(b"m"), Moment::default());
        let (liar, honest) = (speed(1, "0-9", 1), speed(2, "10-29", 20_000));
        let mut seen = Observations::default();
        seen.note(now, model, &[liar], Some(Duration::from_millis(90)), 0);
        assert_eq!(seen.micros(liar.host, model, 10), Some(90_000));
        assert_eq!(seen.micros(liar.host, model, 5), Some(45_000));
        seen.note(now, model, &[liar, honest], Some(Duration::from_micros(60_001)), 20_000);
        assert_eq!(seen.micros(liar.host, model, 10), Some(10_001));
        assert_eq!(seen.micros(honest.host, model, 20), Some(30_000));
        seen.note(now, model, &[honest], None, 0);
        assert_eq!(seen.micros(honest.host, model, 20), Some(20_000));
        seen.expire(now + OBSERVED_LIFE);
        assert_eq!(seen.micros(liar.host, model, 10), None);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let mut seen = Observations::default();
        for host in 0..MAX_REMEMBERED as u32 + 9 {
            let now = Moment::from_micros(u64::from(host));
            seen.note(now, ModelId::of(b"m"), &[speed(host, "0-9", 1)], None, 0);
        }
        assert_eq!(seen.len(), MAX_REMEMBERED);
    }
}
