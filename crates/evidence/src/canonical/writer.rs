//! Writes canonical JSON piece by piece, for code that knows its keys.

use super::Value;
use super::number::{Finite, write_f64, write_i64, write_u64};
use super::scan::hex_pair;
use super::write::{write, write_str};
use crate::time::Timestamp;

/// A streaming writer of canonical JSON.
///
/// The caller gives keys in ascending order and closes what it opened; commas are the writer's affair.
/// Debug builds assert the order of keys, release builds trust it: the callers are the record kinds, each
/// with a golden vector.
///
/// ```
/// use evidence::canonical::Writer;
///
/// let mut out = Vec::new();
/// let mut writer = Writer::new(&mut out);
/// writer.open_object().key("id").str("r-1").key("n").i64(3).close_object();
/// assert_eq!(out, br#"{"id":"r-1","n":3}"#);
/// ```
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// A value stands before the next key or element.
    comma: bool,
    #[cfg(debug_assertions)]
    open: Vec<Option<String>>,
}

impl<'o> Writer<'o> {
    /// Appends to `out`, which is left as it is otherwise.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self {
            out,
            comma: false,
            #[cfg(debug_assertions)]
            open: Vec::new(),
        }
    }

    /// Begins an object.
    pub fn open_object(&mut self) -> &mut Self {
        self.open(b'{')
    }

    /// Ends an object.
    pub fn close_object(&mut self) -> &mut Self {
        self.close(b'}')
    }

    /// Begins an array.
    pub fn open_array(&mut self) -> &mut Self {
        self.open(b'[')
    }

    /// Ends an array.
    pub fn close_array(&mut self) -> &mut Self {
        self.close(b']')
    }

    /// Writes a key that needs no escapes, as those of record kinds.
    pub fn key(&mut self, key: &'static str) -> &mut Self {
        debug_assert!(
            super::scan::plain_len(key.as_bytes()) == key.len(),
            "a key with escapes goes through key_any"
        );
        self.enter_key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self
    }

    /// Writes any key, escaped as needed.
    pub fn key_any(&mut self, key: &str) -> &mut Self {
        self.enter_key(key);
        write_str(key, self.out);
        self.out.push(b':');
        self
    }

    /// Writes a string.
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.enter_value();
        write_str(text, self.out);
        self
    }

    /// Writes a member if there is text for it: absent fields are left out, never `null`.
    pub fn string_opt(&mut self, key: &'static str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.key(key).str(text),
            None => self,
        }
    }

    /// Writes an integer; beyond ±(2^53−1) as a string of its digits.
    pub fn i64(&mut self, number: i64) -> &mut Self {
        self.enter_value();
        write_i64(number, self.out);
        self
    }

    /// Writes an integer; beyond 2^53−1 as a string of its digits.
    pub fn u64(&mut self, number: u64) -> &mut Self {
        self.enter_value();
        write_u64(number, self.out);
        self
    }

    /// Writes a double as ECMAScript does; one that would come out as an integer beyond ±(2^53−1) as a
    /// string of its digits.
    pub fn f64(&mut self, number: Finite) -> &mut Self {
        self.enter_value();
        write_f64(number, self.out);
        self
    }

    /// Writes `true` or `false`.
    pub fn bool(&mut self, truth: bool) -> &mut Self {
        self.raw(if truth { b"true" } else { b"false" })
    }

    /// Writes `null`.
    pub fn null(&mut self) -> &mut Self {
        self.raw(b"null")
    }

    /// Writes a time as its 27 characters.
    pub fn time(&mut self, time: Timestamp) -> &mut Self {
        self.enter_value();
        self.out.push(b'"');
        time.write_to(self.out);
        self.out.push(b'"');
        self
    }

    /// Writes characters that need no escape, e.g. an id's.
    pub(crate) fn text(&mut self, clean: &[u8]) -> &mut Self {
        debug_assert!(
            clean
                .iter()
                .all(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
        );
        self.enter_value();
        self.out.push(b'"');
        self.out.extend_from_slice(clean);
        self.out.push(b'"');
        self
    }

    /// Writes bytes as a string of lower-case hexadecimal digits.
    pub fn hex(&mut self, bytes: &[u8]) -> &mut Self {
        self.enter_value();
        self.out.reserve(bytes.len() * 2 + 2);
        self.out.push(b'"');
        // Sized at once, so that the loop checks no capacity: a body holds 100 bytes of ids and hashes.
        let start = self.out.len();
        self.out.resize(start + bytes.len() * 2, 0);
        let (pairs, _) = self.out.split_at_mut(start).1.as_chunks_mut::<2>();
        for (pair, &byte) in pairs.iter_mut().zip(bytes) {
            *pair = hex_pair(byte);
        }
        self.out.push(b'"');
        self
    }

    /// Writes one value that is canonical JSON already.
    pub fn raw(&mut self, canonical: &[u8]) -> &mut Self {
        debug_assert!(!canonical.is_empty(), "no value is empty");
        self.enter_value();
        self.out.extend_from_slice(canonical);
        self
    }

    /// Writes any value.
    pub fn value(&mut self, value: &Value) -> &mut Self {
        self.enter_value();
        write(value, self.out);
        self
    }

    fn open(&mut self, bracket: u8) -> &mut Self {
        self.enter_value();
        self.out.push(bracket);
        self.comma = false;
        #[cfg(debug_assertions)]
        self.open.push(None);
        self
    }

    fn close(&mut self, bracket: u8) -> &mut Self {
        #[cfg(debug_assertions)]
        debug_assert!(self.open.pop().is_some(), "nothing is open");
        self.out.push(bracket);
        self.comma = true;
        self
    }

    fn enter_value(&mut self) {
        if self.comma {
            self.out.push(b',');
        }
        self.comma = true;
    }

    #[cfg_attr(
        not(debug_assertions),
        expect(unused_variables, reason = "the order is asserted in debug builds")
    )]
    fn enter_key(&mut self, key: &str) {
        #[cfg(debug_assertions)]
        {
            let last = self.open.last_mut().map(|last| last.replace(key.to_owned()));
            debug_assert!(last.is_some(), "a key stands in an object");
            if let Some(Some(last)) = last {
                debug_assert!(
                    super::order::utf16(&last, key).is_lt(),
                    "key {key:?} must not follow {last:?}"
                );
            }
        }
        if self.comma {
            self.out.push(b',');
        }
        self.comma = false;
    }
}
