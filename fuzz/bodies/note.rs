//! Notes and key texts: whatever is read is written the same, and verifying never panics.

use tlog::{Note, SignatureLine, SignerKey, VerifierKey};

const KEYS: [&str; 2] = [
    "log.example/acme+6a967d9a+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c",
    "witness.example/w1+df1c0a35+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU",
];

pub(crate) fn run(data: &[u8]) {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_string().as_bytes(), data);
        let keys: Vec<VerifierKey> = KEYS
            .iter()
            .filter_map(|text| VerifierKey::parse(text).ok())
            .collect();
        assert_eq!(keys.len(), 2);
        if let Ok(verified) = note.verify(&keys) {
            assert!((1..=2).contains(&verified.len()));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = SignerKey::parse(text) {
        assert_eq!(key.to_secret_text(), text);
    }
    if let Ok(line) = SignatureLine::parse(text) {
        assert_eq!(
            line.to_string().trim_end_matches('\n'),
            text.trim_end_matches('\n')
        );
    }
}
