//! Checkpoint texts, alone and in a note.

use tlog::{Checkpoint, VerifierKey};

const LOG: &str = "log.example/acme+6a967d9a+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";

pub(crate) fn run(data: &[u8]) {
    if let Some(checkpoint) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| Checkpoint::parse(text).ok())
    {
        assert_eq!(checkpoint.to_text().as_bytes(), data);
    }
    let keys: Vec<VerifierKey> = VerifierKey::parse(LOG).into_iter().collect();
    if let Ok(opened) = Checkpoint::open(data, &keys, "log.example/acme") {
        assert_eq!(opened.log_keys().count(), 1);
        assert_eq!(opened.cosignatures().count(), 0);
        assert!(data.starts_with(opened.checkpoint.to_text().as_bytes()));
    }
}
