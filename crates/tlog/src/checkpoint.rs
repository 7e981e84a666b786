//! Checkpoints: a log's signed statement of its size and root.
//!
//! Out of scope: whether two checkpoints agree ([`crate::verify_consistency`]) and
//! how many cosigners suffice.
//! Start at [`Checkpoint::open`]. Source: C2SP tlog-checkpoint.

use thiserror::Error;

use crate::{
    Hash, KeyKind, Note, NoteError, SignerKey, TREE_SIZE_MAX, TreeSize, Verified, VerifierKey,
    key::is_key_name, text::parse_decimal,
};

/// A log's name, size and root: what is signed and compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: TreeSize,
    root: Hash,
    extensions: Vec<String>,
}

/// A checkpoint together with the keys whose signatures on it are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedCheckpoint<'k> {
    /// What the log signed.
    pub checkpoint: Checkpoint,
    /// The log's own key at least; each key once, in line order.
    pub signatures: Vec<Verified<'k>>,
}

/// Why bytes are no checkpoint, or one not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Empty, longer than 255 bytes, or with white space, a control character or a `+`.
    #[error("not an origin")]
    Origin,
    /// More leaves than [`TREE_SIZE_MAX`].
    #[error("the checkpoint's tree is larger than any tree")]
    SizeTooLarge,
    /// Not an origin, a canonical decimal, canonical base64 of 32 bytes, each on its line.
    #[error("line {line} of the checkpoint is malformed")]
    Malformed {
        /// 1-based.
        line: usize,
    },
    /// The checkpoint is another log's.
    #[error("the checkpoint is of {found}, not of {expected}")]
    OriginDiffers {
        /// The origin asked for.
        expected: String,
        /// The origin found.
        found: String,
    },
    /// Only cosigners' signatures are good; the log itself has not signed with a key given.
    #[error("no key of the log itself has signed the checkpoint")]
    NoLogSignature,
    /// The note around it is malformed, or its signatures are not good.
    #[error("the checkpoint's note is refused")]
    Note(#[from] NoteError),
}

impl Checkpoint {
    /// States that the log `origin` has `size` leaves with this `root`.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] or [`CheckpointError::SizeTooLarge`].
    pub fn new(origin: &str, size: TreeSize, root: Hash) -> Result<Self, CheckpointError> {
        if !is_key_name(origin) {
            return Err(CheckpointError::Origin);
        }
        if size.as_u64() > TREE_SIZE_MAX {
            return Err(CheckpointError::SizeTooLarge);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
            extensions: Vec::new(),
        })
    }

    /// Reads a checkpoint's text, as [`Checkpoint::to_text`] writes it. Nothing is verified.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`] or [`CheckpointError::SizeTooLarge`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let malformed = |line| CheckpointError::Malformed { line };
        let line_count = text.lines().count();
        let mut lines = text.strip_suffix('\n').ok_or(malformed(line_count))?.split('\n');
        let origin = lines.next().ok_or(malformed(1))?;
        let size = lines.next().and_then(parse_decimal).ok_or(malformed(2))?;
        let root = lines
            .next()
            .and_then(|line| Hash::from_base64(line).ok())
            .ok_or(malformed(3))?;
        let mut checkpoint = Self::new(origin, TreeSize::new(size), root).map_err(|error| match error {
            CheckpointError::Origin => malformed(1),
            other => other,
        })?;
        for (line, number) in lines.zip(4..) {
            if line.is_empty() || line.bytes().any(|byte| byte < b' ') {
                return Err(malformed(number));
            }
            checkpoint.extensions.push(line.to_owned());
        }
        Ok(checkpoint)
    }

    /// The text that is signed: origin, size, root, and extension lines if any were read.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, self.root.to_base64());
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Signs; returns the note. The key's name should be the origin, or [`Checkpoint::open`] will
    /// not take it for the log's own.
    pub fn sign(&self, key: &SignerKey) -> String {
        let text = self.to_text();
        format!("{text}\n{}", key.sign(&text))
    }

    /// Reads a signed checkpoint and checks it: it is of `expected_origin`, every line of a known
    /// key is good, and one of them is the log's own.
    ///
    /// The log's own key is one of `keys` of type 01 whose name is the origin.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open<'k>(
        note: &[u8],
        keys: &'k [VerifierKey],
        expected_origin: &str,
    ) -> Result<OpenedCheckpoint<'k>, CheckpointError> {
        let note = Note::parse(note)?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin != expected_origin {
            let (expected, found) = (expected_origin.to_owned(), checkpoint.origin);
            return Err(CheckpointError::OriginDiffers { expected, found });
        }
        let opened = OpenedCheckpoint {
            signatures: note.verify(keys)?,
            checkpoint,
        };
        if opened.log_keys().next().is_none() {
            return Err(CheckpointError::NoLogSignature);
        }
        Ok(opened)
    }

    /// The log's name, which is its identity.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Number of leaves.
    pub const fn size(&self) -> TreeSize {
        self.size
    }

    /// Root of the tree.
    pub const fn root(&self) -> Hash {
        self.root
    }

    /// Lines after the root. **Not to be trusted**: no cosigner vouches for them.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

