//! `.tlog-proof` files, and proofs of arbitrary hashes for arbitrary sizes.

use tlog::{
    Hash, LeafIndex, TlogProof, TreeSize, VerifierKey, empty_root, leaf_hash, verify_consistency,
    verify_inclusion,
};

const LOG: &str = "log.example/acme+6a967d9a+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";

pub(crate) fn run(data: &[u8]) {
    if let Ok(proof) = TlogProof::parse(data) {
        assert_eq!(proof.encode().as_bytes(), data);
        let keys: Vec<VerifierKey> = VerifierKey::parse(LOG).into_iter().collect();
        // A leaf nobody logged is proved by nothing.
        assert!(
            proof
                .verify(&leaf_hash(b"never logged"), &keys, "log.example/acme")
                .is_err()
        );
    }
    // Two numbers, then hashes.
    let Some((first, rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    let Some((second, rest)) = rest.split_first_chunk::<8>() else {
        return;
    };
    let (first, second) = (u64::from_be_bytes(*first), u64::from_be_bytes(*second));
    let hashes: Vec<Hash> = rest
        .as_chunks::<32>()
        .0
        .iter()
        .copied()
        .map(Hash::from_bytes)
        .collect();
    let (leaf, root) = (leaf_hash(data), leaf_hash(rest));
    let (index, size) = (LeafIndex::new(first), TreeSize::new(second));
    if verify_inclusion(&leaf, index, size, &hashes, &root).is_ok() {
        assert!(index.is_in(size) && hashes.is_empty() && leaf == root);
    }
    let (older, newer) = (TreeSize::new(first), TreeSize::new(second));
    if verify_consistency(older, newer, &hashes, &leaf, &root).is_ok() {
        // Only equal sizes with equal roots.
        assert!(older == newer && hashes.is_empty() && leaf == root);
    }
    let from_nothing = verify_consistency(TreeSize::ZERO, newer, &hashes, &empty_root(), &root);
    assert_eq!(from_nothing.is_ok(), hashes.is_empty() && newer > TreeSize::ZERO);
}
