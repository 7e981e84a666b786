//! The worked log: three entries, one log key, one witness.

use ed25519_dalek::Signer;
use tlog::{Checkpoint, Frontier, MemoryTree, SignerKey, TreeSize, VerifierKey, leaf_hash};

pub(crate) const ORIGIN: &str = "log.example/acme";
pub(crate) const LOG: &str = "log.example/acme+6a967d9a+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
pub(crate) const WITNESS: &str = "witness.example/w1+df1c0a35+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
pub(crate) const COSIGNED_AT: u64 = 1_767_225_600;
pub(crate) const NOTE: &str = "\
log.example/acme
3
1BhuPAWmIM5hOX6Di/vXbm8n5tfaoTxZ64Ko4JRgjhw=

— log.example/acme apZ9miKCTtHNW5/ZuUWBo3UR6MRWV4aL1m4u9Xbh6Y+Rp/nmhHZC98QTHXVy8YNGUMVzds5GZYkUEoTRSGObU8MCUAI=
— witness.example/w1 3xwKNQAAAABpVbkAxPwMytdrZ9CF9XjmOPBHykkfrvAGctjDUBdLvWseRbg9SXokoY2JEZ5sFM83hcjBZgC2epWynmiJZseR75D5CQ==
";

/// The `.tlog-proof` file of entry 1, `bravo`.
pub(crate) fn proof_of_bravo() -> String {
    format!(
        "c2sp.org/tlog-proof@v1\nindex 1\nKhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs=\n\
         +TGWLwkXw0bURyk8B7aHrhYJ9wA/ikSganXEFFseGSk=\n\n{NOTE}"
    )
}

pub(crate) fn keys() -> [VerifierKey; 2] {
    [LOG, WITNESS].map(|text| VerifierKey::parse(text).unwrap())
}

/// The cosignature line a witness with this name and seed would add to `text`.
pub(crate) fn cosign(name: &str, seed: u8, time_secs: u64, text: &str) -> (VerifierKey, String) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let public = key.verifying_key().to_bytes();
    let verifier = VerifierKey::new(name, tlog::KeyKind::Cosignature, &public).unwrap();
    let signature = key.sign(format!("cosignature/v1\ntime {time_secs}\n{text}").as_bytes());
    let blob = [
        verifier.id().as_bytes().as_slice(),
        &time_secs.to_be_bytes(),
        &signature.to_bytes(),
    ]
    .concat();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, blob);
    (verifier, format!("— {name} {base64}\n"))
}

#[test]
fn the_log_signs_the_worked_checkpoint_byte_for_byte() {
    let entries = ["alpha", "bravo", "charlie"];
    let mut frontier = Frontier::new();
    for entry in entries {
        frontier.push(leaf_hash(entry.as_bytes()));
    }
    let key = SignerKey::from_seed(ORIGIN, &[1; 32]).unwrap();
    let checkpoint = Checkpoint::new(ORIGIN, frontier.size(), frontier.root()).unwrap();
    let (witness, line) = cosign("witness.example/w1", 2, COSIGNED_AT, &checkpoint.to_text());
    assert_eq!(checkpoint.sign(&key) + &line, NOTE);
    assert_eq!([key.verifier().clone(), witness], keys());
}

#[test]
fn the_worked_checkpoint_opens_with_log_and_witness() {
    let keys = keys();
    let opened = Checkpoint::open(NOTE.as_bytes(), &keys, ORIGIN).unwrap();
    assert_eq!(opened.checkpoint.size(), TreeSize::new(3));
    assert_eq!(opened.log_keys().collect::<Vec<_>>(), [&keys[0]]);
    let witnesses: Vec<_> = opened.cosignatures().collect();
    assert_eq!(witnesses.len(), 1);
    assert_eq!(
        (witnesses[0].key, witnesses[0].time_secs),
        (&keys[1], Some(COSIGNED_AT))
    );
}

#[test]
fn the_worked_proof_verifies_and_only_for_its_entry() {
    let file = proof_of_bravo();
    let proof = tlog::TlogProof::parse(file.as_bytes()).unwrap();
    assert_eq!(proof.encode(), file);
    let keys = keys();
    let opened = proof.verify(&leaf_hash(b"bravo"), &keys, ORIGIN).unwrap();
    assert_eq!(opened.cosignatures().count(), 1);
    assert!(proof.verify(&leaf_hash(b"brav0"), &keys, ORIGIN).is_err());
    let tree: MemoryTree = ["alpha", "bravo", "charlie"]
        .iter()
        .map(|entry| leaf_hash(entry.as_bytes()))
        .collect();
    let made = tlog::inclusion_proof(proof.index, opened.checkpoint.size(), &tree).unwrap();
    assert_eq!(made, proof.hashes);
    let larger = tlog::TlogProof::parse(file.replace("\n3\n", "\n4\n").as_bytes()).unwrap();
    assert!(larger.verify(&leaf_hash(b"bravo"), &keys, ORIGIN).is_err());
}
