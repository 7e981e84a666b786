//! `retention.archived`: bodies were written to an archive, and then pruned.
//!
//! It stands in the commit that prunes, and names the file by its hash: what a pruned record said is what that
//! file says, and its leaf commits to it.
//!
//! Source: SPEC 11.6; docs/formats.md, "retention.archived".

use serde::Deserialize;

use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::commitment::{hex_string, unhex};
use crate::facet::push_facet;
use crate::time::Timestamp;
use crate::{Kind, header::words};

/// Most bodies of one archive: a record of them has at most 500 KB, and the commit that prunes them takes 0.1 s.
pub const ARCHIVED_RECORDS_MAX: usize = 10_000;

words! {
    /// What is kept for how long.
    RetentionClass {
        /// Runs that are not made up.
        Runs = "runs",
        /// Runs that are.
        Synthetic = "synthetic",
        /// System records and telemetry.
        System = "system",
    }
}

/// The body of a `retention.archived`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionArchived {
    /// The file in the folder `archive`.
    pub archive: String,
    /// Its length.
    pub bytes: u64,
    /// What was pruned.
    pub class: RetentionClass,
    /// How many bodies.
    pub count: u64,
    /// The tenant's ledger that the leaves are of.
    pub epoch: u32,
    /// First and last leaf of each stretch, ascending.
    pub leaves: Vec<(u64, u64)>,
    /// All of them were older than this.
    pub older_than: Timestamp,
    /// Of the file.
    pub sha256: [u8; 32],
}

impl RetentionArchived {
    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(canonical::INTEGER_MAX));
        let leaves = self.leaves.iter();
        let leaves = leaves.map(|&(first, last)| Value::from(vec![int(first), int(last)]));
        let leaves = leaves.collect::<Vec<_>>();
        let mut object = Vec::with_capacity(8);
        put(&mut object, "archive", Some(text(&self.archive)));
        put(&mut object, "bytes", Some(int(self.bytes)));
        put(&mut object, "class", Some(text(self.class.as_str())));
        put(&mut object, "count", Some(int(self.count)));
        put(&mut object, "epoch", Some(Value::Int(self.epoch.into())));
        put(&mut object, "leaves", Some(Value::from(leaves)));
        put(
            &mut object,
            "older_than",
            Some(Value::String(self.older_than.to_string())),
        );
        put(
            &mut object,
            "sha256",
            Some(Value::String(hex_string(&self.sha256))),
        );
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        let bad = |reason: &str| BodyError::new(Kind::RetentionArchived, reason);
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::RetentionArchived, error))?;
        let mut before = None;
        for &(first, last) in &wire.leaves {
            if last < first || before.is_some_and(|before| first <= before) {
                return Err(bad("leaves"));
            }
            before = Some(last);
        }
        Ok(Self {
            archive: wire.archive,
            bytes: wire.bytes,
            class: wire.class,
            count: wire.count,
            epoch: wire.epoch,
            leaves: wire.leaves,
            older_than: wire.older_than,
            sha256: unhex(wire.sha256.as_bytes()).ok_or_else(|| bad("sha256"))?,
        })
    }

    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        push_facet(out, "archived.class", self.class.as_str());
    }
}

#[derive(Deserialize)]
struct Wire {
    archive: String,
    bytes: u64,
    class: RetentionClass,
    count: u64,
    epoch: u32,
    leaves: Vec<(u64, u64)>,
    older_than: Timestamp,
    sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these_and_stretches_ascend() {
        let archived = RetentionArchived {
            archive: "acme.0.runs.3-9.jsonl".into(),
            bytes: 4_096,
            class: RetentionClass::Runs,
            count: 6,
            epoch: 0,
            leaves: vec![(3, 7), (9, 9)],
            older_than: Timestamp::parse("2026-08-23T09:30:00Z").unwrap(),
            sha256: [0xab; 32],
        };
        let body = String::from_utf8(archived.encode()).unwrap();
        assert_eq!(
            body,
            format!(
                r#"{{"archive":"acme.0.runs.3-9.jsonl","bytes":4096,"class":"runs","count":6,"epoch":0,"leaves":[[3,7],[9,9]],"older_than":"2026-08-23T09:30:00.000000Z","sha256":"{}"}}"#,
                "ab".repeat(32)
            )
        );
        assert_eq!(RetentionArchived::read(body.as_bytes()).unwrap(), archived);
        for bad in ["[[3,7],[7,9]]", "[[7,3]]"] {
            let body = body.replace("[[3,7],[9,9]]", bad);
            assert!(RetentionArchived::read(body.as_bytes()).is_err(), "{bad}");
        }
    }
}
