//! Feeds arbitrary bytes to the OTLP door.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/otlp_lower.rs"]
mod body;

fuzz_target!(|data: &[u8]| body::run(data));
