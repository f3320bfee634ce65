//! Sixteen lanes, one after another: what the others must equal.

use super::{LANES, Simd};

/// Any CPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn each<T: Copy, U>(a: [T; LANES], f: impl Fn(T) -> U) -> [U; LANES] {
    a.map(f)
}

#[inline(always)]
fn both<T: Copy, U>(a: [T; LANES], b: [T; LANES], f: impl Fn(T, T) -> U) -> [U; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [[u8; 4]; LANES];
    type A = [i32; LANES];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn halves(self, from: &[u16; LANES]) -> Self::F {
        each(*from, |bits| half::f16::from_bits(bits).to_f32_const())
    }

    #[inline(always)]
    fn store_halves(self, value: Self::F, to: &mut [u16; LANES]) {
        *to = each(value, |value| half::f16::from_f32_const(value).to_bits());
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn nearest(self, a: Self::F) -> Self::F {
        each(a, f32::round_ties_even)
    }

    #[inline(always)]
    fn pow2(self, a: Self::F) -> Self::F {
        each(a, |a| f32::from_bits(((a as i32 + 127) << 23).cast_unsigned()))
    }

    #[inline(always)]
    fn magnitude(self, a: Self::F) -> Self::I {
        each(a, |a| (a.to_bits() & 0x7fff_ffff).cast_signed())
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> Self::I {
        [value; LANES]
    }

    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        both(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        both(a, b, i32::wrapping_mul)
    }

    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        both(a, b, Ord::max)
    }

    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        each(a, |a| a as f32)
    }

    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        each(a, |a| a.round_ties_even() as i32)
    }

    #[inline(always)]
    fn signed(self, from: &[i8; LANES]) -> Self::I {
        each(*from, i32::from)
    }

    #[inline(always)]
    fn unsigned(self, from: &[u8; LANES]) -> Self::I {
        each(*from, i32::from)
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::B {
        std::array::from_fn(|lane| std::array::from_fn(|byte| from[4 * lane + byte]))
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        each(a, |lane| lane.map(|byte| byte & 0xf))
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        each(a, |lane| lane.map(|byte| byte >> 4))
    }

    #[inline(always)]
    fn fifth(self, a: Self::B, bit: u32) -> Self::B {
        each(a, |lane| lane.map(|byte| (byte >> bit & 1) << 4))
    }

    #[inline(always)]
    fn sixth(self, a: Self::B, pair: u32) -> Self::B {
        each(a, |lane| lane.map(|byte| (byte >> (2 * pair) & 3) << 4))
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        both(a, b, |a, b| std::array::from_fn(|byte| a[byte] | b[byte]))
    }

    #[inline(always)]
    fn look_up(self, a: Self::B, table: &[u8; 16]) -> Self::B {
        each(a, |lane| lane.map(|byte| table[usize::from(byte)]))
    }

    #[inline(always)]
    fn none(self) -> Self::A {
        [0; LANES]
    }

    #[inline(always)]
    fn dot(self, sum: Self::A, a: Self::B, with: i32) -> Self::A {
        self.dot_bytes(sum, a, with)
    }

    #[inline(always)]
    fn whole(self, sum: Self::A) -> Self::I {
        sum
    }

    #[inline(always)]
    fn dot_bytes(self, sum: Self::I, a: Self::B, with: i32) -> Self::I {
        let with = with.to_le_bytes().map(u8::cast_signed);
        std::array::from_fn(|lane| {
            let products = a[lane].into_iter().zip(with).map(|(a, b)| i32::from(a) * i32::from(b));
            sum[lane] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    fn dot_pairs(self, sum: Self::I, a: Self::I, with: i32) -> Self::I {
        let halves = |pair: i32| (i32::from(pair as i16), pair >> 16);
        let (low, high) = halves(with);
        std::array::from_fn(|lane| {
            let (a, b) = halves(a[lane]);
            sum[lane] + a * low + b * high
        })
    }

    #[inline(always)]
    fn pairs(self, from: &[u8; 32]) -> Self::I {
        std::array::from_fn(|lane| i32::from(from[2 * lane]) | i32::from(from[2 * lane + 1]) << 16)
    }
}
