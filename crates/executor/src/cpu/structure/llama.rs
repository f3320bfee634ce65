//! Llama: norm, rotary attention, norm, SwiGLU. Llama 3 has a factor for each frequency.

use taimatsu_model::Manifest;

use super::{Structure, refuse_unknown};
use crate::contract::ExecutorError;

pub(super) fn structure(manifest: &Manifest) -> Result<Structure, ExecutorError> {
    refuse_unknown(manifest, |_, _| false)?;
    Ok(Structure { rope_factors: true, ..Structure::common(manifest) })
}
