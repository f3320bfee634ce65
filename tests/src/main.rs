//! The program `taimatsu`, built where the process tests can find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    taimatsu::main()
}
