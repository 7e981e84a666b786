use ::tlog::{Hash, LeafIndex, TreeSize, verify_consistency, verify_inclusion};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::server::TestServer;

fn hash(value: &Value) -> Hash {
    Hash::from_hex(value.as_str().unwrap()).unwrap()
}

fn hashes(value: &Value) -> Vec<Hash> {
    let decode = |text: &Value| {
        STANDARD
            .decode(text.as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap()
    };
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| Hash::from_bytes(decode(text)))
        .collect()
}

#[test]
fn the_head_follows_the_ledger() {
    let server = TestServer::new();
    let head = server.get("/api/v1/ledger/head").ok();
    assert_eq!(
        (&head["tree_size"], &head["checkpoint_size"]),
        (&0.into(), &Value::Null)
    );
    assert_eq!(hash(&head["tree_root"]), ::tlog::empty_root());
    let receipts = server.fill(5);
    server.sign();
    let head = server.get("/api/v1/ledger/head").ok();
    assert_eq!(head["tree_size"], receipts[4].tree_size);
    assert_eq!(head["checkpoint_size"], 5);
    assert_eq!(head["status"], "ok");
    assert_eq!(head["origin"], "deponent.local/default");
    assert_eq!(head["tenant_id"], "default");
    assert!(
        head["verified_size"].is_null()
            && head["verified_at"].is_null()
            && head["last_full_scrub_at"].is_null()
    );
}

#[test]
fn a_leaf_is_what_its_receipt_says() {
    let server = TestServer::new();
    let receipt = server.fill(3)[1];
    let leaf = server.get("/api/v1/ledger/leaves/1").ok();
    assert_eq!(leaf["record_id"], receipt.record_id.to_string());
    assert_eq!(hash(&leaf["leaf_hash"]), receipt.leaf_hash);
    // The header is embedded as stored, so its text hashes to the leaf hash.
    let answer = server.get("/api/v1/ledger/leaves/1").text();
    let start = answer.find("\"header\":").unwrap() + 9;
    assert_eq!(
        ::tlog::leaf_hash(&answer.as_bytes()[start..answer.len() - 1]),
        receipt.leaf_hash
    );
    assert_eq!(server.get("/api/v1/ledger/leaves/3").problem(404), "not_found");
    for bad in ["-1", "x", "1.0", "99999999999999999999"] {
        assert_eq!(
            server.get(&format!("/api/v1/ledger/leaves/{bad}")).problem(400),
            "bad_parameter"
        );
    }
}

#[test]
fn every_inclusion_proof_verifies() {
    let server = TestServer::new();
    let receipts = server.fill(9);
    for size in 1..=9_u64 {
        for index in 0..size {
            let path = format!("/api/v1/ledger/proofs/inclusion?leaf_index={index}&tree_size={size}");
            let proof = server.get(&path).ok();
            let leaf = receipts[usize::try_from(index).unwrap()].leaf_hash;
            assert_eq!(hash(&proof["leaf_hash"]), leaf);
            let (index, size) = (LeafIndex::new(index), TreeSize::new(size));
            verify_inclusion(
                &leaf,
                index,
                size,
                &hashes(&proof["hashes"]),
                &hash(&proof["root_hash"]),
            )
            .unwrap();
        }
    }
    let head = server.get("/api/v1/ledger/head").ok();
    let proof = server.get("/api/v1/ledger/proofs/inclusion?leaf_index=4").ok();
    assert_eq!(
        (&proof["root_hash"], &proof["tree_size"]),
        (&head["tree_root"], &9.into())
    );
}

#[test]
fn every_consistency_proof_verifies() {
    let server = TestServer::new();
    server.fill(9);
    for second in 0..=9_u64 {
        for first in 0..=second {
            let path = format!("/api/v1/ledger/proofs/consistency?first={first}&second={second}");
            let proof = server.get(&path).ok();
            let (first, second) = (TreeSize::new(first), TreeSize::new(second));
            let roots = (hash(&proof["first_root"]), hash(&proof["second_root"]));
            verify_consistency(first, second, &hashes(&proof["hashes"]), &roots.0, &roots.1).unwrap();
        }
    }
}

#[test]
fn proofs_of_what_is_not_there_are_refused() {
    let server = TestServer::new();
    server.fill(3);
    let proofs = "/api/v1/ledger/proofs";
    assert_eq!(
        server
            .get(&format!("{proofs}/inclusion?leaf_index=3"))
            .problem(404),
        "not_found"
    );
    for bad in [
        "inclusion",
        "inclusion?leaf_index=-1",
        "inclusion?leaf_index=x",
        "inclusion?leaf_index=1&tree_size=4",
        "inclusion?leaf_index=1&tree_size=1",
        "inclusion?leaf_index=0&size=1",
        "inclusion?leaf_index=0&leaf_index=1",
        "inclusion?leaf_index=0&tree_size=0",
        "consistency?first=3&second=2",
        "consistency?first=1&second=4",
        "consistency?second=2",
        "consistency?first=1&second=1000000000",
        "inclusion?leaf_index=%zz",
    ] {
        let code = server.get(&format!("{proofs}/{bad}")).problem(400);
        assert!(code == "bad_parameter" || code == "malformed", "{bad}: {code}");
    }
    let named = server
        .get(&format!("{proofs}/inclusion?leaf_index=0&size=1"))
        .text();
    assert!(named.contains("size"), "{named}");
}
