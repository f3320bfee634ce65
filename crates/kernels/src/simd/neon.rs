//! Sixteen lanes in four registers.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{Kernel, LANES, Simd};

/// A CPU with NEON; with `DOT` also one with its dot products of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    /// If this CPU is one. Lanes are taken for little-endian.
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        let here = cfg!(target_endian = "little")
            && is_aarch64_feature_detected!("neon")
            && (!DOT || is_aarch64_feature_detected!("dotprod"));
        here.then_some(Self(()))
    }

    /// Four products of signed bytes, the sum of two of them within 16 bits, added to each lane.
    #[inline(always)]
    fn four(self, sum: int32x4_t, a: int8x16_t, with: int8x16_t) -> int32x4_t {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            if DOT {
                return sdot(sum, a, with);
            }
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(with));
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(a, with)))
        }
    }
}

impl Neon<false> {
    /// Runs a kernel compiled for it: NEON is every compiler's least for this architecture.
    #[inline]
    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

impl Neon<true> {
    /// Runs a kernel compiled for it.
    #[inline]
    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "dotprod")]
        fn inside<K: Kernel>(simd: Neon<true>, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: a value of this type proves that the CPU has these instructions.
        unsafe { inside(self, kernel) }
    }
}

/// Adds four products of signed bytes to each lane. The intrinsic of this name is not in the
/// oldest compiler that builds the workspace.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot(mut sum: int32x4_t, a: int8x16_t, with: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {with:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            with = in(vreg) with,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// One operation for each of the four registers. A macro, not a closure: a closure is compiled
/// without the instructions of the kernel that calls it.
macro_rules! each {
    ($register:ident => $of:expr) => {
        [each!($register 0 $of), each!($register 1 $of), each!($register 2 $of), each!($register 3 $of)]
    };
    ($register:ident $number:literal $of:expr) => {{
        let $register = $number;
        $of
    }};
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type B = [uint8x16_t; 4];
    type A = [int32x4_t; 4];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [vdupq_n_f32(value); 4] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::F {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { each!(r => vld1q_f32(from.as_ptr().add(4 * r))) }
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            each!(r => vst1q_f32(to.as_mut_ptr().add(4 * r), value[r]));
        }
    }

    #[inline(always)]
    fn halves(self, from: &[u16; LANES]) -> Self::F {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let halves = each!(r => vld1_u16(from.as_ptr().add(4 * r)));
            each!(r => vcvt_f32_f16(vreinterpret_f16_u16(halves[r])))
        }
    }

    #[inline(always)]
    fn store_halves(self, value: Self::F, to: &mut [u16; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let halves = each!(r => vreinterpret_u16_f16(vcvt_f16_f32(value[r])));
            each!(r => vst1_u16(to.as_mut_ptr().add(4 * r), halves[r]));
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vaddq_f32(a[r], b[r])) }
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vsubq_f32(a[r], b[r])) }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vmulq_f32(a[r], b[r])) }
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vdivq_f32(a[r], b[r])) }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vfmaq_f32(c[r], a[r], b[r])) }
    }

    /// By comparison: NEON's own maximum orders zeros by their signs, which K1 does not.
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vbslq_f32(vcgtq_f32(a[r], b[r]), a[r], b[r])) }
    }

    /// As [`max`](Self::max).
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vbslq_f32(vcltq_f32(a[r], b[r]), a[r], b[r])) }
    }

    #[inline(always)]
    fn nearest(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vrndnq_f32(a[r])) }
    }

    #[inline(always)]
    fn pow2(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let n = self.add_i(self.to_i(a), self.splat_i(127));
            each!(r => vreinterpretq_f32_s32(vshlq_n_s32::<23>(n[r])))
        }
    }

    #[inline(always)]
    fn magnitude(self, a: Self::F) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vandq_s32(vreinterpretq_s32_f32(a[r]), vdupq_n_s32(i32::MAX))) }
    }

    #[inline(always)]
    fn splat_i(self, value: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [vdupq_n_s32(value); 4] }
    }

    #[inline(always)]
    fn store_i(self, value: Self::I, to: &mut [i32; LANES]) {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            each!(r => vst1q_s32(to.as_mut_ptr().add(4 * r), value[r]));
        }
    }

    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vaddq_s32(a[r], b[r])) }
    }

    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vmulq_s32(a[r], b[r])) }
    }

    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vmaxq_s32(a[r], b[r])) }
    }

    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vcvtq_f32_s32(a[r])) }
    }

    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vcvtnq_s32_f32(a[r])) }
    }

    #[inline(always)]
    fn signed(self, from: &[i8; LANES]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let all = vld1q_s8(from.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(all)), vmovl_high_s8(all));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        }
    }

    #[inline(always)]
    fn unsigned(self, from: &[u8; LANES]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let all = vld1q_u8(from.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(all)), vmovl_high_u8(all));
            let wide = [
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            ];
            each!(r => vreinterpretq_s32_u32(wide[r]))
        }
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::B {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe { each!(r => vld1q_u8(from.as_ptr().add(16 * r))) }
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vandq_u8(a[r], vdupq_n_u8(15))) }
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vshrq_n_u8::<4>(a[r])) }
    }

    #[inline(always)]
    fn fifth(self, a: Self::B, bit: u32) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let by = vdupq_n_s8(4 - bit as i8);
            each!(r => vandq_u8(vshlq_u8(a[r], by), vdupq_n_u8(16)))
        }
    }

    #[inline(always)]
    fn sixth(self, a: Self::B, pair: u32) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let by = vdupq_n_s8(4 - 2 * pair as i8);
            each!(r => vandq_u8(vshlq_u8(a[r], by), vdupq_n_u8(48)))
        }
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { each!(r => vorrq_u8(a[r], b[r])) }
    }

    #[inline(always)]
    fn look_up(self, a: Self::B, table: &[u8; 16]) -> Self::B {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let table = vld1q_u8(table.as_ptr());
            each!(r => vqtbl1q_u8(table, a[r]))
        }
    }

    #[inline(always)]
    fn none(self) -> Self::A {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn dot(self, sum: Self::A, a: Self::B, with: i32) -> Self::A {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let with = vreinterpretq_s8_s32(vdupq_n_s32(with));
            each!(r => self.four(sum[r], vreinterpretq_s8_u8(a[r]), with))
        }
    }

    #[inline(always)]
    fn whole(self, sum: Self::A) -> Self::I {
        sum
    }

    /// With 128 less in every byte, which makes them signed, and that much of `with` added.
    #[inline(always)]
    fn dot_bytes(self, sum: Self::I, a: Self::B, with: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let with = vreinterpretq_s8_s32(vdupq_n_s32(with));
            let less = vshlq_n_s32::<7>(vpaddlq_s16(vpaddlq_s8(with)));
            each!(r => {
                let signed = vreinterpretq_s8_u8(veorq_u8(a[r], vdupq_n_u8(128)));
                self.four(vaddq_s32(sum[r], less), signed, with)
            })
        }
    }

    #[inline(always)]
    fn dot_pairs(self, sum: Self::I, a: Self::I, with: i32) -> Self::I {
        // SAFETY: a value of this type proves that the CPU has the instruction.
        unsafe {
            let with = vreinterpretq_s16_s32(vdupq_n_s32(with));
            each!(r => {
                let a = vreinterpretq_s16_s32(a[r]);
                let low = vmull_s16(vget_low_s16(a), vget_low_s16(with));
                vaddq_s32(sum[r], vpaddq_s32(low, vmull_high_s16(a, with)))
            })
        }
    }

    #[inline(always)]
    fn pairs(self, from: &[u8; 32]) -> Self::I {
        // SAFETY: as above, and the pointers are into arrays of the length that is read or written.
        unsafe {
            let wide = each!(r => vmovl_u8(vld1_u8(from.as_ptr().add(8 * r))));
            each!(r => vreinterpretq_s32_u16(wide[r]))
        }
    }
}
