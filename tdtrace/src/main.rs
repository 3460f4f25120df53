//! The `tdtrace` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tdtrace::run()
}
