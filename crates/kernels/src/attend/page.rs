//! How a page is read: half by half, or made f32 before.

use super::PAGE;
use crate::simd::{LANES, Simd};

/// Keys and values of one head in a page.
pub(super) trait Page: Copy {
    /// One dimension of all keys.
    fn keys<S: Simd>(self, s: S, dimension: usize) -> [S::F; 2];
    /// Sixteen dimensions of a value, from `16 x chunk` on.
    fn value<S: Simd>(self, s: S, key: usize, chunk: usize) -> S::F;
}

/// What keys and values are made of.
pub(super) trait Element: Copy {
    fn lanes<S: Simd>(s: S, from: &[Self; LANES]) -> S::F;
}

impl Element for u16 {
    #[inline(always)]
    fn lanes<S: Simd>(s: S, from: &[Self; LANES]) -> S::F {
        s.halves(from)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn lanes<S: Simd>(s: S, from: &[Self; LANES]) -> S::F {
        s.load(from)
    }
}

/// `[dimension][2 x 16 keys]` and `[key][dimensions, padded to whole vectors]`.
#[derive(Clone, Copy)]
pub(super) struct Held<'a, T> {
    keys: &'a [[[T; LANES]; 2]],
    values: &'a [[T; LANES]],
    wide: usize,
}

impl<'a> Held<'a, u16> {
    /// As it lies, of heads of whole vectors.
    pub(super) fn halves(page: &'a [u16], head: usize) -> Self {
        let (keys, values) = page.split_at(PAGE * head);
        let keys = keys.as_chunks::<LANES>().0.as_chunks::<2>().0;
        Self { keys, values: values.as_chunks::<LANES>().0, wide: head / LANES }
    }
}

impl<T: Element> Page for Held<'_, T> {
    #[inline(always)]
    fn keys<S: Simd>(self, s: S, dimension: usize) -> [S::F; 2] {
        let [low, high] = &self.keys[dimension];
        [T::lanes(s, low), T::lanes(s, high)]
    }

    #[inline(always)]
    fn value<S: Simd>(self, s: S, key: usize, chunk: usize) -> S::F {
        T::lanes(s, &self.values[key * self.wide + chunk])
    }
}

/// Makes a page f32.
#[inline(always)]
pub(super) fn unpack<'a, S: Simd>(
    s: S,
    page: &[u16],
    head: usize,
    wide: usize,
    (own_keys, own_values): (&'a mut Vec<[f32; LANES]>, &'a mut Vec<[f32; LANES]>),
) -> Held<'a, f32> {
    let (keys, values) = page.split_at(PAGE * head);
    own_keys.resize(2 * head, [0.0; LANES]);
    for (to, from) in own_keys.iter_mut().zip(keys.as_chunks::<LANES>().0) {
        s.store(s.halves(from), to);
    }
    own_values.resize(PAGE * wide, [0.0; LANES]);
    for (to, from) in own_values.chunks_exact_mut(wide).zip(values.chunks_exact(head)) {
        let (chunks, rest) = from.as_chunks::<LANES>();
        for (to, from) in to.iter_mut().zip(chunks) {
            s.store(s.halves(from), to);
        }
        if !rest.is_empty() {
            let mut lanes = [0; LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            s.store(s.halves(&lanes), &mut to[chunks.len()]);
        }
    }
    Held { keys: own_keys.as_chunks::<2>().0, values: own_values, wide }
}
