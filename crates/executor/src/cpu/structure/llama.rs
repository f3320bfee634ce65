//! Llama: norm, rotary attention, norm, SwiGLU.

use taimatsu_model::Manifest;

use super::{Structure, refuse_unknown};
use crate::contract::ExecutorError;

pub(super) fn structure(manifest: &Manifest) -> Result<Structure, ExecutorError> {
    refuse_unknown(manifest, |_, _| false)?;
    Ok(Structure::common(manifest))
}
