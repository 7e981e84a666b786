//! Trains the dictionary that bodies and leaves are packed with.
//!
//! `cargo run --release -p store --example train_dictionary -- DEMO_FOLDER OUT` reads the bodies of a data
//! folder that `deponent serve --demo` filled, with each leaf block as a few samples, and writes the
//! dictionary. A dictionary is part of the format at rest: a new one is a new version beside the old
//! ones, never a change to one.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::path::PathBuf;

use store::sqlite::{Access, SqliteStore};
use store::{Store, codec};

/// A dictionary is loaded by every process and searched for every record: 32 KiB fit a core's first cache.
const DICTIONARY_BYTES: usize = 32 * 1024;

fn main() {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (folder, out) = (
        args.next().expect("the demo folder"),
        args.next().expect("the file to write"),
    );
    let store = SqliteStore::open(&folder.join("deponent.db"), Access::ReadOnly).expect("a data folder");
    let mut samples: Vec<Vec<u8>> = Vec::new();
    for ledger in store.ledgers_list().expect("ledgers") {
        let size = store.head_read(ledger.ledger_no).expect("a head").size.as_u64();
        for row in store.bodies_read(ledger.ledger_no, 0, size).expect("bodies") {
            samples.push(codec::unpack(&row.body, evidence::record::BODY_BYTES_MAX).expect("a body"));
        }
        for block in store.blocks_read(ledger.ledger_no, 0, u32::MAX).expect("blocks") {
            let leaves = codec::Leaves::unpack(&block.leaves, block.count).expect("a block");
            samples.extend(leaves.iter().step_by(8).map(<[u8]>::to_vec));
        }
    }
    let dictionary = zstd::dict::from_samples(&samples, DICTIONARY_BYTES).expect("a dictionary");
    std::fs::write(out, &dictionary).expect("written");
    println!("{} samples, {} bytes", samples.len(), dictionary.len());
}
