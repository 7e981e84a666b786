//! `evidence.integrity`: a run's evidence judged and closed, once (class J).
//!
//! It stands on the records before it: their count is its own run_seq, and SHA-256 over their leaf hashes in order
//! is its digest. So none of a sealed run can be left out unseen.
//!
//! Source: SPEC 6.3; docs/formats.md, "evidence.integrity".

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::BodyError;
use crate::canonical::{self, Value};
use crate::{Kind, hex_string, unhex};

/// SHA-256 over the leaf hashes of a run's records, in order.
#[derive(Clone, Debug, Default)]
pub struct RunDigest {
    count: u64,
    hash: Sha256,
}

impl RunDigest {
    /// Takes the leaf hash of the next record.
    pub fn push(&mut self, leaf_hash: &[u8; 32]) {
        self.count += 1;
        self.hash.update(leaf_hash);
    }

    /// How many records, and the digest.
    pub fn finish(self) -> SealFacts {
        SealFacts {
            count: self.count,
            digest: self.hash.finalize().into(),
        }
    }
}

/// What a seal stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealFacts {
    /// Records of the run before it.
    pub count: u64,
    /// SHA-256 over their leaf hashes, in order.
    pub digest: [u8; 32],
}

impl SealFacts {
    /// The canonical body: a judgement as it is answered, and what it stands on.
    pub fn encode(&self, mut judgement: Value, completeness: Value) -> Vec<u8> {
        judgement.insert("completeness", completeness);
        judgement.insert(
            "records_count",
            Value::from(i64::try_from(self.count).unwrap_or(i64::MAX)),
        );
        judgement.insert("records_digest", hex_string(&self.digest));
        canonical::to_vec(&judgement)
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            records_count: u64,
            records_digest: &'a str,
        }
        let bad = |error: &dyn std::fmt::Display| BodyError::new(Kind::EvidenceIntegrity, error);
        let wire: Wire<'_> = serde_json::from_slice(body).map_err(|error| bad(&error))?;
        let digest = unhex(wire.records_digest.as_bytes()).ok_or_else(|| bad(&"records_digest"))?;
        Ok(Self {
            count: wire.records_count,
            digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn a_seal_holds_count_and_digest_beside_the_judgement() {
        let mut digest = RunDigest::default();
        digest.push(&[1; 32]);
        digest.push(&[2; 32]);
        let facts = digest.finish();
        let body = facts.encode(
            Value::object([("grade", "PASS")]),
            Value::object([("root_present", "pass")]),
        );
        assert_eq!(
            String::from_utf8_lossy(&body),
            r#"{"completeness":{"root_present":"pass"},"grade":"PASS","records_count":2,"records_digest":"f818afd37a6dc3bc92fb44731011277006db4efa6e9023cd7468c02335d22a4d"}"#
        );
        assert_eq!(SealFacts::read(&body).unwrap(), facts);
    }
}
