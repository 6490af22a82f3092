//! The `candor` binary; everything is in the library.

use std::process::ExitCode;

/// jemalloc returns the memory of large requests to the system, which glibc's allocator keeps.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    candor::cli::run()
}
