//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, and heads rotated in halves.

use taimatsu_kernels::Pairs;
use taimatsu_model::Manifest;

use super::{Structure, refuse_unknown};
use crate::contract::ExecutorError;

pub(super) fn structure(manifest: &Manifest) -> Result<Structure, ExecutorError> {
    refuse_unknown(manifest, |_, _| false)?;
    let mut structure = Structure::common(manifest);
    structure.pairs = Pairs::Halves;
    structure.biases = true;
    structure.tensors.extend(["attn_q.bias", "attn_k.bias", "attn_v.bias"]);
    Ok(structure)
}
