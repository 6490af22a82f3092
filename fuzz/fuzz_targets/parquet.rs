#![no_main]

// The library for Parquet panics on damaged files, which is caught where they are read: only what
// is not caught counts.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| candor_fuzz::parquet(data));
