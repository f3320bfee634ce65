//! A span's speed before its first guest: measured, so that a host has something true to announce.

use std::time::{Duration, Instant};

use taimatsu_executor::{ExecutorError, Input, LayerExecutor, Want, Work};

/// Positions of a step as in decode, and of one as in prefill. The first brings the weights into
/// memory and is not counted.
const STEPS: [usize; 4] = [1, 1, 1, PROMPT];
const PROMPT: usize = 16;

/// What a rehearsal took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Speed {
    /// Microseconds of one decoded position.
    pub(super) decode_micros: u64,
    /// Prefilled positions per second.
    pub(super) prefill_rate: u64,
}

/// Runs a few positions and forgets them.
///
/// # Errors
/// No KV for so few positions, or an executor that fails.
pub(super) fn rehearse(executor: &mut dyn LayerExecutor) -> Result<Speed, ExecutorError> {
    let span = executor.span();
    let kv = executor.open(STEPS.iter().sum::<usize>() as u32, span)?;
    let want = if span.head { Want::LastLogits } else { Want::Hidden };
    let hidden = vec![0.0; PROMPT * executor.shape().hidden as usize];
    let width = executor.shape().hidden as usize;
    let mut start = 0;
    let mut times = [Duration::ZERO; STEPS.len()];
    let mut outcomes = Vec::with_capacity(STEPS.len());
    for (count, time) in STEPS.into_iter().zip(&mut times) {
        let input = if span.embed {
            Input::Tokens(&[0; PROMPT][..count])
        } else {
            Input::Hidden(&hidden[..count * width])
        };
        let began = Instant::now();
        outcomes.extend(executor.step(&[Work { kv, start, input, want }]));
        *time = began.elapsed();
        start += count as u32;
    }
    executor.close(kv);
    outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))?;
    Ok(Speed {
        decode_micros: (micros(times[1]) + micros(times[2])) / 2,
        prefill_rate: PROMPT as u64 * 1_000_000 / micros(times[3]),
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).clamp(1, u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use taimatsu_executor::{EchoExecutor, ModelShape};
    use taimatsu_protocol::Span;

    const SHAPE: ModelShape = ModelShape { blocks: 4, hidden: 16, vocab: 64, context_length: 512 };

    #[test]
    fn every_kind_of_span_has_a_speed_and_all_its_room_afterwards() {
        for span in ["0-3", "0-1", "1-2", "2-3"] {
            let span = Span::parse_inclusive(span, SHAPE.blocks).unwrap();
            let mut echo = EchoExecutor::new(span, SHAPE, 20);
            let speed = rehearse(&mut echo).unwrap();
            assert!(speed.decode_micros > 0 && speed.prefill_rate > 0);
            assert_eq!(echo.free_positions(), 20);
        }
    }

    #[test]
    fn what_has_no_room_is_not_measured() {
        let mut echo = EchoExecutor::new(Span::whole(4).unwrap(), SHAPE, 10);
        assert!(rehearse(&mut echo).is_err());
        assert_eq!(echo.free_positions(), 10);
    }
}
