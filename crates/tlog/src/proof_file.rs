//! `.tlog-proof` files: an inclusion proof with the checkpoint it leads to.
//!
//! Out of scope: the entry itself; its leaf hash is the application's to make.
//! Source: C2SP tlog-proof (draft).

use std::fmt;

use thiserror::Error;

use crate::{
    Checkpoint, CheckpointError, Hash, LeafIndex, NOTE_BYTES_MAX, Note, NoteError, OpenedCheckpoint,
    PROOF_HASHES_MAX, ProofError, VerifierKey,
    text::{decode_base64, encode_base64, parse_decimal},
    verify_inclusion,
};

/// First line of the file.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Longest `extra` in bytes: room for an entry, the largest thing one would add here.
pub const EXTRA_BYTES_MAX: usize = 65_535;

/// Longest file in bytes: header (23), `extra ` and its base64 (87,387), `index ` and 20 digits
/// (27), 63 hashes of 45, an empty line, and a note of [`NOTE_BYTES_MAX`].
pub const TLOG_PROOF_BYTES_MAX: usize = 23 + 87_387 + 27 + PROOF_HASHES_MAX * 45 + 1 + NOTE_BYTES_MAX;

/// A proof that an entry is in a log, to be checked offline. `Display` writes the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Application data, at most [`EXTRA_BYTES_MAX`] bytes. **Not authenticated**: anybody can change it.
    pub extra: Option<Vec<u8>>,
    /// The entry's position.
    pub index: LeafIndex,
    /// The inclusion proof, at most [`PROOF_HASHES_MAX`] hashes: leaf's sibling first.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    pub checkpoint_note: String,
}

/// Why bytes are no `.tlog-proof` file, or one that proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlogProofError {
    /// Longer than [`TLOG_PROOF_BYTES_MAX`].
    #[error("a proof of {bytes} bytes is too long")]
    TooLong {
        /// The file's length.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("the proof is not text")]
    NotText,
    /// Not the line that belongs here, or not in its one canonical spelling.
    #[error("line {line} of the proof is malformed")]
    Malformed {
        /// 1-based.
        line: usize,
    },
    /// More hashes than [`PROOF_HASHES_MAX`].
    #[error("the proof has too many hashes")]
    TooManyHashes,
    /// What follows the empty line is no note.
    #[error("the proof's checkpoint is no note")]
    Note(#[source] NoteError),
    /// The checkpoint is malformed, another log's, or not signed as it must be.
    #[error("the proof's checkpoint is refused")]
    Checkpoint(#[source] CheckpointError),
    /// The leaf is not at this index of the checkpoint's tree.
    #[error("the proof does not lead from this leaf to the checkpoint")]
    Inclusion(#[source] ProofError),
}

impl TlogProof {
    /// Reads a file. Nothing is verified; the checkpoint is known to be a note, no more.
    ///
    /// # Errors
    /// [`TlogProofError`], but for the last two.
    pub fn parse(bytes: &[u8]) -> Result<Self, TlogProofError> {
        if bytes.len() > TLOG_PROOF_BYTES_MAX {
            return Err(TlogProofError::TooLong { bytes: bytes.len() });
        }
        let text = str::from_utf8(bytes).map_err(|_| TlogProofError::NotText)?;
        let mut lines = Lines {
            rest: text,
            number: 0,
        };
        if lines.next()? != HEADER {
            return Err(lines.malformed());
        }
        let mut line = lines.next()?;
        let mut extra = None;
        if let Some(base64) = line.strip_prefix("extra ") {
            let decoded = decode_base64(base64).filter(|extra| extra.len() <= EXTRA_BYTES_MAX);
            extra = Some(decoded.ok_or_else(|| lines.malformed())?);
            line = lines.next()?;
        }
        let index = line.strip_prefix("index ").and_then(parse_decimal);
        let index = LeafIndex::new(index.ok_or_else(|| lines.malformed())?);
        let mut hashes = Vec::new();
        loop {
            let line = lines.next()?;
            if line.is_empty() {
                break;
            }
            if hashes.len() == PROOF_HASHES_MAX {
                return Err(TlogProofError::TooManyHashes);
            }
            hashes.push(Hash::from_base64(line).map_err(|_| lines.malformed())?);
        }
        Note::parse(lines.rest.as_bytes()).map_err(TlogProofError::Note)?;
        Ok(Self {
            extra,
            index,
            hashes,
            checkpoint_note: lines.rest.to_owned(),
        })
    }

    /// Writes the file, as [`TlogProof::parse`] reads it.
    pub fn encode(&self) -> String {
        self.to_string()
    }

    /// Checks that `leaf` is at this proof's index in the log `expected_origin`, as its own key among
    /// `keys` says; returns the checkpoint, whose cosignatures the caller's policy counts.
    ///
    /// # Errors
    /// [`TlogProofError::Checkpoint`] or [`TlogProofError::Inclusion`].
    pub fn verify<'k>(
        &self,
        leaf: &Hash,
        keys: &'k [VerifierKey],
        expected_origin: &str,
    ) -> Result<OpenedCheckpoint<'k>, TlogProofError> {
        let opened = Checkpoint::open(self.checkpoint_note.as_bytes(), keys, expected_origin)
            .map_err(TlogProofError::Checkpoint)?;
        let (size, root) = (opened.checkpoint.size(), opened.checkpoint.root());
        verify_inclusion(leaf, self.index, size, &self.hashes, &root).map_err(TlogProofError::Inclusion)?;
        Ok(opened)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", encode_base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes
            .iter()
            .try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint_note)
    }
}

