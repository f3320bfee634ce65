//! Values that arithmetic fears, in activations and in weights: the same bits on every path, or
//! the refusal on every path.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/chains.rs"]
mod support;

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use support::{Model, data};
use taimatsu_executor::{
    CpuExecutor, ExecutorError, Input, LayerExecutor, Output, Threads, Want, Work,
};
use taimatsu_kernels::Level;
use taimatsu_model::{GgufFile, Manifest};
use taimatsu_protocol::Span;

const FILES: [&str; 4] =
    ["llama.q4_1.gguf", "gemma3.q4_k.gguf", "llama-2blk.f16.gguf", "qwen3.q4_k.gguf"];

/// Rows that are computed at once, and by how many threads of which level.
type Path = (usize, &'static Threads);

/// The specification first.
fn paths() -> &'static [Path] {
    static PATHS: OnceLock<Vec<Path>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let mut paths = Vec::new();
        for level in Level::all() {
            for (chunk, threads) in [(usize::MAX, 1), (1, 1), (5, 3)] {
                let threads = Box::leak(Box::new(Threads::at(level, threads).unwrap()));
                paths.push((chunk, &*threads));
            }
        }
        paths
    })
}

/// Bits of all logits, or that they were refused.
fn run(
    executor: &mut CpuExecutor,
    chunk: usize,
    rows: usize,
    input: impl Fn(usize, usize) -> Vec<f32>,
    ids: &[u32],
) -> Option<Vec<u32>> {
    let part = executor.span();
    let kv = executor.open(rows as u32, part).unwrap();
    let mut bits = Vec::new();
    let mut refused = false;
    for from in (0..rows).step_by(chunk.min(rows)) {
        let to = (from + chunk.min(rows)).min(rows);
        let hidden = input(from, to);
        let input = if part.embed { Input::Tokens(&ids[from..to]) } else { Input::Hidden(&hidden) };
        let work = Work { kv, start: from as u32, input, want: Want::AllLogits };
        match executor.step(&[work]).remove(0) {
            Ok(Output::Logits(logits)) => bits.extend(logits.into_iter().map(f32::to_bits)),
            Err(ExecutorError::NonFinite { .. }) => {
                refused = true;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    executor.close(kv);
    (!refused).then_some(bits)
}

/// Rows of what is feared, more of it from kind to kind: zeros with a sign and numbers below the
/// smallest normal one; large ones; those whose squares are infinite, or that are beyond the bound.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let calm = || {
        prop_oneof![
            50 => -4.0_f32..4.0,
            2 => Just(-0.0),
            2 => prop_oneof![Just(1e-40), Just(-1e-45), Just(f32::MIN_POSITIVE), Just(1e-31)],
        ]
    };
    let wild = prop_oneof![Just(3e4_f32), Just(-7e4), Just(1e15), Just(-1e18)];
    let fierce =
        prop_oneof![Just(1e20_f32), Just(1.2e30), Just(-1.3e30), Just(1e38), Just(f32::MIN)];
    let many = |value: BoxedStrategy<f32>| prop::collection::vec(value, 997);
    prop_oneof![
        2 => many(calm().boxed()),
        2 => many(prop_oneof![300 => calm(), 1 => wild].boxed()),
        1 => many(prop_oneof![900 => calm(), 1 => fierce].boxed()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn activations(
        number in 0..FILES.len(),
        rows in 1_usize..12,
        seeds in values(),
        none in prop::option::weighted(0.2, (0_usize..3000, 0_usize..3)),
    ) {
        let model = Model::tiny(FILES[number]);
        let blocks = model.manifest.blocks;
        let span = Span::new(1..blocks, blocks).unwrap();
        let hidden = model.manifest.hidden as usize;
        let mut values: Vec<f32> = seeds.iter().copied().cycle().take(rows * hidden).collect();
        if let Some((at, which)) = none {
            let at = at % values.len();
            values[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][which];
        }
        let mut expected = None;
        for (chunk, threads) in paths() {
            let (file, manifest) = (&model.file, &model.manifest);
            let mut executor =
                CpuExecutor::load_on(threads, file, manifest, span, 32, None).unwrap();
            let input = |from: usize, to: usize| values[from * hidden..to * hidden].to_vec();
            let bits = run(&mut executor, *chunk, rows, input, &[]);
            prop_assert!(none.is_none() || bits.is_none(), "what is no number was let through");
            let expected = expected.get_or_insert_with(|| bits.clone());
            prop_assert!(&bits == expected, "{}: chunks of {chunk}", FILES[number]);
        }
    }

    #[test]
    fn weights(
        file in 0..FILES.len(),
        changes in prop::collection::vec((0_usize..1_000_000, any::<u8>()), 1..200),
        ids in prop::collection::vec(0_u32..500, 1..10),
    ) {
        let mut bytes = std::fs::read(data("tiny").join(FILES[file])).unwrap();
        let whole = GgufFile::from_bytes(bytes.clone()).unwrap();
        let tensors = whole.tensor_names().map(|name| whole.tensor(name).unwrap().bytes);
        let first = tensors.map(|tensor| tensor.as_ptr() as usize).min().unwrap();
        let first = first - whole.bytes().as_ptr() as usize;
        let room = bytes.len() - first;
        for (at, byte) in changes {
            bytes[first + at % room] = byte;
        }
        let changed = Arc::new(GgufFile::from_bytes(bytes).unwrap());
        let manifest = Manifest::of(&changed).unwrap();
        let span = Span::whole(manifest.blocks).unwrap();
        let mut expected = None;
        for (chunk, threads) in paths() {
            let mut executor =
                CpuExecutor::load_on(threads, &changed, &manifest, span, 32, None).unwrap();
            let bits = run(&mut executor, *chunk, ids.len(), |_, _| Vec::new(), &ids);
            let expected = expected.get_or_insert_with(|| bits.clone());
            prop_assert!(&bits == expected, "{}: chunks of {chunk}", FILES[file]);
        }
    }
}

/// A tiny model's file whose tensor `name` was changed: its bytes, and the four of its type.
fn changed(
    name: &str,
    change: impl FnOnce(&mut [u8], &mut [u8]),
) -> Result<CpuExecutor, ExecutorError> {
    let mut bytes = std::fs::read(data("tiny").join("llama-2blk.f16.gguf")).unwrap();
    let whole = GgufFile::from_bytes(bytes.clone()).unwrap();
    let tensor = whole.tensor(name).unwrap();
    let at = tensor.bytes.as_ptr() as usize - whole.bytes().as_ptr() as usize;
    let (info, length) =
        (bytes.windows(name.len()).position(|text| text == name.as_bytes()), tensor.bytes.len());
    let dimensions = tensor.shape.len();
    let (head, body) = bytes.split_at_mut(at);
    change(&mut body[..length], &mut head[info.unwrap() + name.len() + 4 + 8 * dimensions..][..4]);
    let file = Arc::new(GgufFile::from_bytes(bytes).unwrap());
    let manifest = Manifest::of(&file).unwrap();
    let span = Span::whole(manifest.blocks).unwrap();
    CpuExecutor::load_on(paths()[0].1, &file, &manifest, span, 32, None)
}

#[test]
fn what_is_no_number_is_not_remembered() {
    for name in ["blk.1.attn_k.weight", "blk.1.attn_v.weight"] {
        for half in [0x7e00_u16, 0x7c00, 0xfc00] {
            let spoil =
                |bytes: &mut [u8], _: &mut [u8]| bytes[..2].copy_from_slice(&half.to_le_bytes());
            let mut executor = changed(name, spoil).unwrap();
            assert_eq!(run(&mut executor, 1, 3, |_, _| Vec::new(), &[1, 2, 3]), None, "{name}");
        }
    }
}

#[test]
fn a_norm_of_another_type_is_refused() {
    let q8_0 = 8_u32;
    let retype = |_: &mut [u8], ty: &mut [u8]| ty.copy_from_slice(&q8_0.to_le_bytes());
    let refused = changed("blk.1.ffn_norm.weight", retype).err().unwrap();
    assert!(
        matches!(&refused, ExecutorError::BadTensor { tensor, .. } if tensor == "blk.1.ffn_norm.weight"),
        "{refused}"
    );
}
