//! Numbers: an integer by hand, the rest by the standard library.

use super::{JsonError, JsonErrorKind, Parser, Value};
use crate::canonical::number::{Finite, is_safe};

impl Parser<'_> {
    pub(super) fn number(&mut self) -> Result<Value, JsonError> {
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
}
