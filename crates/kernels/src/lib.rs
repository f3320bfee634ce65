//! K1: arithmetic that every CPU agrees on, to the bit.
//!
//! The same weights and activations give the same bits with and without SIMD, for any number of
//! threads, batch and chunk; `docs/numerics.md` says what is computed, in what order. This crate
//! is the only one with `unsafe`: vector instructions, and threads that borrow.

#[allow(clippy::needless_range_loop, reason = "closures would not be compiled for the level")]
mod attend;
mod bandwidth;
mod columns;
mod golden;
mod inputs;
mod kind;
#[allow(clippy::needless_range_loop, reason = "closures would not be compiled for the level")]
mod linear;
mod math;
mod packed;
mod passes;
mod pointwise;
mod pool;
mod simd;

pub use attend::{PAGE, page_size, write};
pub use golden::{NotK1, self_test};
pub use inputs::{Form, Inputs, NonFinite, check};
pub use kind::{Kind, unpack_row};

pub use packed::{PackError, Packed, pack, packed_size};
pub use passes::{Heads, Session};
pub use pointwise::{Gate, Pairs, Turn, add, frequencies, gate, rms_norm, rotate, scale};
pub use pool::Pool;
pub use simd::Level;
