//! A CPU, or a compiler, that computes something else is found out before anybody is served.

use std::sync::Arc;

use crate::attend::{PAGE, page_size, write};
use crate::inputs::Inputs;
use crate::kind::Kind;
use crate::packed::{Packed, pack};
use crate::passes::{Heads, Session};
use crate::pointwise::{Gate, Pairs, Turn, frequencies, gate, rms_norm, rotate};
use crate::pool::Pool;
use crate::simd::Level;

/// What every kernel of K1 gives for the numbers below, mixed.
const GOLDEN: u64 = 0x841f_09b7_e842_081e;

/// This CPU does not compute K1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this CPU's {level} instructions give other numbers than K1 ({found:016x})")]
pub struct NotK1 {
    /// With these instructions.
    pub level: Level,
    /// What came out.
    pub found: u64,
}

/// Computes a little with every kernel and compares it with what is known: milliseconds.
///
/// # Errors
/// Something else came out.
pub fn self_test(pool: &Pool, level: Level) -> Result<(), NotK1> {
    let found = mixed(pool, level).unwrap_or(0);
    if found == GOLDEN { Ok(()) } else { Err(NotK1 { level, found }) }
}

const WIDTH: usize = 256;
const ROWS: usize = 20;
const POSITIONS: usize = 11;

fn mixed(pool: &Pool, level: Level) -> Option<u64> {
    let mut luck = Luck(1);
    let mut mix = Mix(0xcbf2_9ce4_8422_2325);
    let values: Vec<f32> = (0..POSITIONS * WIDTH).map(|_| luck.number()).collect();
    for kind in Kind::ALL {
        let source = luck.blocks(kind);
        let bytes = pack(kind, ROWS, WIDTH, &source).ok()?;
        let weights = Packed::new(kind, ROWS, WIDTH, &bytes).ok()?;
        let mut inputs = Inputs::default();
        inputs.fill(pool, level, kind.form(), WIDTH, &values).ok()?;
        let mut out = vec![0.0; POSITIONS * ROWS];
        pool.linear(level, &inputs, &mut [(weights, &mut out)]);
        mix.take(&out);
    }
    let (mut rows, weights) = (values.clone(), &values[WIDTH..2 * WIDTH]);
    rms_norm(level, &mut rows, weights, 1e-5);
    mix.take(&rows);
    for kind in [Gate::Silu, Gate::Gelu] {
        let mut gates = values.clone();
        gate(level, kind, &mut gates, &rows);
        mix.take(&gates);
    }
    for pairs in [Pairs::Neighbours, Pairs::Halves] {
        let mut heads = values.clone();
        let turn = Turn::at(1234, &frequencies(64, 10_000.0, 1.0));
        rotate(level, pairs, &turn, 64, &mut heads);
        mix.take(&heads);
    }
    mix.take(&attention(pool, level, &values)?);
    Some(mix.0)
}

fn attention(pool: &Pool, level: Level, values: &[f32]) -> Option<Vec<f32>> {
    let heads = Heads { queries: 4, keys: 2, head: 64, window: 30 };
    let mut pages = vec![vec![0; 2 * page_size(64)]; 2];
    for position in 0..40 {
        for key in 0..2 {
            let page = &mut pages[position / PAGE][key * page_size(64)..][..page_size(64)];
            let at = (position * 2 + key) * 31;
            write(level, page, position % PAGE, &values[at..at + 64], &values[at + 17..at + 81]);
        }
    }
    let count = values.len() / 256;
    let mut mixed = vec![0.0; values.len()];
    let pages: Vec<Arc<[u16]>> = pages.into_iter().map(Arc::from).collect();
    let sessions = [Session { pages: &pages, first: 40 - count, count }];
    pool.attend(level, heads, &sessions, values, &mut mixed).ok()?;
    Some(mixed)
}

/// Numbers without pattern: a linear congruential generator (Knuth's MMIX).
struct Luck(u64);

impl Luck {
    fn byte(&mut self) -> u8 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }

    /// From -4 to 4.
    fn number(&mut self) -> f32 {
        let whole = i16::from_le_bytes([self.byte(), self.byte()]);
        f32::from(whole) / 8192.0
    }

    /// A matrix whose scales are small: halves, of exponents that the format's places get.
    fn blocks(&mut self, kind: Kind) -> Vec<u8> {
        let scales: &[usize] = match kind {
            Kind::F32 => &[2],
            Kind::F16 | Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 | Kind::Iq4Nl => &[0],
            Kind::Bf16 => &[0],
            Kind::Q4_1 | Kind::Q5_1 | Kind::Q4K | Kind::Q5K => &[0, 2],
            Kind::Q2K => &[80, 82],
            Kind::Q3K => &[108],
            Kind::Q6K => &[208],
        };
        let mut bytes: Vec<u8> =
            (0..ROWS * WIDTH / kind.weights() * kind.bytes()).map(|_| self.byte()).collect();
        for block in bytes.chunks_exact_mut(kind.bytes()) {
            for at in scales {
                block[at + 1] = block[at + 1] & 0x83 | 0x28;
            }
        }
        bytes
    }
}

/// FNV-1a over bits.
struct Mix(u64);

impl Mix {
    fn take(&mut self, values: &[f32]) {
        for byte in values.iter().flat_map(|value| value.to_bits().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_golden() {
        let pool = Pool::start(2).unwrap();
        for level in Level::all() {
            assert_eq!(self_test(&pool, level), Ok(()));
        }
    }
}
