//! The one place where the node draws randomness: from the operating system.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// A generator seeded by the operating system.
///
/// # Panics
/// Where the operating system has no randomness to give, nothing may be encrypted.
#[must_use]
pub(crate) fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed(bytes())
}

/// So many random bytes.
///
/// # Panics
/// See [`rng`].
#[must_use]
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// Bits of a seed that is told: many JSON libraries keep no more of a number.
const TOLD_BITS: u32 = 53;

/// A random seed for an answer; it is told with it.
#[must_use]
pub(crate) fn told_seed() -> u64 {
    seed() & ((1 << TOLD_BITS) - 1)
}

/// A random 64-bit seed.
#[must_use]
pub(crate) fn seed() -> u64 {
    rng().next_u64()
}
