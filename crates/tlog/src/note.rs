//! Signed notes: a text, an empty line, signature lines.
//!
//! Out of scope: what the text says ([`crate::Checkpoint`]) and how many cosigners
//! must have signed.
//! Start at [`Note::parse`] and [`Note::verify`]. Source: C2SP signed-note.

use std::fmt;

use thiserror::Error;

use crate::{
    KeyId, VerifierKey,
    key::is_key_name,
    text::{decode_base64, encode_base64},
};

/// Longest note in bytes, as in Go's note package. 100 ML-DSA lines under the longest names
/// (4 + 255 + 1 + 3,244 + 1 bytes each) and a text of 64 KiB are 416 KB.
pub const NOTE_BYTES_MAX: usize = 1_000_000;

/// Most signature lines in a note, as in Go's note package; C2SP wants at least 16. A known key
/// costs one Ed25519 verification a line, so 100 lines stay below ten milliseconds.
pub const SIGNATURE_LINES_MAX: usize = 100;

/// Key id and at least one byte.
const SIGNATURE_BYTES_MIN: usize = 5;

/// A text with signatures, none of them checked yet.
///
/// `Display` writes the note exactly as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

/// One signature line. `Display` writes it with its line feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    name: String,
    id: KeyId,
    signature: Vec<u8>,
}

/// A key whose signature on the note is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<'k> {
    /// One of the keys given.
    pub key: &'k VerifierKey,
    /// Seconds since 1970 a cosigner vouches for; absent in a log's own signature.
    pub time_secs: Option<u64>,
}

/// Why bytes are no note, or a note is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Longer than [`NOTE_BYTES_MAX`].
    #[error("a note of {bytes} bytes is too long")]
    TooLong {
        /// The note's length.
        bytes: usize,
    },
    /// Not UTF-8, or a control character other than the line feed.
    #[error("the note is not plain text")]
    NotText,
    /// No empty line with signature lines after it, up to a final line feed.
    #[error("the note has no signature lines")]
    Unsigned,
    /// More than [`SIGNATURE_LINES_MAX`].
    #[error("the note has {lines} signature lines, too many")]
    TooManySignatures {
        /// Number of lines.
        lines: usize,
    },
    /// Not a dash, a key name and canonical base64.
    #[error("signature line {line} of the note is malformed")]
    MalformedSignature {
        /// 1-based position among the signature lines.
        line: usize,
    },
    /// A known key's signature is wrong: the note was changed, or the line was.
    #[error("the signature of {name} ({id}) does not verify")]
    BadSignature {
        /// The key's name.
        name: String,
        /// The key's id.
        id: KeyId,
    },
    /// None of the keys given has signed.
    #[error("no known key has signed the note")]
    NoKnownSignature,
}

