//! Replays the committed fuzz corpora through the very code the fuzz targets run.

use std::{fs, path::Path};

#[path = "../../../../fuzz/bodies/checkpoint.rs"]
mod checkpoint;
#[path = "../../../../fuzz/bodies/note.rs"]
mod note;
#[path = "../../../../fuzz/bodies/proof.rs"]
mod proof;
#[path = "../../../../fuzz/bodies/tile_path.rs"]
mod tile_path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        // Shown only when the body panics.
        eprintln!("{}", path.display());
        run(&fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 10, "{} has {inputs} inputs", folder.display());
}

#[test]
fn note_corpus() {
    replay("note", note::run);
}

#[test]
fn checkpoint_corpus() {
    replay("checkpoint", checkpoint::run);
}

#[test]
fn proof_corpus() {
    replay("proof", proof::run);
}

#[test]
fn tile_path_corpus() {
    replay("tile_path", tile_path::run);
}
