//! How much of a prompt goes along with others' steps: what their streams hardly feel.

/// Rows of a prompt beside streams, at first.
const FIRST: u32 = 8;

/// At most: more would be a pass of its own.
const MOST: u32 = 64;

/// Rows that are computed together.
const TOGETHER: u32 = 4;

/// What a pass with rows of a prompt may take, in percent of one without.
const BEARABLE: u64 = 135;

/// Measured passes, and what follows from them.
#[derive(Debug)]
pub(super) struct Pace {
    rows: u32,
    /// Microseconds of a pass of streams alone, smoothed; 0 before the first.
    alone: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: FIRST, alone: 0 }
    }
}

impl Pace {
    /// Rows of a prompt that go along with so many streams now: where it can be, as many as fill the
    /// pass, which computes eight rows as fast as seven.
    pub(super) const fn rows(&self, streams: u32) -> u32 {
        let all = (streams + self.rows) / TOGETHER * TOGETHER;
        if all > streams { all - streams } else { self.rows }
    }

    /// A pass of streams, with so many rows of a prompt, took so long.
    pub(super) fn passed(&mut self, rows: u32, micros: u64) {
        if rows == 0 {
            self.alone = if self.alone == 0 { micros } else { (7 * self.alone + micros) / 8 };
        } else if self.alone == 0 {
            // There is nothing to compare it with yet.
        } else if 100 * micros > BEARABLE * self.alone {
            self.rows = (rows * 3 / 4).max(1);
        } else if rows + TOGETHER > self.rows {
            self.rows = (self.rows + 1).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams take 3 ms, and a row of a prompt what it says.
    fn settled(row: impl Fn(u32) -> u64) -> (u32, u64) {
        let mut pace = Pace::default();
        pace.passed(0, 3_000);
        let mut longest = 0;
        for pass in 0..400 {
            let rows = pace.rows(4);
            let micros = 3_000 + u64::from(rows) * row(pass);
            pace.passed(rows, micros);
            if pass > 50 {
                longest = longest.max(micros);
            }
        }
        (pace.rows(4), longest)
    }

    #[test]
    fn streams_hardly_feel_a_prompt_whatever_its_rows_cost() {
        let (rows, longest) = settled(|_| 100);
        assert!((8..=12).contains(&rows) && longest <= 4_200, "{rows} rows, {longest} us");
        let (rows, longest) = settled(|_| 900);
        assert!(rows <= 2 && longest <= 4_900, "{rows} rows, {longest} us");
        let (rows, _) = settled(|_| 1);
        assert!(rows + TOGETHER > MOST, "{rows} rows");
        // The further a prompt is, the more a row looks back at.
        let (rows, longest) = settled(|pass| 50 + u64::from(pass));
        assert!((2..=4).contains(&rows) && longest <= 5_200, "{rows} rows, {longest} us");
    }

    #[test]
    fn a_shorter_rest_of_a_prompt_does_not_raise_the_pace() {
        let mut pace = Pace::default();
        pace.passed(0, 3_000);
        pace.passed(2, 3_100);
        assert_eq!((pace.rows(4), pace.rows(3), pace.rows(0)), (8, 5, 8));
    }
}
