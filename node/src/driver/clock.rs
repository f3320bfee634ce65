//! The one place where the node reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use taimatsu_protocol::{Moment, UnixSeconds};

/// A monotonic clock with an origin, and the wall clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The moment that it is.
    pub(crate) fn now(&self) -> Moment {
        Moment::default() + self.origin.elapsed()
    }

    /// The wall clock. A clock before 1970 counts as 1970: everything signed has then expired.
    pub(crate) fn wall() -> UnixSeconds {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        UnixSeconds(since.as_secs())
    }

    /// Sleeps until `moment`; for ever where there is none.
    pub(crate) async fn sleep_until(&self, moment: Option<Moment>) {
        match moment {
            Some(moment) => {
                let at = self.origin + Duration::from_micros(moment.as_micros());
                tokio::time::sleep_until(at.into()).await;
            }
            None => std::future::pending().await,
        }
    }
}
