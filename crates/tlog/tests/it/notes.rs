//! Notes of other programs, cosignatures, and Ed25519 at its edges.

use base64::{Engine, engine::general_purpose::STANDARD};
use tlog::{
    Checkpoint, CheckpointError, KeyError, KeyId, KeyKind, Note, NoteError, SignerKey, TreeSize, VerifierKey,
    leaf_hash,
};

use crate::worked;

fn line(name: &str, id: KeyId, signature: &[u8]) -> String {
    let blob = [id.as_bytes().as_slice(), signature].concat();
    format!("— {name} {}\n", STANDARD.encode(blob))
}

/// C2SP signed-note, "Example".
#[test]
fn the_example_note_of_the_specification_verifies() {
    let vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    let keys = [VerifierKey::parse(vkey).unwrap()];
    let text = "This is an example message.\n\n— example.com/foo \
                Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    let note = Note::parse(text.as_bytes()).unwrap();
    assert_eq!(note.verify(&keys).unwrap()[0].key, &keys[0]);
    assert_eq!(note.to_string(), text);
}

/// The example of Go's package golang.org/x/mod/sumdb/note.
#[test]
fn the_example_key_of_go_signs_the_same_bytes() {
    let text = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n";
    let secret = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    let key = SignerKey::parse(secret).unwrap();
    assert_eq!(key.to_secret_text(), secret);
    let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    assert_eq!(key.verifier().to_string(), vkey);
    let expected = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg\
                    KvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    assert_eq!(key.sign(text).to_string(), expected);
}

#[test]
fn a_log_cannot_witness_itself() {
    let key = SignerKey::from_seed("log.example/a", &[1; 32]).unwrap();
    let checkpoint = Checkpoint::new("log.example/a", TreeSize::new(1), leaf_hash(b"a")).unwrap();
    let text = checkpoint.to_text();
    // Under its own name with another key; under another name with its own key; a real witness.
    let (own_name, line_1) = worked::cosign("log.example/a", 7, 1, &text);
    let (own_key, line_2) = worked::cosign("sock.example/puppet", 1, 2, &text);
    let (witness, line_3) = worked::cosign("witness.example/w", 8, 3, &text);
    let keys = [key.verifier().clone(), own_name, own_key, witness];
    let note = checkpoint.sign(&key) + &line_1 + &line_2 + &line_3;
    let opened = Checkpoint::open(note.as_bytes(), &keys, "log.example/a").unwrap();
    assert_eq!(opened.signatures.len(), 4);
    let witnesses: Vec<_> = opened.cosignatures().map(|verified| verified.key).collect();
    assert_eq!(witnesses, [&keys[3]]);
    // Nor does a cosignature under its name stand for its signature.
    let unsigned = format!("{text}\n{line_1}{line_3}");
    let refused = Checkpoint::open(unsigned.as_bytes(), &keys, "log.example/a");
    assert_eq!(refused, Err(CheckpointError::NoLogSignature));
}

#[test]
fn a_witness_counts_once_with_its_latest_time() {
    let text = "a\n";
    let (key, line_1) = worked::cosign("w.example", 2, 10, text);
    let (_, line_2) = worked::cosign("w.example", 2, 30, text);
    let (_, line_3) = worked::cosign("w.example", 2, 20, text);
    let note = Note::parse(format!("{text}\n{line_1}{line_2}{line_3}").as_bytes()).unwrap();
    let keys = [key];
    let verified = note.verify(&keys).unwrap();
    assert_eq!((verified.len(), verified[0].time_secs), (1, Some(30)));
}

#[test]
fn the_time_of_a_cosignature_is_signed() {
    let (key, line) = worked::cosign("w.example", 2, 10, "a\n");
    let mut blob = STANDARD
        .decode(line.trim_end().rsplit(' ').next().unwrap())
        .unwrap();
    blob[11] ^= 1;
    let forged = format!("a\n\n— w.example {}\n", STANDARD.encode(blob));
    let bad = NoteError::BadSignature {
        name: "w.example".into(),
        id: key.id(),
    };
    assert_eq!(Note::parse(forged.as_bytes()).unwrap().verify(&[key]), Err(bad));
}

