//! Every level of instructions computes the same bits, or refuses the same row.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use proptest::prelude::*;
use taimatsu_kernels::{
    Gate, Heads, Inputs, Kind, Level, NonFinite, PAGE, Packed, Pairs, Pool, Session, Turn,
    frequencies, gate, pack, page_size, rms_norm, rotate, unpack_row, write,
};

/// Numbers of all sizes, and what is none.
fn hostile() -> impl Strategy<Value = f32> {
    prop_oneof![
        20 => -8.0_f32..8.0,
        2 => Just(0.0),
        2 => Just(-0.0),
        1 => Just(1e-40),
        1 => Just(-3e-39),
        1 => Just(2e29),
    ]
}

fn wild() -> impl Strategy<Value = f32> {
    prop_oneof![
        300 => hostile(),
        1 => Just(f32::NAN),
        1 => Just(f32::INFINITY),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(1e38),
    ]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bytes of a matrix whose scales are small numbers.
fn matrix(kind: Kind, rows: usize, width: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let mut bytes: Vec<u8> =
        (0..rows * width / kind.weights() * kind.bytes()).map(|_| next()).collect();
    let halves: &[usize] = match kind {
        Kind::F32 => &[],
        Kind::F16 | Kind::Bf16 | Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 | Kind::Iq4Nl => &[0],
        Kind::Q4_1 | Kind::Q5_1 | Kind::Q4K | Kind::Q5K => &[0, 2],
        Kind::Q2K => &[80, 82],
        Kind::Q3K => &[108],
        Kind::Q6K => &[208],
    };
    for block in bytes.chunks_exact_mut(kind.bytes()) {
        for at in halves {
            // An exponent of a number from 2^-10 to 2^-3.
            block[at + 1] = block[at + 1] & 0x8f | 0x10;
        }
        if kind == Kind::F32 {
            block[3] = 0x3c | block[3] & 0x80;
        }
    }
    bytes
}

type Layer = Result<Vec<u32>, NonFinite>;

fn layer(pool: &Pool, level: Level, weights: Packed<'_>, values: &[f32]) -> Layer {
    let mut inputs = Inputs::default();
    inputs.fill(pool, level, weights.kind().form(), weights.width(), values)?;
    let mut out = vec![0.0; values.len() / weights.width() * weights.rows()];
    pool.linear(level, &inputs, &mut [(weights, &mut out)]);
    Ok(bits(&out))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn layers_agree(
        kind in proptest::sample::select(&Kind::ALL[..]),
        rows in 1_usize..70,
        blocks in 1_usize..4,
        positions in 1_usize..12,
        seed in any::<u64>(),
        values in proptest::collection::vec(wild(), 3 * 256 * 11),
    ) {
        let width = blocks * if kind.weights() == 1 { 37 } else { kind.weights() };
        let packed = pack(kind, rows, width, &matrix(kind, rows, width, seed)).unwrap();
        let weights = Packed::new(kind, rows, width, &packed).unwrap();
        let values = &values[..positions * width];
        let [one, three] = [1, 3].map(|threads| Pool::start(threads).unwrap());
        let expected = layer(&one, Level::Scalar, weights, values);
        for level in Level::all() {
            prop_assert_eq!(&layer(&three, level, weights, values), &expected, "{}", level);
        }
        // A position alone is the position in company.
        if let Ok(all) = &expected {
            for (position, all) in all.chunks_exact(rows).enumerate() {
                let own = &values[position * width..(position + 1) * width];
                for level in Level::all() {
                    prop_assert_eq!(&layer(&one, level, weights, own).unwrap()[..], all, "{}", level);
                }
            }
        }
    }

    #[test]
    fn what_happens_to_a_position_agrees(
        width in 1_usize..70,
        values in proptest::collection::vec(hostile(), 140),
        weights in proptest::collection::vec(hostile(), 70),
        position in 0_u32..100_000,
    ) {
        let run = |level: Level| {
            let mut normed = values[..2 * width].to_vec();
            rms_norm(level, &mut normed, &weights[..width], 1e-5);
            let mut all = bits(&normed);
            for kind in [Gate::Silu, Gate::Gelu] {
                let mut gates = values[..width].to_vec();
                gate(level, kind, &mut gates, &weights[..width]);
                all.extend(bits(&gates));
            }
            for pairs in [Pairs::Neighbours, Pairs::Halves] {
                let turn = Turn::at(position, &frequencies(width / 2 * 2, 10_000.0, 1.0));
                let mut heads = values[..2 * width].to_vec();
                rotate(level, pairs, &turn, width, &mut heads);
                all.extend(bits(&heads));
            }
            all
        };
        for level in Level::all() {
            prop_assert_eq!(run(level), run(Level::Scalar), "{}", level);
        }
    }

    #[test]
    fn attention_agrees_and_is_attention(
        head in proptest::sample::select(&[8_usize, 16, 64, 80][..]),
        group in 1_usize..4,
        before in 0_usize..70,
        count in 1_usize..20,
        window in proptest::sample::select(&[1_usize, 5, 33, 1000][..]),
        values in proptest::collection::vec(-3.0_f32..3.0, 90 * 2 * 2 * 80),
        queries in proptest::collection::vec(-2.0_f32..2.0, 20 * 6 * 80),
    ) {
        let heads = Heads { queries: 2 * group, keys: 2, head, window };
        let all = before + count;
        let row = |position: usize, kind: usize, key: usize| {
            &values[((position * 2 + kind) * 2 + key) * head..][..head]
        };
        let queries = &queries[..count * 2 * group * head];
        let run = |level: Level, threads: usize, chunk: usize| {
            let pool = Pool::start(threads).unwrap();
            let mut pages = vec![vec![0; 2 * page_size(head)]; all.div_ceil(PAGE)];
            for (position, key) in (0..all).flat_map(|position| [(position, 0), (position, 1)]) {
                let page = &mut pages[position / PAGE][key * page_size(head)..][..page_size(head)];
                write(level, page, position % PAGE, row(position, 0, key), row(position, 1, key));
            }
            let pages: Vec<Arc<[u16]>> = pages.into_iter().map(Arc::from).collect();
            let mut out = Vec::new();
            for from in (0..count).step_by(chunk) {
                let count = chunk.min(count - from);
                let sessions = [Session { pages: &pages, first: before + from, count }];
                let width = 2 * group * head;
                let mut mixed = vec![0.0; count * width];
                let own = &queries[from * width..][..count * width];
                pool.attend(level, heads, &sessions, own, &mut mixed).unwrap();
                out.extend(mixed);
            }
            out
        };
        let scalar = run(Level::Scalar, 1, 100);
        for level in Level::all() {
            prop_assert_eq!(bits(&run(level, 3, 100)), bits(&scalar), "{}", level);
            prop_assert_eq!(bits(&run(level, 1, 3)), bits(&scalar), "{}", level);
        }
        // In f64, straight from the definition.
        for (index, (mixed, query)) in
            scalar.chunks_exact(head).zip(queries.chunks_exact(head)).enumerate()
        {
            let (position, key) = (before + index / (2 * group), index % (2 * group) / group);
            let seen = (position + 1).saturating_sub(window)..=position;
            let half = |value: f32| f64::from(value);
            let score = |at: usize| -> f64 {
                query.iter().zip(row(at, 0, key)).map(|(q, k)| f64::from(*q) * half(*k)).sum()
            };
            let most = seen.clone().map(score).fold(f64::MIN, f64::max);
            let total: f64 = seen.clone().map(|at| (score(at) - most).exp()).sum();
            for (dimension, mixed) in mixed.iter().enumerate() {
                let exact: f64 = seen
                    .clone()
                    .map(|at| (score(at) - most).exp() * half(row(at, 1, key)[dimension]))
                    .sum::<f64>() / total;
                prop_assert!((exact - f64::from(*mixed)).abs() < 0.08, "{exact} {mixed}");
            }
        }
    }
}

/// An emulated CPU is the one that was asked for, lest the other tests compare scalar with scalar.
#[test]
fn levels_are_those_that_the_caller_knows_of() {
    if let Ok(known) = std::env::var("K1_LEVELS") {
        let found: Vec<String> = Level::all().iter().map(Level::to_string).collect();
        assert_eq!(found.join(" "), known);
    }
}

/// Rows looked up are the format's weights, and layers are products with them but for the rounding
/// of the inputs.
#[test]
fn layers_are_products() {
    let pool = Pool::start(2).unwrap();
    for kind in Kind::ALL {
        let (rows, width) = (37, if kind.weights() == 1 { 100 } else { 512 });
        let source = matrix(kind, rows, width, 7);
        let packed = pack(kind, rows, width, &source).unwrap();
        let weights = Packed::new(kind, rows, width, &packed).unwrap();
        let row_bytes = source.len() / rows;
        let values: Vec<f32> =
            (0..width).map(|i| ((i * 7919 % 255) as f32 - 127.0) / 64.0).collect();
        let mut inputs = Inputs::default();
        inputs.fill(&pool, Level::detect(), kind.form(), width, &values).unwrap();
        let mut out = vec![0.0; rows];
        pool.linear(Level::detect(), &inputs, &mut [(weights, &mut out)]);
        for (row, found) in out.into_iter().enumerate() {
            let mut unpacked = vec![0.0; width];
            unpack_row(kind, &source[row * row_bytes..][..row_bytes], &mut unpacked);
            let products =
                || unpacked.iter().zip(&values).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let exact: f64 = products().sum();
            let size: f64 = products().map(f64::abs).sum();
            assert!(
                (exact - f64::from(found)).abs() <= 0.004 * size,
                "{kind:?} row {row}: {exact} {found}"
            );
        }
    }
}

#[test]
fn a_refusal_names_the_row() {
    let pool = Pool::start(1).unwrap();
    for (form, width) in
        [(Kind::Q4_1, 64), (Kind::Q4K, 256), (Kind::F32, 33)].map(|(k, w)| (k.form(), w))
    {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.3e30, -f32::NAN] {
            let mut values = vec![1.0; 3 * width];
            values[2 * width - 1] = wrong;
            for level in Level::all() {
                let refused = Inputs::default().fill(&pool, level, form, width, &values);
                assert_eq!(refused, Err(NonFinite { row: 1 }), "{form:?} {wrong} {level}");
            }
        }
    }
}

#[test]
fn a_pool_does_every_task_once_and_outlives_a_panic() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let pool = Pool::start(3).unwrap();
    for tasks in [0, 1, 2, 100] {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.each(tasks, &|task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
    let broken = std::panic::AssertUnwindSafe(|| pool.each(9, &|task| assert_ne!(task, 5)));
    let panics = std::panic::catch_unwind(broken);
    assert!(panics.is_err());
    let done = AtomicUsize::new(0);
    pool.each(9, &|_| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.into_inner(), 9);
}