/// Lines that end in a line feed, and what is left after them.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, TlogProofError> {
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(line)
    }

    /// The line last read.
    fn malformed(&self) -> TlogProofError {
        TlogProofError::Malformed { line: self.number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SignerKey, TreeSize, empty_root, leaf_hash};

    fn one_leaf() -> (TlogProof, VerifierKey) {
        let key = SignerKey::from_seed("log.example/a", &[1; 32]).unwrap();
        let checkpoint = Checkpoint::new("log.example/a", TreeSize::new(1), leaf_hash(b"a")).unwrap();
        let proof = TlogProof {
            extra: None,
            index: LeafIndex::new(0),
            hashes: Vec::new(),
            checkpoint_note: checkpoint.sign(&key),
        };
        (proof, key.verifier().clone())
    }

    #[test]
    fn a_log_of_one_leaf_has_no_hashes() {
        let (proof, key) = one_leaf();
        assert!(
            proof
                .encode()
                .starts_with("c2sp.org/tlog-proof@v1\nindex 0\n\nlog.example/a\n1\n")
        );
        assert_eq!(TlogProof::parse(proof.encode().as_bytes()), Ok(proof.clone()));
        let keys = [key];
        assert!(proof.verify(&leaf_hash(b"a"), &keys, "log.example/a").is_ok());
        let refused = proof.verify(&leaf_hash(b"b"), &keys, "log.example/a");
        assert_eq!(refused, Err(TlogProofError::Inclusion(ProofError::RootDiffers)));
        assert!(matches!(
            proof.verify(&leaf_hash(b"a"), &keys, "log.example/b"),
            Err(TlogProofError::Checkpoint(CheckpointError::OriginDiffers { .. }))
        ));
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let (mut proof, _) = one_leaf();
        proof.extra = Some(vec![7; EXTRA_BYTES_MAX]);
        proof.hashes = vec![empty_root(); PROOF_HASHES_MAX];
        assert_eq!(TlogProof::parse(proof.encode().as_bytes()), Ok(proof.clone()));
        proof.hashes.push(empty_root());
        assert_eq!(
            TlogProof::parse(proof.encode().as_bytes()),
            Err(TlogProofError::TooManyHashes)
        );
        proof.hashes.clear();
        proof.extra = Some(vec![7; EXTRA_BYTES_MAX + 1]);
        let malformed = Err(TlogProofError::Malformed { line: 2 });
        assert_eq!(TlogProof::parse(proof.encode().as_bytes()), malformed);
        let bytes = TLOG_PROOF_BYTES_MAX + 1;
        assert_eq!(
            TlogProof::parse(&vec![b'a'; bytes]),
            Err(TlogProofError::TooLong { bytes })
        );
    }

    #[test]
    fn every_other_spelling_is_refused() {
        let (mut proof, _) = one_leaf();
        proof.hashes = vec![empty_root()];
        proof.extra = Some(b"x".to_vec());
        let text = proof.encode();
        for (from, to, line) in [
            ("@v1", "@v2", 1),
            ("@v1\n", "@v1\r\n", 1),
            ("extra eA==", "extra eB==", 2),
            ("extra eA==", "extra", 2),
            ("extra eA==", "extra eA==\nextra eA==", 3),
            ("index 0", "index 00", 3),
            ("index 0", "index +0", 3),
            ("index 0", "index", 3),
            ("index 0", "index 18446744073709551616", 3),
            ("index 0", "index 0\nindex 0", 4),
            ("FU=\n", "FV=\n", 4),
            ("FU=\n", "FU\n", 4),
        ] {
            let bad = text.replacen(from, to, 1);
            assert_eq!(
                TlogProof::parse(bad.as_bytes()),
                Err(TlogProofError::Malformed { line }),
                "{bad}"
            );
        }
        assert_eq!(TlogProof::parse(b""), Err(TlogProofError::Malformed { line: 1 }));
        assert_eq!(TlogProof::parse(b"\xff"), Err(TlogProofError::NotText));
    }
}
