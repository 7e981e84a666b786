//! Replays the fuzz corpus, so that what fuzzing once found stays found where no fuzzer runs.

use std::fs;
use std::path::Path;

#[path = "../../../../../fuzz/bodies/otlp_lower.rs"]
#[allow(unreachable_pub, reason = "shared with the fuzz target")]
mod otlp_lower;

#[test]
fn lowering_holds_over_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/otlp_lower");
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is committed") {
        let data = fs::read(entry.expect("listed").path()).expect("readable");
        otlp_lower::run(&data);
        // A request broken off and a request with one bit turned are the commonest damage.
        let mut near = data.clone();
        for place in 0..data.len().min(256) {
            otlp_lower::run(&data[..place]);
            near[place] ^= 1 << (place % 8);
            otlp_lower::run(&near);
            near[place] ^= 1 << (place % 8);
        }
        replayed += 1;
    }
    assert!(replayed > 0, "no corpus in {}", folder.display());
}