impl<'k> OpenedCheckpoint<'k> {
    /// The log's own keys among those that signed.
    pub fn log_keys(&self) -> impl Iterator<Item = &'k VerifierKey> {
        let keys = self.signatures.iter().map(|verified| verified.key);
        keys.filter(|key| key.kind() == KeyKind::Ed25519 && key.name() == self.checkpoint.origin)
    }

    /// Those that count as witnesses: cosignatures, but none under the log's own name or by a
    /// public key the log itself signed with.
    ///
    /// Whether two names belong to one party is for the caller's policy to say.
    pub fn cosignatures(&self) -> impl Iterator<Item = Verified<'k>> {
        let own = |key: &VerifierKey| {
            key.name() == self.checkpoint.origin
                || self.log_keys().any(|log| log.public_key() == key.public_key())
        };
        let cosigned = |verified: &&Verified<'k>| verified.key.kind() == KeyKind::Cosignature;
        self.signatures
            .iter()
            .filter(cosigned)
            .filter(move |verified| !own(verified.key))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf_hash;

    const TEXT: &str = "log.example/acme\n3\n1BhuPAWmIM5hOX6Di/vXbm8n5tfaoTxZ64Ko4JRgjhw=\n";

    #[test]
    fn the_worked_checkpoint_reads_back() {
        let checkpoint = Checkpoint::parse(TEXT).unwrap();
        assert_eq!(checkpoint.origin(), "log.example/acme");
        assert_eq!(checkpoint.size(), TreeSize::new(3));
        assert_eq!(
            checkpoint.root().to_base64(),
            "1BhuPAWmIM5hOX6Di/vXbm8n5tfaoTxZ64Ko4JRgjhw="
        );
        assert_eq!(checkpoint.to_text(), TEXT);
        let made = Checkpoint::new("log.example/acme", checkpoint.size(), checkpoint.root());
        assert_eq!(made, Ok(checkpoint));
    }

    #[test]
    fn extension_lines_are_kept_and_returned() {
        let text = format!("{TEXT}one\ntwo\n");
        let checkpoint = Checkpoint::parse(&text).unwrap();
        assert_eq!(checkpoint.extensions(), ["one", "two"]);
        assert_eq!(checkpoint.to_text(), text);
        assert_eq!(
            Checkpoint::parse(&format!("{TEXT}\n")),
            Err(CheckpointError::Malformed { line: 4 })
        );
        assert_eq!(
            Checkpoint::parse(&format!("{TEXT}a\n\n")),
            Err(CheckpointError::Malformed { line: 5 })
        );
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for (from, to, line) in [
            ("log.example/acme", "", 1),
            ("log.example/acme", "log example", 1),
            ("log.example/acme", "log+example", 1),
            ("\n3\n", "\n03\n", 2),
            ("\n3\n", "\n+3\n", 2),
            ("\n3\n", "\n-3\n", 2),
            ("\n3\n", "\n3 \n", 2),
            ("\n3\n", "\n\n", 2),
            ("\n3\n", "\n18446744073709551616\n", 2),
            ("jhw=\n", "jhx=\n", 3),
            ("jhw=\n", "jhw\n", 3),
            ("jhw=\n", "jhw=\r\n", 3),
            ("jhw=\n", "jhw=", 3),
        ] {
            let text = TEXT.replace(from, to);
            assert_eq!(
                Checkpoint::parse(&text),
                Err(CheckpointError::Malformed { line }),
                "{text:?}"
            );
        }
        assert!(Checkpoint::parse("").is_err() && Checkpoint::parse("\n").is_err());
        let large = TEXT.replace("\n3\n", "\n9223372036854775809\n");
        assert_eq!(Checkpoint::parse(&large), Err(CheckpointError::SizeTooLarge));
        assert!(Checkpoint::parse(&TEXT.replace("\n3\n", "\n9223372036854775808\n")).is_ok());
    }

    #[test]
    fn only_the_log_itself_can_open_its_checkpoint() {
        let checkpoint = Checkpoint::new("log.example/a", TreeSize::new(1), leaf_hash(b"a")).unwrap();
        let own = SignerKey::from_seed("log.example/a", &[1; 32]).unwrap();
        let other = SignerKey::from_seed("log.example/b", &[2; 32]).unwrap();
        let keys = [own.verifier().clone(), other.verifier().clone()];
        let open = |note: String, origin: &str| {
            Checkpoint::open(note.as_bytes(), &keys, origin).map(|opened| opened.checkpoint)
        };
        assert_eq!(
            open(checkpoint.sign(&own), "log.example/a"),
            Ok(checkpoint.clone())
        );
        assert_eq!(
            open(checkpoint.sign(&other), "log.example/a"),
            Err(CheckpointError::NoLogSignature)
        );
        let differs = CheckpointError::OriginDiffers {
            expected: "log.example/b".into(),
            found: "log.example/a".into(),
        };
        assert_eq!(open(checkpoint.sign(&own), "log.example/b"), Err(differs));
        let unknown = Checkpoint::open(checkpoint.sign(&own).as_bytes(), &[], "log.example/a");
        assert_eq!(unknown, Err(CheckpointError::Note(NoteError::NoKnownSignature)));
    }
}
