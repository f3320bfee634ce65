//! Weights come out of a file as candle-core, written by others, reads them.

#![allow(clippy::unwrap_used, reason = "a test")]

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use proptest::prelude::*;
use taimatsu_kernels::{Kind, unpack_row};

const ALL: [(Kind, GgmlDType); 13] = [
    (Kind::Q2K, GgmlDType::Q2K),
    (Kind::Q3K, GgmlDType::Q3K),
    (Kind::F32, GgmlDType::F32),
    (Kind::F16, GgmlDType::F16),
    (Kind::Bf16, GgmlDType::BF16),
    (Kind::Q4_0, GgmlDType::Q4_0),
    (Kind::Q4_1, GgmlDType::Q4_1),
    (Kind::Q5_0, GgmlDType::Q5_0),
    (Kind::Q5_1, GgmlDType::Q5_1),
    (Kind::Q8_0, GgmlDType::Q8_0),
    (Kind::Q4K, GgmlDType::Q4K),
    (Kind::Q5K, GgmlDType::Q5K),
    (Kind::Q6K, GgmlDType::Q6K),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn weights_are_what_candle_reads(bytes in proptest::collection::vec(any::<u8>(), 1024)) {
        for (kind, theirs) in ALL {
            let used = &bytes[..bytes.len() / kind.bytes() * kind.bytes()];
            let mut out = vec![0.0; used.len() / kind.bytes() * kind.weights()];
            unpack_row(kind, used, &mut out);
            let storage = theirs.from_data(std::borrow::Cow::Borrowed(used));
            let read = storage.dequantize(out.len()).unwrap();
            let CpuStorage::F32(read) = read else { panic!("not f32") };
            for (ours, theirs) in out.iter().zip(&read) {
                let same = ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan());
                prop_assert!(same, "{kind:?}: {ours} {theirs}");
            }
        }
    }
}
