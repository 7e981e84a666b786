//! The command line as a user meets it, and the map of the crates.

mod commands;
mod manifests;