impl Note {
    /// Reads a note. Nothing is verified.
    ///
    /// # Errors
    /// Every [`NoteError`] but the last two.
    ///
    /// Source: C2SP signed-note, "Format".
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong { bytes: bytes.len() });
        }
        let note = str::from_utf8(bytes).map_err(|_| NoteError::NotText)?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::NotText);
        }
        // The text keeps its final line feed; it may have empty lines itself.
        let (text, lines) = note
            .rfind("\n\n")
            .map(|at| note.split_at(at + 1))
            .ok_or(NoteError::Unsigned)?;
        let lines = lines
            .strip_prefix('\n')
            .and_then(|lines| lines.strip_suffix('\n'));
        let lines = lines
            .filter(|lines| !lines.is_empty())
            .ok_or(NoteError::Unsigned)?;
        let count = lines.split('\n').count();
        if count > SIGNATURE_LINES_MAX {
            return Err(NoteError::TooManySignatures { lines: count });
        }
        let signatures = lines.split('\n').zip(1..).map(|(line, number)| {
            SignatureLine::read(line).ok_or(NoteError::MalformedSignature { line: number })
        });
        Ok(Self {
            text: text.to_owned(),
            signatures: signatures.collect::<Result<_, _>>()?,
        })
    }

    /// The text with its final line feed. Believe it after [`Note::verify`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines as they stand.
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Adds a line, such as a witness' answer.
    ///
    /// # Errors
    /// [`NoteError::TooManySignatures`].
    pub fn push(&mut self, line: SignatureLine) -> Result<(), NoteError> {
        let lines = self.signatures.len() + 1;
        if lines > SIGNATURE_LINES_MAX {
            return Err(NoteError::TooManySignatures { lines });
        }
        self.signatures.push(line);
        Ok(())
    }

    /// Checks every line of a known key; returns the keys that signed, each once, in line order.
    ///
    /// Lines of unknown name or id are ignored: anybody can add them. Of a key's several good
    /// cosignatures the latest time counts. Several keys may share a name and an id; then a line
    /// must be good under one of them.
    ///
    /// # Errors
    /// [`NoteError::BadSignature`] for any line of a known key that does not verify;
    /// [`NoteError::NoKnownSignature`].
    ///
    /// Source: C2SP signed-note, "Signatures".
    pub fn verify<'k>(&self, keys: &'k [VerifierKey]) -> Result<Vec<Verified<'k>>, NoteError> {
        let mut verified: Vec<Verified<'k>> = Vec::new();
        for line in &self.signatures {
            let mut candidates = keys.iter().filter(|key| line.may_be_by(key)).peekable();
            if candidates.peek().is_none() {
                continue;
            }
            let good = candidates.find_map(|key| key.verify(&self.text, &line.signature));
            let Some(good) = good else {
                return Err(NoteError::BadSignature {
                    name: line.name.clone(),
                    id: line.id,
                });
            };
            match verified.iter_mut().find(|earlier| earlier.key == good.key) {
                Some(earlier) => earlier.time_secs = earlier.time_secs.max(good.time_secs),
                None => verified.push(good),
            }
        }
        if verified.is_empty() {
            Err(NoteError::NoKnownSignature)
        } else {
            Ok(verified)
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| line.fmt(f))
    }
}

impl SignatureLine {
    /// Reads one line, with or without its line feed.
    ///
    /// # Errors
    /// [`NoteError::TooLong`] or [`NoteError::MalformedSignature`] (as line 1).
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        if line.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong { bytes: line.len() });
        }
        let line = line.strip_suffix('\n').unwrap_or(line);
        Self::read(line).ok_or(NoteError::MalformedSignature { line: 1 })
    }

    /// `name` is a key's, so it is sound.
    pub(crate) fn from_parts(name: &str, id: KeyId, signature: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            id,
            signature: signature.to_vec(),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let (name, base64) = line.strip_prefix("— ")?.split_once(' ')?;
        let blob = decode_base64(base64).filter(|blob| blob.len() >= SIGNATURE_BYTES_MIN)?;
        let (id, signature) = blob.split_first_chunk::<4>()?;
        is_key_name(name).then(|| Self::from_parts(name, KeyId(*id), signature))
    }

    /// Name of the key that is said to have signed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Id of the key that is said to have signed.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What follows the key id.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    fn may_be_by(&self, key: &VerifierKey) -> bool {
        self.id == key.id() && self.name == key.name()
    }
}

