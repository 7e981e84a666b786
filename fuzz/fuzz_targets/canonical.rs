//! Feeds arbitrary bytes to canonical JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/canonical.rs"]
mod body;

fuzz_target!(|data: &[u8]| body::run(data));