#[test]
fn an_ml_dsa_line_is_read_and_ignored() {
    let blob = STANDARD.encode([&[0xba, 0xed, 0x3d, 0x11], &[7; 8 + 2420][..]].concat());
    assert_eq!(blob.len(), 3244);
    let note = format!("{}— log.example/acme {blob}\n", worked::NOTE);
    let keys = worked::keys();
    let opened = Checkpoint::open(note.as_bytes(), &keys, worked::ORIGIN).unwrap();
    assert_eq!(opened.signatures.len(), 2);
}

#[test]
fn a_hundred_ml_dsa_lines_are_within_the_limits() {
    let blob = STANDARD.encode([7; 4 + 8 + 2420]);
    let name = "a".repeat(255);
    let lines = format!("— {name} {blob}\n").repeat(99);
    let keys = worked::keys();
    let (text, rest) = worked::NOTE.split_once("\n\n").unwrap();
    let first = rest.split_inclusive('\n').next().unwrap();
    let note = format!("{text}\n\n{lines}{first}");
    assert!(Checkpoint::open(note.as_bytes(), &keys, worked::ORIGIN).is_ok());
}

/// S and S + L are the same signature to a lax verifier.
#[test]
fn a_second_spelling_of_s_is_refused() {
    // The group order L, little-endian.
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let key = SignerKey::from_seed("a.example", &[1; 32]).unwrap();
    let keys = [key.verifier().clone()];
    let mut signature = key.sign("t\n").signature().to_vec();
    let mut carry = 0_u16;
    for (byte, addend) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(addend) + carry;
        [*byte, _] = sum.to_le_bytes();
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    let note = format!("t\n\n{}", line("a.example", keys[0].id(), &signature));
    let refused = Note::parse(note.as_bytes()).unwrap().verify(&keys);
    assert!(matches!(refused, Err(NoteError::BadSignature { .. })));
}

/// With A and R both the neutral element and S = 0, a lax verifier accepts every message.
#[test]
fn small_order_points_are_refused() {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    assert_eq!(
        VerifierKey::new("a.example", KeyKind::Ed25519, &neutral),
        Err(KeyError::PublicKey)
    );
    // R of small order under a sound key.
    let keys = [SignerKey::from_seed("a.example", &[1; 32])
        .unwrap()
        .verifier()
        .clone()];
    let signature = [neutral, [0; 32]].concat();
    let note = format!("t\n\n{}", line("a.example", keys[0].id(), &signature));
    let refused = Note::parse(note.as_bytes()).unwrap().verify(&keys);
    assert!(matches!(refused, Err(NoteError::BadSignature { .. })));
}

/// Ids are 32 bits: two keys of one name may share one. These seeds are the first pair that does,
/// among seeds that count up from zero.
#[test]
fn keys_that_share_name_and_id_are_told_apart() {
    let keys = [4_416_u32, 76_502].map(|counter| {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&counter.to_be_bytes());
        SignerKey::from_seed("log.example/a", &seed).unwrap()
    });
    assert_eq!(keys[0].verifier().id(), keys[1].verifier().id());
    let verifiers = [keys[0].verifier().clone(), keys[1].verifier().clone()];
    for key in &keys {
        let note = format!("t\n\n{}", key.sign("t\n"));
        let note = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(note.verify(&verifiers).unwrap()[0].key, key.verifier());
    }
    let both = format!("t\n\n{}{}", keys[1].sign("t\n"), keys[0].sign("t\n"));
    assert_eq!(
        Note::parse(both.as_bytes())
            .unwrap()
            .verify(&verifiers)
            .unwrap()
            .len(),
        2
    );
    // Only one of them known: the other's line is taken for a bad one of the known key.
    let refused = Note::parse(both.as_bytes())
        .unwrap()
        .verify(&verifiers[..1])
        .is_err();
    assert!(refused);
}