impl fmt::Display for SignatureLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = [self.id.as_bytes().as_slice(), &self.signature].concat();
        writeln!(f, "— {} {}", self.name, encode_base64(&blob))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SignerKey;

    fn key(seed: u8) -> SignerKey {
        SignerKey::from_seed("a.example", &[seed; 32]).unwrap()
    }

    fn note(text: &str, lines: &[SignatureLine]) -> String {
        lines
            .iter()
            .fold(format!("{text}\n"), |note, line| note + &line.to_string())
    }

    #[test]
    fn a_note_is_split_at_its_last_empty_line() {
        let text = "one\n\n— a.example AAAAAAA=\n\ntwo\n";
        let signed = note(text, &[key(1).sign(text)]);
        let read = Note::parse(signed.as_bytes()).unwrap();
        assert_eq!(read.text(), text);
        assert_eq!(read.signatures().len(), 1);
        assert_eq!(read.to_string(), signed);
        let keys = [key(1).verifier().clone()];
        assert_eq!(
            read.verify(&keys).unwrap(),
            [Verified {
                key: &keys[0],
                time_secs: None
            }]
        );
    }

    #[test]
    fn malformed_notes_are_refused() {
        let line = key(1).sign("t\n").to_string();
        let base64 = line.trim_end().rsplit(' ').next().unwrap();
        for (bad, error) in [
            (String::new(), NoteError::Unsigned),
            ("t\n".into(), NoteError::Unsigned),
            ("t\n\n".into(), NoteError::Unsigned),
            (format!("t\n{line}"), NoteError::Unsigned),
            (format!("t\n\n{}", line.trim_end()), NoteError::Unsigned),
            (format!("t\r\n\n{line}"), NoteError::NotText),
            (format!("t\0\n\n{line}"), NoteError::NotText),
            (format!("t\t\n\n{line}"), NoteError::NotText),
        ] {
            assert_eq!(Note::parse(bad.as_bytes()), Err(error), "{bad:?}");
        }
        for line in [
            format!("- a.example {base64}"),
            format!("—a.example {base64}"),
            format!("—  {base64}"),
            format!("— a+b {base64}"),
            format!("— a\u{2003}b {base64}"),
            format!("— a.example  {base64}"),
            format!("— a.example {base64} "),
            format!("— a.example {base64}="),
            "— a.example".into(),
            "— a.example AAAAAA==".into(),
            format!("— {} {base64}", "a".repeat(256)),
        ] {
            let bad = format!("t\n\n{line}\n");
            let error = NoteError::MalformedSignature { line: 1 };
            assert_eq!(Note::parse(bad.as_bytes()), Err(error), "{bad:?}");
        }
        assert_eq!(Note::parse(b"t\xff\n\n"), Err(NoteError::NotText));
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let signed = |lines: usize| note("t\n", &vec![key(1).sign("t\n"); lines]);
        assert!(Note::parse(signed(SIGNATURE_LINES_MAX).as_bytes()).is_ok());
        let lines = SIGNATURE_LINES_MAX + 1;
        assert_eq!(
            Note::parse(signed(lines).as_bytes()),
            Err(NoteError::TooManySignatures { lines })
        );
        let mut full = Note::parse(signed(SIGNATURE_LINES_MAX).as_bytes()).unwrap();
        assert_eq!(
            full.push(key(1).sign("t\n")),
            Err(NoteError::TooManySignatures { lines })
        );
        let bytes = NOTE_BYTES_MAX + 1;
        assert_eq!(Note::parse(&vec![b'a'; bytes]), Err(NoteError::TooLong { bytes }));
    }

    #[test]
    fn unknown_lines_are_ignored_and_known_ones_must_be_good() {
        let (known, unknown) = (key(1), key(2));
        let keys = [known.verifier().clone()];
        let verify = |lines: &[SignatureLine]| {
            let note = Note::parse(note("t\n", lines).as_bytes()).unwrap();
            note.verify(&keys).map(|verified| verified.len())
        };
        let (good, other) = (known.sign("t\n"), unknown.sign("other\n"));
        assert_eq!(verify(&[other.clone(), good.clone()]), Ok(1));
        assert_eq!(verify(&[good.clone(), good.clone()]), Ok(1));
        assert_eq!(verify(&[other]), Err(NoteError::NoKnownSignature));
        let bad = NoteError::BadSignature {
            name: "a.example".into(),
            id: keys[0].id(),
        };
        assert_eq!(verify(&[good.clone(), known.sign("u\n")]), Err(bad.clone()));
        let mut short = good.clone();
        short.signature.pop();
        assert_eq!(verify(&[short]), Err(bad.clone()));
        // Another name with the same id is another key.
        let mut renamed = good;
        renamed.name = "b.example".into();
        assert_eq!(verify(&[renamed]), Err(NoteError::NoKnownSignature));
    }

    #[test]
    fn a_line_with_its_line_feed_reads_back() {
        let line = key(1).sign("t\n");
        assert_eq!(SignatureLine::parse(&line.to_string()), Ok(line.clone()));
        assert_eq!(SignatureLine::parse(line.to_string().trim_end()), Ok(line));
        assert!(SignatureLine::parse("").is_err());
    }
}
