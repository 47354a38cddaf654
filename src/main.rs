//! The table of contents: what the command line asks for, and the code that the process ends with.
use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    idjag_proxy::cli::main()
}
