//! Laws: what is written reads back, and no single bit can be changed.

use proptest::prelude::*;
use tlog::{
    Checkpoint, Hash, LeafIndex, MemoryTree, Note, TilePath, TileWidth, TlogProof, TreeSize,
    consistency_proof, decode_bundle, encode_bundle, inclusion_proof, leaf_hash, root_at, verify_consistency,
    verify_inclusion,
};

use crate::worked;

/// Every copy of `bytes` with one bit changed.
fn single_bit_changes(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len() * 8).map(|bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        (bit / 8, changed)
    })
}

/// Both keys known: name, text and signatures all count.
#[test]
fn every_single_bit_change_of_a_checkpoint_is_refused_or_drops_a_signer() {
    let keys = worked::keys();
    let text_end = worked::NOTE.find("\n\n").unwrap();
    for (position, changed) in single_bit_changes(worked::NOTE.as_bytes()) {
        let Ok(opened) = Checkpoint::open(&changed, &keys, worked::ORIGIN) else {
            continue;
        };
        // A changed name or id makes the line an unknown key's, which must be ignored: only the
        // other signature is left. The text itself never changes.
        assert!(position > text_end, "byte {position}");
        assert_eq!(opened.signatures.len(), 1, "byte {position}");
        assert_eq!(
            opened.checkpoint.to_text(),
            worked::NOTE[..=text_end],
            "byte {position}"
        );
    }
}

/// Only the log's key known and only its line: nothing can change.
#[test]
fn every_single_bit_change_of_a_signed_checkpoint_is_refused() {
    let keys = [worked::keys()[0].clone()];
    let note = worked::NOTE.split_inclusive('\n').take(5).collect::<String>();
    assert!(Checkpoint::open(note.as_bytes(), &keys, worked::ORIGIN).is_ok());
    for (position, changed) in single_bit_changes(note.as_bytes()) {
        assert!(
            Checkpoint::open(&changed, &keys, worked::ORIGIN).is_err(),
            "byte {position}"
        );
    }
}

#[test]
fn every_single_bit_change_of_a_proof_file_is_refused() {
    let keys = [worked::keys()[0].clone()];
    let full = worked::proof_of_bravo();
    let file = full.split_inclusive('\n').take(10).collect::<String>();
    let leaf = leaf_hash(b"bravo");
    let accepts = |bytes: &[u8]| {
        TlogProof::parse(bytes).is_ok_and(|proof| proof.verify(&leaf, &keys, worked::ORIGIN).is_ok())
    };
    assert!(accepts(file.as_bytes()));
    for (position, changed) in single_bit_changes(file.as_bytes()) {
        assert!(!accepts(&changed), "byte {position}");
    }
    for length in 0..file.len() {
        assert!(!accepts(&file.as_bytes()[..length]), "cut at {length}");
    }
}

fn tree(size: u64) -> MemoryTree {
    (0..size).map(|index| leaf_hash(&index.to_be_bytes())).collect()
}

/// A proof with one bit of one hash changed; with a hash too many, too few, and two exchanged.
fn spoilt(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for (position, hash) in proof.iter().enumerate() {
        for (_, changed) in single_bit_changes(hash.as_bytes()) {
            let mut copy = proof.to_vec();
            copy[position] = Hash::from_bytes(changed.try_into().unwrap());
            all.push(copy);
        }
        let mut shorter = proof.to_vec();
        shorter.remove(position);
        all.push(shorter);
        let mut longer = proof.to_vec();
        longer.insert(position, *hash);
        all.push(longer);
        if position > 0 {
            let mut exchanged = proof.to_vec();
            exchanged.swap(position - 1, position);
            all.push(exchanged);
        }
    }
    all.push([proof, &[leaf_hash(b"more")]].concat());
    all
}

#[test]
fn every_spoilt_proof_is_refused() {
    let source = tree(40);
    let root = |size| root_at(size, &source).unwrap();
    for size in [1, 2, 3, 7, 8, 21, 33, 40] {
        let size = TreeSize::new(size);
        for other in 0..size.as_u64() {
            let (leaf, index) = (leaf_hash(&other.to_be_bytes()), LeafIndex::new(other));
            let good = inclusion_proof(index, size, &source).unwrap();
            for bad in spoilt(&good) {
                assert!(verify_inclusion(&leaf, index, size, &bad, &root(size)).is_err());
            }
            let first = TreeSize::new(other);
            let good = consistency_proof(first, size, &source).unwrap();
            for bad in spoilt(&good) {
                assert!(verify_consistency(first, size, &bad, &root(first), &root(size)).is_err());
            }
        }
    }
}

proptest! {
    #[test]
    fn proofs_of_random_trees_hold_and_bind_their_place(size in 2_u64..5_000, a in any::<u64>(), b in any::<u64>()) {
        let source = tree(size);
        let (index, claimed, newer) = (a % size, b % size, TreeSize::new(size));
        let root = root_at(newer, &source).unwrap();
        let proof = inclusion_proof(LeafIndex::new(index), newer, &source).unwrap();
        let leaf = leaf_hash(&index.to_be_bytes());
        let result = verify_inclusion(&leaf, LeafIndex::new(claimed), newer, &proof, &root);
        prop_assert_eq!(result.is_ok(), claimed == index);
        let first = TreeSize::new(index + 1);
        let old_root = root_at(first, &source).unwrap();
        let proof = consistency_proof(first, newer, &source).unwrap();
        prop_assert_eq!(verify_consistency(first, newer, &proof, &old_root, &root), Ok(()));
        let claimed = TreeSize::new(claimed + 1);
        let result = verify_consistency(claimed, newer, &proof, &old_root, &root);
        prop_assert_eq!(result.is_ok(), claimed == first);
    }

    #[test]
    fn checkpoints_read_back(origin in "[a-z0-9./é-]{1,60}", size in 0..=tlog::TREE_SIZE_MAX, root in any::<[u8; 32]>()) {
        let checkpoint = Checkpoint::new(&origin, TreeSize::new(size), Hash::from_bytes(root)).unwrap();
        prop_assert_eq!(Checkpoint::parse(&checkpoint.to_text()), Ok(checkpoint));
    }

    #[test]
    fn bundles_read_back(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..=256)) {
        let bundle = encode_bundle(&entries).unwrap();
        let width = TileWidth::new(u16::try_from(entries.len()).unwrap()).unwrap();
        let decoded: Result<Vec<_>, _> = decode_bundle(&bundle, width).collect();
        prop_assert_eq!(decoded.unwrap(), entries);
    }

    #[test]
    fn whatever_is_read_is_written_the_same(text in "(tile/|entries/|x?[0-9]{3}/?|\\.p/|[0-9]{1,3}){1,9}") {
        if let Ok(path) = TilePath::parse(&text) {
            prop_assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn notes_are_written_as_they_were_read(text in "([a-z \n—]{0,20}\n){1,3}", lines in 1_usize..4) {
        let key = tlog::SignerKey::from_seed("a.example", &[1; 32]).unwrap();
        let note = format!("{text}\n{}", key.sign(&text).to_string().repeat(lines));
        let read = Note::parse(note.as_bytes()).unwrap();
        prop_assert_eq!(read.text(), &text);
        prop_assert_eq!(read.to_string(), note);
        prop_assert!(read.verify(&[key.verifier().clone()]).is_ok());
    }
}
