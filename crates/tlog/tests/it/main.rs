//! Integration tests of `tlog`: published values, other implementations, laws.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod corpus;
mod golden;
mod laws;
mod notes;
mod oracles;
mod worked;
