//! Strings and their escapes.

use super::Parser;
use crate::canonical::error::{JsonError, JsonErrorKind};
use crate::canonical::scan::plain_len;

impl<'t> Parser<'t> {
    /// Reads a string from behind its opening quote.
    pub(super) fn string(&mut self) -> Result<String, JsonError> {
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
}
