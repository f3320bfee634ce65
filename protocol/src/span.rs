//! A span: consecutive blocks of a model, with its embedding at the front and its head at the end.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Blocks `first..end` (half-open), plus `embed` before block 0 and `head` after the last.
///
/// People and JSON see it inclusive: `0-9`. It cannot be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Span {
    first: u32,
    end: u32,
    /// Turns token ids into hidden states.
    pub embed: bool,
    /// Turns hidden states into logits, and samples.
    pub head: bool,
}

/// Why a span cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// Not of the form `A-B` or `A`.
    #[error("`{0}` is not a span; write it as FIRST-LAST, for example 0-9")]
    Syntax(String),
    /// Ends before it begins.
    #[error("span {first}-{last} ends before it begins; write it as {last}-{first}")]
    Reversed {
        /// First block, as written.
        first: u32,
        /// Last block, as written.
        last: u32,
    },
    /// Beyond the model, or empty.
    #[error("span {first}-{last} does not fit a model with blocks 0-{}", blocks.saturating_sub(1))]
    Range {
        /// First block, as written.
        first: u32,
        /// Last block, as written.
        last: u32,
        /// The number of blocks of the model.
        blocks: u32,
    },
}

impl Span {
    /// The whole model of `blocks` blocks.
    ///
    /// # Errors
    /// A model without blocks has no span.
    pub fn whole(blocks: u32) -> Result<Self, SpanError> {
        Self::new(0..blocks, blocks)
    }

    /// Blocks `range` of a model of `blocks`; `embed` comes with the first, `head` with the last.
    ///
    /// # Errors
    /// An empty range, or one that leaves the model.
    pub fn new(range: Range<u32>, blocks: u32) -> Result<Self, SpanError> {
        if range.start >= range.end || range.end > blocks {
            let last = range.end.saturating_sub(1);
            return Err(SpanError::Range { first: range.start, last, blocks });
        }
        Ok(Self {
            first: range.start,
            end: range.end,
            embed: range.start == 0,
            head: range.end == blocks,
        })
    }

    /// Reads `A-B` (inclusive) or `A` against a model of `blocks`.
    ///
    /// # Errors
    /// See [`SpanError`].
    pub fn parse_inclusive(text: &str, blocks: u32) -> Result<Self, SpanError> {
        let syntax = || SpanError::Syntax(text.chars().take(40).collect());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first: u32 = first.parse().map_err(|_| syntax())?;
        let last: u32 = last.parse().map_err(|_| syntax())?;
        let end = last.checked_add(1).ok_or_else(syntax)?;
        if last < first {
            return Err(SpanError::Reversed { first, last });
        }
        Self::new(first..end, blocks).map_err(|_| SpanError::Range { first, last, blocks })
    }

    /// The blocks, half-open.
    #[must_use]
    pub fn blocks(&self) -> Range<u32> {
        self.first..self.end
    }

    /// First and last block, inclusive, as JSON shows them.
    #[must_use]
    pub fn inclusive(&self) -> [u32; 2] {
        [self.first, self.end - 1]
    }

    /// Whether everything of `other` lies in this span.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.first <= other.first
            && other.end <= self.end
            && (self.embed || !other.embed)
            && (self.head || !other.head)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.end - 1)
    }
}

/// The wire form, before it is known to be a span.
#[derive(Serialize, Deserialize)]
struct Raw {
    first: u32,
    end: u32,
    embed: bool,
    head: bool,
}

impl From<Span> for Raw {
    fn from(span: Span) -> Self {
        Self { first: span.first, end: span.end, embed: span.embed, head: span.head }
    }
}

impl TryFrom<Raw> for Span {
    type Error = SpanError;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        // Only the model's manifest knows its number of blocks; here `end` bounds the span.
        if raw.first >= raw.end || (raw.embed && raw.first != 0) {
            let last = raw.end.saturating_sub(1);
            return Err(SpanError::Range { first: raw.first, last, blocks: raw.end });
        }
        Ok(Self { first: raw.first, end: raw.end, embed: raw.embed, head: raw.head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_spans_inclusive() {
        let span = Span::parse_inclusive("20-29", 30).unwrap();
        assert_eq!((span.blocks(), span.embed, span.head), (20..30, false, true));
        assert_eq!(span.to_string(), "20-29");
        assert!(Span::whole(30).unwrap().contains(&span));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in ["", "-", "5-", "9-3", "0-30", "a-b", "-1-3", "4294967295", "0-4294967295"] {
            assert!(Span::parse_inclusive(text, 30).is_err(), "{text}");
        }
    }
}
