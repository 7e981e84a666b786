//! Load, peers and limits for `scripts/bench`.
//!
//! Everything here is outside the server: requests over loopback, as a client sends them, and the plain
//! programs that the figures are compared with. One line of JSON a measurement.
//!
//! Start at [`Task`]; `bench.rs` runs them all against a server of its own and prints the table.

// A program for people at a terminal: it prints, reads the clock and its arguments.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::unwrap_used)]
// Figures for people, from counts far below 2^52.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::format_collect,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod bench;
mod beside;
mod costs;
mod disk;
mod figure;
mod http;
mod ids;
mod otlp;
mod peers;
mod reads;
mod rest;
mod served;
mod spans;
mod stats;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Load generator, peers and benchmarks of Deponent")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Send spans: bodies are encoded before, ids are made new for every request.
    Otlp(otlp::Otlp),
    /// Clients that post steps, each waiting for its receipt.
    Rest(rest::Rest),
    /// Read over known runs.
    Reads(reads::Reads),
    /// Decode, canonicalise, hash and insert with ordinary crates on two threads.
    Plain {
        #[arg(long, default_value_t = 100_000)]
        spans: u64,
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// Insert the same bytes into SQLite without index.
    Raw {
        #[arg(long, default_value_t = 200_000)]
        spans: u64,
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// The disk's rate of 4 KiB writes, each with fdatasync.
    Fdatasync {
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// All of it against a server started here; prints one table.
    Bench(bench::Bench),
}

fn main() -> anyhow::Result<()> {
    let value = match Args::parse().task {
        Task::Otlp(task) => task.run()?,
        Task::Rest(task) => task.run()?,
        Task::Reads(task) => task.run()?,
        Task::Plain { spans, dir } => peers::plain(spans, &dir)?,
        Task::Raw { spans, dir } => peers::raw(spans, &dir)?,
        Task::Fdatasync { seconds, dir } => disk::fdatasync(seconds, &dir)?,
        Task::Bench(bench) => std::process::exit(bench.run()?),
    };
    println!("{value}");
    Ok(())
}
