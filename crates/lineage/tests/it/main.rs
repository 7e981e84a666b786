//! Claims about logs, files and engines, each over files of its own.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails
#![allow(clippy::needless_pass_by_value)] // json!(…) is handed on as it is

mod bad_input;
mod corpus;
mod drilling;
mod engines;
mod fixture;
mod parquet_files;
mod vectors;
mod verifying;
