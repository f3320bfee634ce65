//! What a worker measures, for whoever asks.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What the thread measures.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Of one decoded position, smoothed; 0 before the first.
    pub(super) decode_micros: AtomicU32,
    /// Positions per second, smoothed; 0 before the first.
    pub(super) prefill_rate: AtomicU32,
    /// Of KV.
    pub(super) free_positions: AtomicU32,
    /// Positions, for all sessions.
    pub(super) computed: AtomicU64,
    /// The weights are not what was loaded.
    pub(super) spoilt: AtomicBool,
}

/// An exponential average with a weight of one eighth; the first value counts whole.
pub(super) fn smooth(gauge: &AtomicU32, value: u64) {
    let old = u64::from(gauge.load(Ordering::Relaxed));
    let value = value.min(u32::MAX.into());
    let new = if old == 0 { value } else { (old * 7 + value) / 8 };
    gauge.store(u32::try_from(new).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_figures_are_not_rounded_away() {
        let gauge = AtomicU32::new(0);
        for _ in 0..50 {
            smooth(&gauge, 15);
        }
        assert_eq!(gauge.into_inner(), 15);
    }
}
