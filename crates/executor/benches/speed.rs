//! Tokens per second of the real model: `cargo bench -p taimatsu-executor`, optionally with the
//! path of another Llama GGUF file behind `--`.

#[path = "../tests/support/chains.rs"]
mod support;

use std::path::Path;
use std::time::Instant;

use support::Model;
use taimatsu_executor::Want;

const PROMPT: u32 = 256;
const ANSWER: u32 = 64;

fn main() {
    let path = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let model = path.map_or_else(Model::smollm, |path| Model::open(Path::new(&path)));
    let ids: Vec<u32> = (0..PROMPT).map(|index| index * 31 % 500).collect();
    for threads in [1, 2] {
        let began = Instant::now();
        let mut chain = model.chain(&[], threads, PROMPT + ANSWER);
        println!("{threads} threads: loaded in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
        // Once before, so that the file is in memory.
        chain.step(0, &ids[..32], Want::LastLogits);
        chain.truncate(0);
        let began = Instant::now();
        chain.step(0, &ids, Want::LastLogits);
        let prefill = f64::from(PROMPT) / began.elapsed().as_secs_f64();
        let began = Instant::now();
        for position in PROMPT..PROMPT + ANSWER {
            chain.step(position, &[position % 500], Want::LastLogits);
        }
        let decode = f64::from(ANSWER) / began.elapsed().as_secs_f64();
        println!("{threads} threads: prefill {prefill:.1}, decode {decode:.1} tokens/s");
    }
}
