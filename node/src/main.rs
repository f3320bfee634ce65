//! The program `taimatsu`.

use std::process::ExitCode;

fn main() -> ExitCode {
    taimatsu::main()
}
