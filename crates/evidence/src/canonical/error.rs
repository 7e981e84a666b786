//! What can be wrong with a JSON text, and where.

use std::fmt;

/// Why a JSON text was refused.
///
/// Held behind one pointer: parsing returns a `Result` per value, and the good case stays small.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonError(Box<Detail>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Detail {
    kind: JsonErrorKind,
    offset: usize,
    /// Pointer segments, the innermost first, as the error travels outwards.
    segments: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonErrorKind {
    /// The bytes are no JSON text; the words say what is wrong.
    Syntax(&'static str),
    /// One object holds the same key twice, escapes resolved. The offset is that of the repeated key or,
    /// where keys came unordered, of the object.
    DuplicateKey,
    /// An escape names half of a surrogate pair.
    LoneSurrogate,
    /// A number is, or would be written as, an integer beyond ±(2^53−1).
    UnsafeInteger,
    /// A number is too large for a double.
    NumberOverflow,
    /// Arrays and objects are nested deeper than `Limits::depth_max`.
    TooDeep,
    /// There are more values than `Limits::nodes_max`.
    TooManyNodes,
}

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonErrorClass {
    /// No JSON at all (HTTP 400).
    Syntax,
    /// JSON, but not the interoperable kind (HTTP 422).
    IJson,
    /// JSON of a size or depth that is not taken (HTTP 422).
    Limit,
}

impl JsonErrorKind {
    /// The class the kind falls into.
    pub const fn class(self) -> JsonErrorClass {
        match self {
            Self::Syntax(_) => JsonErrorClass::Syntax,
            Self::DuplicateKey | Self::LoneSurrogate | Self::UnsafeInteger | Self::NumberOverflow => {
                JsonErrorClass::IJson
            }
            Self::TooDeep | Self::TooManyNodes => JsonErrorClass::Limit,
        }
    }
}

/// A long key is cut in the path: the path is for finding the place, and its length is bounded by that.
const SEGMENT_CHARS_MAX: usize = 64;

impl JsonError {
    pub(super) fn new(kind: JsonErrorKind, offset: usize) -> Self {
        Self(Box::new(Detail {
            kind,
            offset,
            segments: Vec::new(),
        }))
    }

    pub(super) fn in_key(mut self, key: &str) -> Self {
        let cut: String = key.chars().take(SEGMENT_CHARS_MAX).collect();
        self.0.segments.push(cut.replace('~', "~0").replace('/', "~1"));
        self
    }

    pub(super) fn in_index(mut self, index: usize) -> Self {
        self.0.segments.push(index.to_string());
        self
    }

    /// What was found.
    pub fn kind(&self) -> JsonErrorKind {
        self.0.kind
    }

    /// What a caller does about it.
    pub fn class(&self) -> JsonErrorClass {
        self.0.kind.class()
    }

    /// Bytes from the start of the text to the fault; 0 if there was no text.
    pub fn offset(&self) -> usize {
        self.0.offset
    }

    /// Line and column of the fault in the text that was parsed, both from 1. A column is a character.
    pub fn line_and_column(&self, text: &[u8]) -> (usize, usize) {
        let before = text.get(..self.0.offset).unwrap_or(text);
        let mut lines = before.split(|byte| *byte == b'\n');
        let last = lines.next_back().unwrap_or_default();
        let column = String::from_utf8_lossy(last).chars().count() + 1;
        (lines.count() + 1, column)
    }

    /// The value at fault, or the one being read, as a JSON pointer (RFC 6901); keys are cut at 64
    /// characters. Empty for the whole text.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for segment in self.0.segments.iter().rev() {
            path.push('/');
            path.push_str(segment);
        }
        path
    }

    /// What was found and in which value, without a place.
    pub fn reason(&self) -> String {
        format!("{}{}", self.0.kind, self.in_path())
    }

    /// A key may hold a line break; the message stays one line.
    fn in_path(&self) -> String {
        let path = self.path();
        if path.is_empty() {
            path
        } else {
            format!(" in {}", path.escape_debug())
        }
    }
}

impl fmt::Display for JsonErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax(what) => what,
            Self::DuplicateKey => "duplicate key",
            Self::LoneSurrogate => "lone surrogate in a string",
            Self::UnsafeInteger => "integer beyond ±(2^53-1)",
            Self::NumberOverflow => "number too large for a double",
            Self::TooDeep => "nested too deep",
            Self::TooManyNodes => "too many values",
        })
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}{}", self.0.kind, self.0.offset, self.in_path())
    }
}

impl fmt::Debug for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonError")
            .field("kind", &self.0.kind)
            .field("offset", &self.0.offset)
            .field("path", &self.path())
            .finish()
    }
}

impl std::error::Error for JsonError {}
