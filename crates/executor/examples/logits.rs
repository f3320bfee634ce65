//! All logits of token ids, as bytes: `logits MODEL.gguf < IDS > LOGITS`.
//!
//! Each line of stdin holds ids; for each of them stdout gets the logits of every position, f32 in
//! little-endian order. `tests/rivals/accuracy` compares them with other programs'.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use taimatsu_executor::{CpuExecutor, ExecutorLimits, Input, LayerExecutor, Output, Want, Work};
use taimatsu_model::{GgufFile, Manifest};
use taimatsu_protocol::Span;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("which model?")?;
    let file = Arc::new(GgufFile::open(Path::new(&path))?);
    let manifest = Manifest::of(&file)?;
    let span = Span::whole(manifest.blocks)?;
    let limits = ExecutorLimits { kv_positions: 4096, threads: 2 };
    let mut executor = CpuExecutor::load(&file, &manifest, span, limits)?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let ids = line?.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        let kv = executor.open(ids.len() as u32, span)?;
        let work = Work { kv, start: 0, input: Input::Tokens(&ids), want: Want::AllLogits };
        let Output::Logits(logits) = executor.step(&[work]).remove(0)? else {
            return Err("no logits came".into());
        };
        executor.close(kv);
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}
