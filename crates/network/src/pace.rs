//! The owner's limit on uploads: one bucket for all that a node writes to others in frames.
//!
//! Whoever has something to write takes its bytes out of the bucket first, a piece at a time and in
//! the order of asking, and waits until what was taken before is paid for. So nobody is starved,
//! and a file for one peer does not hold up the frames for another for longer than a piece takes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{AsyncWrite, AsyncWriteExt};

/// A bucket that is filled at a rate. Pure: time comes in, waits go out.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// When all that was taken is paid for.
    paid: Duration,
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), paid: Duration::ZERO }
    }

    /// Takes bytes; how long it is until what was taken before them is paid for.
    fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let start = self.paid.max(now.saturating_sub(BURST));
        let price = u128::from(bytes) * 1_000_000_000 / u128::from(self.per_second);
        let price = Duration::from_nanos(u64::try_from(price).unwrap_or(u64::MAX));
        self.paid = start.saturating_add(price);
        start.saturating_sub(now)
    }
}

/// The limit, shared by all writers of a node.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    bucket: Option<Mutex<Bucket>>,
    written: AtomicU64,
    waits: AtomicU64,
}

impl Pace {
    /// At most so many bytes a second; none: as they come.
    pub(crate) fn new(per_second: Option<u64>) -> Self {
        Self(Arc::new(Shared {
            began: Instant::now(),
            bucket: per_second.map(|rate| Mutex::new(Bucket::new(rate))),
            written: AtomicU64::new(0),
            waits: AtomicU64::new(0),
        }))
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// How often something waited.
    pub(crate) fn waits(&self) -> u64 {
        self.0.waits.load(Ordering::Relaxed)
    }

    /// Writes bytes as fast as the owner allows. What is small is counted and does not wait: a
    /// heartbeat behind a tensor would look like a death.
    pub(crate) async fn write<W>(&self, io: &mut W, bytes: &[u8]) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        // Without a limit nothing is paid in pieces: each would be a frame of its own below.
        let piece = if self.0.bucket.is_some() { PIECE } else { bytes.len().max(1) };
        for piece in bytes.chunks(piece) {
            let wait = self.take(piece.len() as u64);
            if bytes.len() > SMALL && !wait.is_zero() {
                self.0.waits.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(wait).await;
            }
            io.write_all(piece).await?;
        }
        Ok(())
    }

    fn take(&self, bytes: u64) -> Duration {
        self.0.written.fetch_add(bytes, Ordering::Relaxed);
        let Some(bucket) = &self.0.bucket else { return Duration::ZERO };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.0.began.elapsed(), bytes)
    }
}

/// What a rest saves up: writers that were idle may be ahead of the rate by this much.
const BURST: Duration = Duration::from_millis(250);

/// Bytes that are written at a time: at the lowest rate (16 KiB a second), a quarter of a second.
const PIECE: usize = 4 << 10;

/// Bytes of what never waits: heartbeats, acknowledgements, tokens.
const SMALL: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rest_saves_up_a_burst_and_no_more() {
        let mut bucket = Bucket::new(1_000);
        let hour = Duration::from_secs(3_600);
        assert_eq!(bucket.take(hour, 250), Duration::ZERO);
        assert_eq!(bucket.take(hour, 100), Duration::ZERO, "all before it was saved up");
        assert_eq!(bucket.take(hour, 1), Duration::from_millis(100));
        assert_eq!(bucket.take(hour + Duration::from_secs(1), 1), Duration::ZERO);
    }

    #[test]
    fn waiting_is_in_the_order_of_asking() {
        let mut bucket = Bucket::new(4_096);
        let now = Duration::from_secs(9);
        let waits: Vec<_> = (0..6).map(|_| bucket.take(now, 4_096)).collect();
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert_eq!(waits[5], Duration::from_millis(4_750));
    }

    proptest! {
        /// A writer that does as it is told never gets more through than the rate, a burst and the
        /// piece at hand.
        #[test]
        fn the_rate_holds(
            rate in 16_384_u64..1 << 30,
            takes in proptest::collection::vec((0_u64..4_096, 0_u64..500), 1..200),
        ) {
            let (mut bucket, mut now, mut written) = (Bucket::new(rate), Duration::from_secs(1), 0);
            let began = now;
            for (bytes, pause) in takes {
                now += bucket.take(now, bytes) + Duration::from_millis(pause);
                written += bytes;
                let time = (now - began + BURST).as_nanos();
                let most = time * u128::from(rate) / 1_000_000_000 + 4_096 + 200;
                prop_assert!(u128::from(written) <= most, "{written} > {most}");
            }
        }

        #[test]
        fn no_figures_break_it(rate in any::<u64>(), bytes in any::<u64>(), at in any::<u64>()) {
            let mut bucket = Bucket::new(rate);
            for _ in 0..3 {
                bucket.take(Duration::from_nanos(at), bytes);
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_is_whole_and_counted() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
        for pace in [Pace::new(None), Pace::new(Some(1 << 20))] {
            let mut io = futures::io::Cursor::new(Vec::new());
            pace.write(&mut io, &bytes).await.unwrap();
            pace.write(&mut io, b"small").await.unwrap();
            assert_eq!(pace.written(), 10_005);
            assert_eq!(io.into_inner(), [&bytes[..], b"small"].concat());
        }
    }
}
