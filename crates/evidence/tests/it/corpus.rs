//! Replays the fuzz corpus, so that what fuzzing once found stays found where no fuzzer runs.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/bodies/canonical.rs"]
#[allow(unreachable_pub, reason = "shared with the fuzz target")]
mod canonical;

fn replay(name: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is committed") {
        let data = fs::read(entry.expect("listed").path()).expect("readable");
        run(&data);
        // A text broken off and a text with one bit turned are the commonest damage.
        let mut near = data.clone();
        for place in 0..data.len().min(512) {
            run(&data[..place]);
            for bit in 0..8 {
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
fn canonical_holds_over_its_corpus() {
    replay("canonical", canonical::run);
}
