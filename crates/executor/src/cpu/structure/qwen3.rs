//! Qwen 3: Llama with heads of queries and keys normed before their rotation, in halves.

use taimatsu_kernels::Pairs;
use taimatsu_model::Manifest;

use super::{Structure, refuse_unknown};
use crate::contract::ExecutorError;

pub(super) fn structure(manifest: &Manifest) -> Result<Structure, ExecutorError> {
    refuse_unknown(manifest, |_, _| false)?;
    let mut structure = Structure::common(manifest);
    structure.pairs = Pairs::Halves;
    structure.head_norms = true;
    structure.tensors.extend(["attn_q_norm.weight", "attn_k_norm.weight"]);
    Ok(structure)
}
