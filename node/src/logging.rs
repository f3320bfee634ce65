//! Logs: to stderr, quiet unless asked for.

use tracing_subscriber::EnvFilter;

/// Starts logging. `verbose` 0 warns, 1 informs, 2 tells everything of this program.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "warn,taimatsu=info,taimatsu_network=info",
        _ => "info,taimatsu=debug,taimatsu_network=debug,taimatsu_model=debug",
    };
    let wished = crate::config::log_filter().and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = wished.unwrap_or_else(|| EnvFilter::new(level));
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}
