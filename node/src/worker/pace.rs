//! When a pass begins, and how much of a prompt goes between two of them: what their streams hardly
//! feel.

use std::time::Duration;

/// Rows of a prompt that are taken through the blocks together between streams' passes, at first.
const FIRST: u32 = 16;

/// At most, where streams are about.
const MOST: u32 = 128;

/// Rows that are computed as fast as fewer.
const TOGETHER: u32 = 4;

/// What a prompt's blocks between two passes may take, in percent of a pass.
const BEARABLE: u64 = 30;

/// Blocks that shall fit into that, so that one is not too long when it begins late.
const BLOCKS: u64 = 2;

/// How long a pass waits for streams of the last one: what their tokens take through the program.
const GATHER: Duration = Duration::from_micros(1200);

/// How long after a pass a stream's next step may come: a lap on slow links.
const LIVELY: Duration = Duration::from_millis(400);

/// What the worker's thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A pass of the streams that are here.
    Streams,
    /// One block of a prompt.
    Block,
    /// Wait a moment for streams of the last pass.
    Wait,
}

/// What waits for the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Steps of streams.
    pub(super) streams: u32,
    /// Whether there is a piece of a prompt.
    pub(super) prompt: bool,
    /// Since the last pass of streams; `None` where there was none.
    pub(super) since: Option<Duration>,
}

/// Measured passes and blocks, and what follows from them. Times are microseconds.
#[derive(Debug)]
pub(super) struct Pace {
    /// Of a prompt, through a block together.
    rows: u32,
    /// Streams of the last pass.
    expected: u32,
    /// Of a pass, smoothed; 0 before the first.
    pass: u64,
    /// Of a block of a prompt, the last one; 0 before the first.
    block: u64,
    /// What a prompt may take now.
    budget: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: FIRST, expected: 0, pass: 0, block: 0, budget: 0 }
    }
}

impl Pace {
    /// A prompt goes as far as its budget; beyond it where no stream would wait. Streams that are
    /// here go as soon as those of the last pass are all back, or were waited for.
    pub(super) fn next(&self, waiting: Waiting) -> Next {
        let Waiting { streams, prompt, since } = waiting;
        let gathered = streams >= self.expected || since.is_none_or(|since| since >= GATHER);
        if prompt && (streams == 0 || (self.pass > 0 && self.block <= self.budget)) {
            Next::Block
        } else if streams > 0 && gathered {
            Next::Streams
        } else {
            Next::Wait
        }
    }

    /// Rows of a prompt that go through the blocks together: all, where no stream was of late.
    pub(super) fn rows(&self, since: Option<Duration>, left: u32) -> u32 {
        let lively = since.is_some_and(|since| since < LIVELY);
        if lively { left.min(self.rows) } else { left }
    }

    /// A pass of streams took so long.
    pub(super) fn passed(&mut self, streams: u32, micros: u64) {
        self.expected = streams;
        self.pass = if self.pass == 0 { micros } else { (7 * self.pass + micros) / 8 };
        // Where a block takes longer than that, it goes every few passes.
        self.budget = (self.budget + self.bearable()).min(self.bearable().max(self.block));
    }

    /// A block of a prompt's `rows` took so long.
    pub(super) fn blocked(&mut self, rows: u32, micros: u64) {
        self.block = micros;
        self.budget = self.budget.saturating_sub(micros);
        if self.pass > 0 && rows >= self.rows {
            let fit = self.bearable() / BLOCKS * u64::from(self.rows) / micros.max(1);
            let fit = u32::try_from(fit).unwrap_or(MOST).clamp(self.rows / 2, self.rows + TOGETHER);
            self.rows = (fit / TOGETHER * TOGETHER).clamp(TOGETHER, MOST);
        }
    }

    const fn bearable(&self) -> u64 {
        self.pass * BEARABLE / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four streams whose passes take 3 ms and whose next steps come so much later, and a prompt
    /// whose blocks take what `row` says for each of its rows: the last rows, and what the streams
    /// waited for at most, in microseconds, once it has settled.
    fn settled(back: u64, row: impl Fn(u32) -> u64) -> (u32, u64) {
        let mut pace = Pace::default();
        let mut longest = 0;
        for pass in 0..400 {
            pace.passed(4, 3_000);
            let mut after = 0;
            loop {
                let since = Some(Duration::from_micros(after));
                let streams = if after >= back { 4 } else { 0 };
                match pace.next(Waiting { streams, prompt: true, since }) {
                    Next::Streams => break,
                    Next::Wait => after += 20,
                    Next::Block => {
                        let rows = pace.rows(since, 1_000);
                        let micros = 50 + u64::from(rows) * row(pass);
                        pace.blocked(rows, micros);
                        after += micros;
                    }
                }
            }
            if pass > 50 {
                longest = longest.max(after.saturating_sub(back));
            }
        }
        (pace.rows, longest)
    }

    #[test]
    fn streams_hardly_feel_a_prompt_whatever_its_rows_cost() {
        for back in [0, 300, 1_000, 5_000] {
            let (rows, longest) = settled(back, |_| 20);
            assert!((12..=24).contains(&rows) && longest <= 900, "{rows} rows, {longest} us");
            let (rows, longest) = settled(back, |_| 200);
            assert!(rows == TOGETHER && longest <= 900, "{rows} rows, {longest} us");
            let (rows, _) = settled(back, |_| 1);
            assert_eq!(rows, MOST);
            // The further a prompt is, the more a row looks back at.
            let (rows, longest) = settled(back, |pass| 5 + u64::from(pass) / 8);
            assert!((4..=12).contains(&rows) && longest <= 900, "{rows} rows, {longest} us");
        }
    }

    #[test]
    fn streams_are_waited_for_and_not_for_ever() {
        let mut pace = Pace::default();
        let at = |streams, micros| Waiting {
            streams,
            prompt: false,
            since: Some(Duration::from_micros(micros)),
        };
        assert_eq!(pace.next(Waiting { streams: 1, prompt: true, since: None }), Next::Streams);
        pace.passed(3, 3_000);
        assert_eq!(pace.next(at(2, 100)), Next::Wait);
        assert_eq!(pace.next(at(3, 100)), Next::Streams);
        assert_eq!(pace.next(at(2, 1_200)), Next::Streams);
    }

    #[test]
    fn a_prompt_goes_whole_where_no_stream_is() {
        let mut pace = Pace::default();
        assert_eq!(pace.rows(None, 512), 512);
        assert_eq!(pace.rows(Some(Duration::from_millis(10)), 512), FIRST);
        assert_eq!(pace.rows(Some(Duration::from_millis(400)), 512), 512);
        // The short rest of a prompt says nothing of longer pieces.
        pace.passed(1, 3_000);
        pace.blocked(2, 10);
        assert_eq!(pace.rows(Some(Duration::ZERO), 512), FIRST);
    }
}
