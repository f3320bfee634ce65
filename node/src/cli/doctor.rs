//! `taimatsu doctor`: what is wrong here.

use super::Global;
use crate::failure::Failure;

/// Looks.
pub(super) async fn doctor(_global: &Global, _trouble: Option<Failure>) -> Result<(), Failure> {
    Ok(())
}
