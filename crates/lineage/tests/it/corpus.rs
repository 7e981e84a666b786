//! Replays the fuzz corpora, so that what fuzzing once found stays found where no fuzzer runs.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/bodies/lineage_log.rs"]
#[allow(unreachable_pub, reason = "shared with the fuzz target")]
mod lineage_log;
#[path = "../../../../fuzz/bodies/lineage_source.rs"]
#[allow(unreachable_pub, reason = "shared with the fuzz target")]
mod lineage_source;

fn replay(name: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is committed") {
        let data = fs::read(entry.expect("listed").path()).expect("readable");
        run(&data);
        // Broken off, and with one bit turned: the commonest damage. Each is a file that is written, so not all bits.
        let mut near = data.clone();
        for place in 0..data.len().min(256) {
            run(&data[..place]);
            for bit in [0, 3, 7] {
                near[place] ^= 1 << bit;
                run(&near);
                near[place] ^= 1 << bit;
            }
        }
        replayed += 1;
    }
    assert!(replayed > 0, "no corpus in {}", folder.display());
}

#[test]
fn readers_of_rows_hold_over_their_corpus() {
    replay("lineage_source", lineage_source::run);
}

#[test]
fn readers_of_logs_hold_over_their_corpus() {
    replay("lineage_log", lineage_log::run);
}
