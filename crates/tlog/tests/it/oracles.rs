//! Every tree of up to 1,100 leaves, against two other implementations.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use sha2::Sha256;
use tlog::{
    Checkpoint, Frontier, Hash, LeafIndex, MemoryTree, SignerKey, TreeSize, consistency_proof,
    inclusion_proof, leaf_hash, verify_consistency, verify_inclusion,
};

/// Past 1,024, so that ten full levels and a ragged eleventh occur.
const SIZES: u64 = 1_100;

fn bytes_of(proof: &[Hash]) -> Vec<u8> {
    proof.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

fn theirs(hash: Hash) -> tlog_tiles::Hash {
    tlog_tiles::Hash(*hash.as_bytes())
}

/// Grows both trees; calls back at every size with ours, the other and our root.
fn grow(mut at_size: impl FnMut(u64, &MemoryTree, &MemoryBackedTree<Sha256, String>, Hash)) {
    let mut frontier = Frontier::new();
    let mut tree = MemoryTree::new();
    let mut oracle = MemoryBackedTree::new();
    for size in 1..=SIZES {
        let entry = (size - 1).to_string();
        frontier.push(leaf_hash(entry.as_bytes()));
        tree.push(leaf_hash(entry.as_bytes()));
        oracle.push(entry);
        assert_eq!(
            frontier.root().as_bytes()[..],
            oracle.root().as_bytes()[..],
            "root {size}"
        );
        at_size(size, &tree, &oracle, frontier.root());
    }
}

#[test]
fn inclusion_proofs_are_those_of_two_other_implementations() {
    grow(|size, tree, oracle, root| {
        for index in 0..size {
            let at = LeafIndex::new(index);
            let leaf = leaf_hash(index.to_string().as_bytes());
            let proof = inclusion_proof(at, TreeSize::new(size), tree).unwrap();
            let other = oracle.prove_inclusion(usize::try_from(index).unwrap());
            assert_eq!(bytes_of(&proof), other.as_bytes(), "{index} in {size}");
            assert_eq!(
                verify_inclusion(&leaf, at, TreeSize::new(size), &proof, &root),
                Ok(())
            );
            let proof: Vec<_> = proof.into_iter().map(theirs).collect();
            // It refuses the one empty proof there is.
            if size > 1 {
                tlog_tiles::check_record(&proof, size, theirs(root), index, theirs(leaf)).unwrap();
            }
        }
    });
}

#[test]
fn consistency_proofs_are_those_of_two_other_implementations() {
    let mut roots = vec![tlog::empty_root()];
    grow(|size, tree, oracle, root| {
        let newer = TreeSize::new(size);
        for first in 1..size {
            let older = TreeSize::new(first);
            let old_root = roots[usize::try_from(first).unwrap()];
            let proof = consistency_proof(older, newer, tree).unwrap();
            let other = oracle.prove_consistency(usize::try_from(size - first).unwrap());
            assert_eq!(bytes_of(&proof), other.as_bytes(), "{first} to {size}");
            assert_eq!(verify_consistency(older, newer, &proof, &old_root, &root), Ok(()));
            let proof: Vec<_> = proof.into_iter().map(theirs).collect();
            tlog_tiles::check_tree(&proof, size, theirs(root), first, theirs(old_root)).unwrap();
        }
        roots.push(root);
    });
}

#[test]
fn checkpoints_and_notes_are_read_by_other_implementations() {
    let key = SignerKey::from_seed("log.example/a", &[9; 32]).unwrap();
    let checkpoint = Checkpoint::new("log.example/a", TreeSize::new(7), leaf_hash(b"root")).unwrap();
    let note = signed_note::Note::from_bytes(checkpoint.sign(&key).as_bytes()).unwrap();
    let verifier = signed_note::StandardVerifier::new(&key.verifier().to_string()).unwrap();
    let known = signed_note::VerifierList::new(vec![Box::new(verifier)]);
    assert_eq!(note.verify(&known).unwrap().0.len(), 1);
    let read = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
    assert_eq!((read.origin(), read.size()), ("log.example/a", 7));
    assert_eq!(read.hash().0, *checkpoint.root().as_bytes());
    assert_eq!(read.to_bytes(), checkpoint.to_text().as_bytes());
}

#[test]
fn secret_texts_are_read_by_another_implementation() {
    let key = SignerKey::from_seed("log.example/a", &[9; 32]).unwrap();
    let signer = signed_note::StandardSigner::new(&key.to_secret_text()).unwrap();
    let mut note = signed_note::Note::new(b"text\n", &[]).unwrap();
    note.add_sigs(&[&signer]).unwrap();
    let ours = format!("text\n\n{}", key.sign("text\n"));
    assert_eq!(note.to_bytes(), ours.as_bytes());
}
