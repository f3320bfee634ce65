//! A model's map: who hosts which blocks, how well, and how many hosts each block has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use taimatsu_protocol::{PeerId, UnixSeconds};

use crate::driver::judge::{Coverage, SpanState};
use crate::driver::serving::Hosted;

/// What a map shows beside what hosts announce.
pub(crate) struct View<'a> {
    /// This node.
    pub(crate) me: PeerId,
    /// The model's name.
    pub(crate) name: String,
    pub(crate) now: UnixSeconds,
    /// This node's own round trips.
    pub(crate) rtts: BTreeMap<PeerId, Duration>,
    /// The spans of this node, which know their own figures best.
    pub(crate) hosted: &'a [Hosted],
    /// Peers that the owner trusts.
    pub(crate) trusted: &'a [PeerId],
}

impl View<'_> {
    /// The map as JSON.
    pub(crate) fn map(&self, coverage: &Coverage) -> Value {
        let replicas = replicas(coverage);
        let least = replicas.iter().min().copied().unwrap_or(0);
        let mut missing: Vec<[usize; 2]> = Vec::new();
        for (block, _) in replicas.iter().enumerate().filter(|(_, hosts)| **hosts == 0) {
            match missing.last_mut() {
                Some([_, last]) if *last + 1 == block => *last = block,
                _ => missing.push([block, block]),
            }
        }
        let spans: Vec<Value> = coverage.spans.iter().map(|s| self.span(coverage, s)).collect();
        json!({
            "schema_version": 1,
            "model": self.name,
            "id": coverage.model.to_string(),
            "blocks": coverage.blocks,
            "spans": spans,
            "replicas": replicas,
            "min_replicas": least,
            "missing": missing,
        })
    }

    fn span(&self, coverage: &Coverage, said: &SpanState) -> Value {
        let mut state = said.clone();
        let mine = said.host == self.me;
        let own =
            |hosted: &&Hosted| hosted.model == coverage.model && hosted.worker.span() == said.span;
        if let Some(own) = self.hosted.iter().find(own).filter(|_| mine) {
            state.decode_micros = own.worker.decode_micros();
            state.prefill_rate = own.worker.prefill_rate();
            state.free_positions = own.worker.free_positions();
        }
        let per_second = match state.decode_micros {
            0 => None,
            micros => Some(1_000_000.0 / f64::from(micros)),
        };
        json!({
            "peer": state.host.to_string(),
            "me": mine,
            "blocks": state.span.inclusive(),
            "rtt_ms": self.rtts.get(&state.host).map(|rtt| rtt.as_secs_f64() * 1000.0),
            "tokens_per_second": per_second,
            "prefill_per_second": state.prefill_rate,
            "sessions": state.sessions,
            "free_positions": state.free_positions,
            "expires_in_seconds": state.expires.map(|at| at.0.saturating_sub(self.now.0)),
            "suspended": state.suspended,
            "trusted": mine || self.trusted.contains(&state.host),
        })
    }
}

/// How many hosts each block has; one that is passed over does not count.
fn replicas(coverage: &Coverage) -> Vec<usize> {
    let hosts = |block: u32| {
        let spans = coverage.spans.iter().filter(|said| !said.suspended);
        let with = spans.filter(|said| said.span.blocks().contains(&block));
        with.map(|said| said.host).collect::<BTreeSet<_>>().len()
    };
    (0..coverage.blocks).map(hosts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_protocol::{ModelId, Span};

    fn said(seed: u8, blocks: &str, suspended: bool) -> SpanState {
        SpanState {
            host: PeerId::from_public_key([seed; 32]),
            span: Span::parse_inclusive(blocks, 6).unwrap(),
            decode_micros: 2_000,
            prefill_rate: 0,
            sessions: 1,
            free_positions: 64,
            expires: Some(UnixSeconds(160)),
            suspended,
        }
    }

    #[test]
    fn blocks_are_counted_by_hosts_that_count() {
        let spans = vec![said(1, "0-1", false), said(1, "1-3", false), said(2, "1-2", false)];
        let spans = [spans, vec![said(3, "4-5", true)]].concat();
        let model = ModelId::of(b"m");
        let coverage = Coverage { model, blocks: 6, spans, missing: vec![] };
        let trusted = [PeerId::from_public_key([2; 32])];
        let view = View {
            me: PeerId::from_public_key([9; 32]),
            name: "m".into(),
            now: UnixSeconds(100),
            rtts: BTreeMap::from([(trusted[0], Duration::from_millis(7))]),
            hosted: &[],
            trusted: &trusted,
        };
        let map = view.map(&coverage);
        assert_eq!(map["replicas"], json!([1, 2, 2, 1, 0, 0]));
        assert_eq!((&map["min_replicas"], &map["missing"]), (&json!(0), &json!([[4, 5]])));
        let second = &map["spans"][2];
        assert_eq!((&second["trusted"], &second["rtt_ms"]), (&json!(true), &json!(7.0)));
        assert_eq!(second["tokens_per_second"], 500.0);
        assert_eq!(second["expires_in_seconds"], 60);
        assert_eq!(map["spans"][3]["suspended"], true);
    }
}
