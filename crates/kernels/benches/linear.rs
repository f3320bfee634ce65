//! Speed of one linear layer: `cargo bench -p taimatsu-kernels --bench linear`.

use std::time::Instant;

use taimatsu_kernels::{Inputs, Kind, Level, Packed, Pool, pack};

fn main() {
    let kinds = [
        Kind::Q4_0,
        Kind::Q4_1,
        Kind::Q5_0,
        Kind::Q8_0,
        Kind::Q4K,
        Kind::Q5K,
        Kind::Q6K,
        Kind::F16,
    ];
    let pool = Pool::start(1).expect("one thread");
    for level in Level::all() {
        for kind in kinds {
            one(&pool, level, kind, 1, 4096, 65536 / 4);
            one(&pool, level, kind, 256, 1536, 576);
        }
    }
}

fn one(pool: &Pool, level: Level, kind: Kind, positions: usize, width: usize, rows: usize) {
    let rows = if level == Level::Scalar { rows / 16 } else { rows };
    let width = if kind.weights() == 256 { width / 256 * 256 } else { width };
    let bytes: Vec<u8> = (0..rows * (width / kind.weights()) * kind.bytes())
        .map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 0x3f)
        .collect();
    let packed = pack(kind, rows, width, &bytes).expect("whole blocks");
    let weights = Packed::new(kind, rows, width, &packed).expect("just packed");
    let values: Vec<f32> =
        (0..positions * width).map(|i| ((i * 7919 % 2001) as f32 - 1000.0) / 500.0).collect();
    let mut inputs = Inputs::default();
    inputs.fill(pool, level, kind.form(), width, &values).expect("finite");
    let mut out = vec![0.0; positions * rows];
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let began = Instant::now();
            pool.linear(level, &inputs, &mut [(weights, &mut out)]);
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let time = times[1];
    let gb = packed.len() as f64 / time / 1e9;
    let gop = 2.0 * (rows * width * positions) as f64 / time / 1e9;
    println!("{level:7} {kind:5?} {positions:4} positions: {gb:6.1} GB/s {gop:6.1} Gop/s");
}
