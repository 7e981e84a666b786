//! Numbers as ECMAScript has them, and the integers that survive the journey.

use super::Value;

/// The largest integer a JSON number may hold here, 2^53−1: beyond it doubles skip integers, and two
/// readers of one text may see different numbers (RFC 7493, section 2.2).
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// From here on ECMAScript writes an exponent, so the text is no integer literal any more.
const EXPONENT_FROM: f64 = 1e21;

/// A double that is neither infinite nor NaN, nor minus zero, which canonical JSON does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Finite(f64);

impl Finite {
    /// Takes a finite number; minus zero becomes zero.
    pub fn new(number: f64) -> Option<Self> {
        // -0.0 + 0.0 is +0.0; every other number stays as it is.
        number.is_finite().then_some(Self(number + 0.0))
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The number as an integer, if it is one within ±(2^53−1).
    pub(super) fn as_integer(self) -> Option<i64> {
        let Self(number) = self;
        if number.fract() != 0.0 || number.abs() > to_f64(INTEGER_MAX) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "integral and within 53 bits, checked above"
        )]
        Some(number as i64)
    }

    /// Whether ECMAScript would write the number as an integer literal beyond ±(2^53−1).
    pub(super) fn is_unsafe_integer(self) -> bool {
        let size = self.0.abs();
        size > to_f64(INTEGER_MAX) && size < EXPONENT_FROM
    }
}

impl Eq for Finite {}

/// Whether an integer may stand as a JSON number.
pub(super) const fn is_safe(number: i64) -> bool {
    number.unsigned_abs() <= INTEGER_MAX.unsigned_abs()
}

/// An integer within ±(2^53−1) as the same double.
#[expect(
    clippy::cast_precision_loss,
    reason = "callers hold integers of at most 53 bits"
)]
pub(super) const fn to_f64(number: i64) -> f64 {
    number as f64
}

/// Writes an integer; one beyond ±(2^53−1) as a string of its digits.
pub(super) fn write_i64(number: i64, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    write_digits(buffer.format(number), is_safe(number), out);
}

/// Writes an integer; one beyond 2^53−1 as a string of its digits.
pub(super) fn write_u64(number: u64, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    write_digits(buffer.format(number), number <= INTEGER_MAX.unsigned_abs(), out);
}

/// Writes a double; one that would come out as an integer beyond ±(2^53−1) as a string of its digits.
pub(super) fn write_f64(number: Finite, out: &mut Vec<u8>) {
    if let Some(integer) = number.as_integer() {
        return write_i64(integer, out);
    }
    let mut buffer = ryu_js::Buffer::new();
    write_digits(buffer.format_finite(number.0), !number.is_unsafe_integer(), out);
}

fn write_digits(digits: &str, bare: bool, out: &mut Vec<u8>) {
    if bare {
        out.extend_from_slice(digits.as_bytes());
    } else {
        out.push(b'"');
        out.extend_from_slice(digits.as_bytes());
        out.push(b'"');
    }
}

impl From<Finite> for Value {
    /// A number in its one form: an integer if it is one, digits in a string if it is an unsafe one.
    fn from(number: Finite) -> Self {
        if let Some(integer) = number.as_integer() {
            Self::Int(integer)
        } else if number.is_unsafe_integer() {
            Self::String(ryu_js::Buffer::new().format_finite(number.0).to_owned())
        } else {
            Self::Float(number)
        }
    }
}

impl From<i64> for Value {
    /// A number, or digits in a string if beyond ±(2^53−1).
    fn from(number: i64) -> Self {
        if is_safe(number) {
            Self::Int(number)
        } else {
            Self::String(number.to_string())
        }
    }
}

impl From<u64> for Value {
    /// A number, or digits in a string if beyond 2^53−1.
    fn from(number: u64) -> Self {
        match i64::try_from(number) {
            Ok(number) => number.into(),
            Err(_) => Self::String(number.to_string()),
        }
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Int(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}
