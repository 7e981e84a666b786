//! Reads I-JSON into a [`Value`].
//!
//! Everything JSON allows and I-JSON does not is refused, so that no two readers of a stored body can see
//! different things in it. Sources: RFC 8259, RFC 7493.

use super::error::{JsonError, JsonErrorKind};
use super::number::{Finite, is_safe};
use super::scan::plain_len;
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
    /// 128 levels, as `serde_json` has it. 1,000,000 values: at 48 bytes for the largest kind (a member)
    /// plus its key, a 16 MiB body of nothing but brackets stays under 100 MB.
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

impl<'t> Parser<'t> {
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

    /// Reads a string from behind its opening quote.
    fn string(&mut self) -> Result<String, JsonError> {
        let plain = self.plain();
        if self.take(b'"') {
            return Ok(plain.to_owned());
        }
        let mut text = plain.to_owned();
        loop {
            if self.take(b'"') {
                return Ok(text);
            }
            if !self.take(b'\\') {
                return Err(self.expected("control character in a string"));
            }
            text.push(self.escape()?);
            text.push_str(self.plain());
        }
    }

    /// Passes over text up to a quote, a backslash or a control character.
    fn plain(&mut self) -> &'t str {
        let from = self.at;
        self.at += plain_len(self.bytes.get(from..).unwrap_or_default());
        // Both ends stand at an ASCII byte or the end, so they are character boundaries.
        self.text.get(from..self.at).unwrap_or_default()
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let Some(byte) = self.peek() else {
            return Err(self.end());
        };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(self.syntax("unknown escape"));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let escape_at = self.at - 2;
        let lone = || JsonError::new(JsonErrorKind::LoneSurrogate, escape_at);
        let unit = self.hex4()?;
        if let Some(character) = char::from_u32(unit) {
            return Ok(character);
        }
        let (0xD800..0xDC00, Some(b"\\u")) = (unit, self.bytes.get(self.at..self.at + 2)) else {
            return Err(lone());
        };
        self.at += 2;
        let low @ 0xDC00..0xE000 = self.hex4()? else {
            return Err(lone());
        };
        char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)).ok_or_else(lone)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(byte) = self.peek() else {
                return Err(self.end());
            };
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Err(self.syntax("expected four hexadecimal digits"));
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let from = self.at;
        let negative = self.take(b'-');
        let (digits, size) = self.digits();
        let leading_zero = self.bytes.get(self.at - digits) == Some(&b'0');
        if digits == 0 {
            return Err(self.expected("expected a digit"));
        }
        if digits > 1 && leading_zero {
            return Err(JsonError::new(
                JsonErrorKind::Syntax("number with a leading zero"),
                from,
            ));
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return self.double(from);
        }
        // 2^53-1 has 16 digits, and 16 digits never overflow.
        let size = if digits <= 16 {
            size.cast_signed()
        } else {
            i64::MAX
        };
        if is_safe(size) {
            Ok(Value::Int(if negative { -size } else { size }))
        } else {
            Err(JsonError::new(JsonErrorKind::UnsafeInteger, from))
        }
    }

    /// Reads the fraction and exponent of the number that begins at `from`.
    fn double(&mut self, from: usize) -> Result<Value, JsonError> {
        if self.take(b'.') && self.digits().0 == 0 {
            return Err(self.expected("expected a digit"));
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            if self.digits().0 == 0 {
                return Err(self.expected("expected a digit"));
            }
        }
        // What stands there is a number by JSON's grammar, which is within that of `f64`.
        let number = self
            .text
            .get(from..self.at)
            .and_then(|literal| literal.parse().ok());
        match number.and_then(Finite::new) {
            None => Err(JsonError::new(JsonErrorKind::NumberOverflow, from)),
            Some(number) if number.is_unsafe_integer() => {
                Err(JsonError::new(JsonErrorKind::UnsafeInteger, from))
            }
            Some(number) => Ok(number.into()),
        }
    }

    /// Passes over digits: how many, and their value if they are few enough for it.
    fn digits(&mut self) -> (usize, u64) {
        let from = self.at;
        let mut value = 0_u64;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        (self.at - from, value)
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
