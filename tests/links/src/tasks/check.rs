//! Whether links are as they were set: echoes and a TCP connection over each kind of way.

use std::time::Duration;

use serde_json::json;

use super::{Means, Outcome, TaskError, rounded};
use crate::bench::Bench;
use crate::measure::{Echo, echo, throughput};
use crate::path::Link;
use crate::setting::{SETTINGS, Setting};

/// Measures the ways of every setting, and tells it line by line on stderr.
///
/// # Errors
/// There is no bench, or a socket fails.
pub fn check(means: &Means) -> Result<Outcome, TaskError> {
    let mut outcome = Outcome::default();
    let mut rows = Vec::new();
    for setting in SETTINGS {
        let bench = Bench::start(setting, &["a", "b", "c"], &means.root)?;
        for (from, to) in ways(setting) {
            rows.push(measure(setting, &bench, (from, to), &mut outcome)?);
        }
        let late = bench.lateness();
        let mean = late.sum.as_secs_f64() * 1e6 / bench.counts().delivered.max(1) as f64;
        eprintln!("  router: late by {mean:.0} us on average, {:?} at most", late.most);
        if late.refused > 0 {
            outcome.miss(format!("{}: {} frames refused", setting.name(), late.refused));
        }
    }
    outcome.figure("links", rows);
    Ok(outcome)
}

fn ways(setting: Setting) -> &'static [(&'static str, &'static str)] {
    match setting {
        Setting::Village | Setting::Continent => &[("a", "b")],
        Setting::ThreeContinents => &[("a", "b"), ("b", "c"), ("a", "c")],
        Setting::OneBadPeer => &[("a", "b"), ("a", "c")],
    }
}

/// Enough for a loss of 2 % each way to be told from one of half or twice as much.
const ECHOES: u32 = 1_000;

/// Far enough for jitter to be each echo's own and not its predecessor's: order is kept.
const APART: Duration = Duration::from_millis(5);

/// TCP finds a way's rate within this time.
const BULK: Duration = Duration::from_secs(5);

fn measure(
    setting: Setting,
    bench: &Bench,
    (from, to): (&str, &str),
    outcome: &mut Outcome,
) -> Result<serde_json::Value, TaskError> {
    let failed = |source| TaskError::Measuring { from: from.into(), to: to.into(), source };
    let link = bench.way(from, to);
    let ends = (bench.host(from), bench.host(to));
    let heard = echo(ends.0, ends.1, ECHOES, APART).map_err(failed)?;
    let rate = throughput(ends.0, ends.1, BULK).map_err(failed)?;
    let wanted = link.delay.as_secs_f64() * 2e3;
    let (median, p95) = (heard.median.as_secs_f64() * 1e3, heard.p95.as_secs_f64() * 1e3);
    let (most, loss) = (wanted + link.jitter.as_secs_f64() * 2e3, echoes_lost(link));
    let name = format!("{}, {from}-{to}", setting.name());
    eprintln!(
        "{name}: round trip {wanted:.1} to {most:.1} ms set, {median:.2} ms median and {p95:.2} ms \
         p95 measured; {:.2} % of echoes lost, {:.2} % measured; rate {:.0} Mbit/s set, {:.1} \
         Mbit/s of TCP payload measured",
        loss * 100.0,
        heard.lost * 100.0,
        link.rate as f64 / 1e6,
        rate / 1e6,
    );
    for miss in misses(link, heard, rate) {
        outcome.miss(format!("{name}: {miss}"));
    }
    Ok(json!({
        "setting": setting.name(),
        "from": from,
        "to": to,
        "wanted": {
            "round_trip_ms": wanted,
            "with_jitter_ms": most,
            "echoes_lost": rounded(loss),
            "mbit_per_second": link.rate as f64 / 1e6,
        },
        "measured": {
            "round_trip_ms": rounded(median),
            "round_trip_p95_ms": rounded(p95),
            "echoes_lost": rounded(heard.lost),
            "mbit_per_second": rounded(rate / 1e6),
        },
    }))
}

/// Either way may lose it.
fn echoes_lost(link: Link) -> f64 {
    1.0 - (1.0 - f64::from(link.loss_ppm) / 1e6).powi(2)
}

/// What a busy machine of two cores may add to a round trip.
const SLACK: Duration = Duration::from_millis(3);

fn misses(link: Link, heard: Echo, rate: f64) -> Vec<String> {
    let (least, jitter) = (link.delay * 2, link.jitter * 2);
    let mut misses = Vec::new();
    // Half of the jitter is the mean of the even draw, and what waits for its predecessor adds to it.
    if heard.median < least + jitter / 4 || heard.median > least + jitter + SLACK {
        misses.push(format!("a round trip takes {:?}", heard.median));
    }
    let (lost, wanted) = (heard.lost, echoes_lost(link));
    if lost > wanted * 1.5 + 0.005 || lost < wanted * 0.5 {
        misses.push(format!("{:.1} % of echoes are lost", lost * 100.0));
    }
    // What loses packets is slow by TCP's own judgement.
    let share = rate / link.rate as f64;
    if share > 1.0 || link.loss_ppm == 0 && share < 0.5 {
        misses.push(format!("TCP brings {:.1} Mbit/s over", rate / 1e6));
    }
    misses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_is_not_as_set_is_told() {
        let link = Link { loss_ppm: 20_000, ..Link::of_round_trip(30) };
        let good = Echo {
            median: Duration::from_micros(30_400),
            p95: Duration::from_micros(32_000),
            lost: 0.0396,
        };
        assert!(misses(link, good, 40e6).is_empty());
        let late = Echo { median: Duration::from_millis(60), ..good };
        let early = Echo { median: Duration::from_millis(15), ..good };
        let lossy = Echo { lost: 0.08, ..good };
        let whole = Echo { lost: 0.0, ..good };
        for echo in [late, early, lossy, whole] {
            assert_eq!(misses(link, echo, 40e6).len(), 1, "{echo:?}");
        }
        assert_eq!(misses(link, good, 120e6).len(), 1);
        assert_eq!(misses(Link::of_round_trip(30), Echo { lost: 0.0, ..good }, 40e6).len(), 1);
    }
}
