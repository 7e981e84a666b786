//! Reads I-JSON into a [`Value`].
//!
//! Everything JSON allows and I-JSON does not is refused, so that no two readers of a stored body can see
//! different things in it. Sources: RFC 8259, RFC 7493.

mod number;
mod string;

use super::error::{JsonError, JsonErrorKind};
use super::{Value, order};
use std::cmp::Ordering;

/// How large a JSON text may be in what its bytes do not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Arrays and objects open at once; at most [`DEPTH_CEILING`] counts.
    pub depth_max: u16,
    /// Values in all, containers and scalars alike.
    pub nodes_max: u32,
}

/// No caller may ask for more depth. Reading, writing and dropping recurse; 256 levels of a few hundred
/// bytes each are far below the smallest stack in use (2 MiB).
pub const DEPTH_CEILING: u16 = 256;

impl Default for Limits {
    /// 128 levels, as `serde_json` has it. 1,000,000 values: a member takes 56 bytes plus its key, and is
    /// held twice while its object closes, so the worst body of 16 MiB stays under 200 MB.
    fn default() -> Self {
        Self {
            depth_max: 128,
            nodes_max: 1_000_000,
        }
    }
}

/// Parses one JSON text in UTF-8.
///
/// Minus zero becomes zero, and a number that is an integer becomes [`Value::Int`] however it was written.
///
/// # Errors
/// By [`JsonErrorKind::class`]: no JSON, no I-JSON, or beyond `limits`.
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Value, JsonError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            return Err(JsonError::new(
                JsonErrorKind::Syntax("invalid utf-8"),
                error.valid_up_to(),
            ));
        }
    };
    let mut parser = Parser {
        text,
        bytes,
        at: 0,
        depth_left: limits.depth_max.min(DEPTH_CEILING),
        nodes_left: limits.nodes_max,
        elements: Vec::new(),
        members: Vec::new(),
    };
    parser.skip_space();
    let value = parser.value()?;
    parser.skip_space();
    if parser.at == bytes.len() {
        Ok(value)
    } else {
        Err(parser.syntax("trailing characters"))
    }
}

struct Parser<'t> {
    text: &'t str,
    /// The bytes of `text`.
    bytes: &'t [u8],
    at: usize,
    depth_left: u16,
    nodes_left: u32,
    /// What the open arrays and objects hold so far, innermost last: a container is allocated once, at its
    /// final size, when it closes.
    elements: Vec<Value>,
    members: Vec<(String, Value)>,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Value, JsonError> {
        let Some(nodes_left) = self.nodes_left.checked_sub(1) else {
            return Err(self.error(JsonErrorKind::TooManyNodes));
        };
        self.nodes_left = nodes_left;
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                self.string().map(Value::String)
            }
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true", Value::Bool(true)),
            Some(b'f') => self.word(b"false", Value::Bool(false)),
            Some(b'n') => self.word(b"null", Value::Null),
            Some(_) => Err(self.syntax("expected a value")),
            None => Err(self.end()),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, JsonError>) -> Result<Value, JsonError> {
        let Some(depth_left) = self.depth_left.checked_sub(1) else {
            return Err(self.error(JsonErrorKind::TooDeep));
        };
        self.depth_left = depth_left;
        self.at += 1;
        self.skip_space();
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        let first = self.elements.len();
        if self.take(b']') {
            return Ok(Value::Array(Vec::new()));
        }
        loop {
            let element = match self.value() {
                Ok(element) => element,
                Err(error) => return Err(error.in_index(self.elements.len() - first)),
            };
            self.elements.push(element);
            self.skip_space();
            if self.take(b',') {
                self.skip_space();
            } else if self.take(b']') {
                return Ok(Value::Array(self.elements.drain(first..).collect()));
            } else {
                return Err(self.expected("expected a comma or the end of the array"));
            }
        }
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        let first = self.members.len();
        let opened_at = self.at;
        if self.take(b'}') {
            return Ok(Value::Object(Vec::new()));
        }
        let mut ordered = true;
        loop {
            let key_at = self.at;
            if !self.take(b'"') {
                return Err(self.expected("expected a key"));
            }
            let key = self.string()?;
            if let Some((last, _)) = self.members.get(first..).and_then(<[_]>::last) {
                match order::utf16(last, &key) {
                    Ordering::Less => {}
                    Ordering::Equal => {
                        return Err(JsonError::new(JsonErrorKind::DuplicateKey, key_at).in_key(&key));
                    }
                    Ordering::Greater => ordered = false,
                }
            }
            self.skip_space();
            if !self.take(b':') {
                return Err(self.expected("expected a colon"));
            }
            self.skip_space();
            let value = match self.value() {
                Ok(value) => value,
                Err(error) => return Err(error.in_key(&key)),
            };
            self.members.push((key, value));
            self.skip_space();
            if self.take(b',') {
                self.skip_space();
            } else if self.take(b'}') {
                break;
            } else {
                return Err(self.expected("expected a comma or the end of the object"));
            }
        }
        let mut members: Vec<_> = self.members.drain(first..).collect();
        if !ordered {
            members.sort_unstable_by(|a, b| order::utf16(&a.0, &b.0));
            if let Some([(key, _), _]) = members.array_windows().find(|[a, b]| a.0 == b.0) {
                return Err(JsonError::new(JsonErrorKind::DuplicateKey, opened_at).in_key(key));
            }
        }
        Ok(Value::Object(members))
    }

    fn word(&mut self, word: &[u8], value: Value) -> Result<Value, JsonError> {
        if self
            .bytes
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.syntax("expected a value"))
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[cold]
    fn error(&self, kind: JsonErrorKind) -> JsonError {
        JsonError::new(kind, self.at)
    }

    #[cold]
    fn syntax(&self, what: &'static str) -> JsonError {
        self.error(JsonErrorKind::Syntax(what))
    }

    #[cold]
    fn end(&self) -> JsonError {
        self.syntax("unexpected end of text")
    }

    /// Something else stands here than `what` says, or nothing.
    #[cold]
    fn expected(&self, what: &'static str) -> JsonError {
        if self.at == self.bytes.len() {
            self.end()
        } else {
            self.syntax(what)
        }
    }
}
