//! Parse and dispatch; everything else is in the library.

use std::process::ExitCode;

/// Large requests come and go on many threads: this allocator returns their memory to the system.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    candor::cli::run()
}
