//! The hot path of appending and of checking: `cargo bench -p tlog`.
#![allow(missing_docs, reason = "the macros of criterion make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tlog::{
    Checkpoint, Frontier, Hash, LeafIndex, MemoryTree, ProofError, SignerKey, TreeSize, inclusion_proof,
    leaf_hash, root_at, verify_inclusion,
};

/// A record header of usual length, in bytes.
const ENTRY_BYTES: usize = 480;

fn hashing(c: &mut Criterion) {
    let entry = [7; ENTRY_BYTES];
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(1));
    group.bench_function("leaf_hash 480 bytes", |b| b.iter(|| leaf_hash(black_box(&entry))));
    let leaf = leaf_hash(&entry);
    group.bench_function("frontier push", |b| {
        let mut frontier = Frontier::new();
        b.iter(|| frontier.push(black_box(leaf)));
    });
    group.finish();
}

fn proofs(c: &mut Criterion) -> Result<(), ProofError<tlog::NodeMissing>> {
    let leaf = |index: u64| leaf_hash(&index.to_be_bytes());
    let tree: MemoryTree = (0..100_000).map(leaf).collect();
    let (index, size) = (LeafIndex::new(54_321), TreeSize::new(100_000));
    let proof: Vec<Hash> = inclusion_proof(index, size, &tree)?;
    let root = root_at(size, &tree)?;
    c.bench_function("make inclusion proof, 100,000 leaves", |b| {
        b.iter(|| inclusion_proof(black_box(index), size, &tree));
    });
    c.bench_function("verify inclusion, 100,000 leaves", |b| {
        b.iter(|| verify_inclusion(&leaf(54_321), black_box(index), size, &proof, &root));
    });
    Ok(())
}

fn signing(c: &mut Criterion) -> Result<(), Box<dyn std::error::Error>> {
    let key = SignerKey::from_seed("log.example/a", &[1; 32])?;
    let checkpoint = Checkpoint::new("log.example/a", TreeSize::new(7), leaf_hash(b""))?;
    let (note, keys) = (checkpoint.sign(&key), [key.verifier().clone()]);
    c.bench_function("sign checkpoint", |b| {
        b.iter(|| black_box(&checkpoint).sign(&key));
    });
    c.bench_function("open checkpoint", |b| {
        b.iter(|| Checkpoint::open(black_box(note.as_bytes()), &keys, "log.example/a"));
    });
    Ok(())
}

fn all(c: &mut Criterion) {
    hashing(c);
    assert!(proofs(c).is_ok() && signing(c).is_ok(), "the inputs are sound");
}

criterion_group!(benches, all);
criterion_main!(benches);
