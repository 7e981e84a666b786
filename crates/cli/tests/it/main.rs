//! The command line as a user meets it, and the map of the crates.

#![allow(clippy::unwrap_used)] // a test that cannot go on fails

mod commands;
mod gate;
mod judge;
mod lineage;
mod lineage_export;
mod manifests;
mod mistakes;
mod replay;
mod served;
mod work;
