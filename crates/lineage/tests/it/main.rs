//! Claims about logs, files and engines, each over files of its own.

mod bad_input;
mod drilling;
mod engines;
mod fixture;
mod parquet_files;
mod vectors;
mod verifying;
