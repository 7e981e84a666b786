//! Reads canonical JSON fast: what [`super::Writer`] wrote, and nothing else.
//!
//! Verification reads every header and every body of a ledger. A general parser
//! spends most of that on white space, escapes and orders of members that the
//! writer never makes. Here every answer is an `Option`, and `None` means "not
//! the writer's form", never "no JSON": callers then ask the general parser,
//! which decides and explains. What is accepted here is JSON, in full.

use std::borrow::Cow;

use super::scan;

/// Nested deeper than this is for the general parser: one bit a level fits a word.
const DEPTH_MAX: u32 = 64;

/// A place in a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the beginning. `None`: not UTF-8.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        Some(Self { text, at: 0 })
    }

    /// Bytes behind it.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        (self.at == self.text.len()).then_some(())
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes past `literal` if it stands here.
    pub(crate) fn goes(&mut self, literal: &str) -> bool {
        let stands = self.rest().starts_with(literal.as_bytes());
        if stands {
            self.at += literal.len();
        }
        stands
    }

    /// Goes past `literal`.
    pub(crate) fn eat(&mut self, literal: &str) -> Option<()> {
        self.goes(literal).then_some(())
    }

    /// A string without escapes.
    pub(crate) fn plain(&mut self) -> Option<&'a str> {
        self.eat("\"")?;
        self.plain_to_quote()
    }

    /// The rest of a string without escapes, whose opening quote is behind.
    pub(crate) fn plain_to_quote(&mut self) -> Option<&'a str> {
        let start = self.at;
        let end = start + scan::plain_len(self.rest());
        self.at = end;
        self.eat("\"")?;
        self.text.get(start..end)
    }

    /// A string.
    pub(crate) fn string(&mut self) -> Option<Cow<'a, str>> {
        self.eat("\"")?;
        self.string_to_quote()
    }

    /// The rest of a string whose opening quote is behind.
    pub(crate) fn string_to_quote(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        if let Some(plain) = self.plain_to_quote() {
            return Some(Cow::Borrowed(plain));
        }
        self.at = start;
        self.skip_to_quote()?;
        let quoted = self.text.get(start.checked_sub(1)?..self.at)?;
        serde_json::from_str(quoted).ok().map(Cow::Owned)
    }

    /// A number, as written.
    pub(crate) fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.goes("-");
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits()?,
            _ => return None,
        }
        if self.goes(".") {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.text.get(start..self.at)
    }

    fn digits(&mut self) -> Option<()> {
        let count = self
            .rest()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += count;
        (count > 0).then_some(())
    }

    /// `true` or `false`.
    pub(crate) fn bool(&mut self) -> Option<bool> {
        if self.goes("true") {
            return Some(true);
        }
        self.eat("false").map(|()| false)
    }

    /// An object: `member` is called at each value, with its key, and goes past it. Keys without escapes, ascending.
    pub(crate) fn object(&mut self, mut member: impl FnMut(&'a str, &mut Self) -> Option<()>) -> Option<()> {
        self.eat("{")?;
        if self.goes("}") {
            return Some(());
        }
        let mut last: Option<&str> = None;
        loop {
            let key = self.plain()?;
            // Also: no key twice.
            if last.is_some_and(|last| last >= key) {
                return None;
            }
            last = Some(key);
            self.eat(":")?;
            member(key, self)?;
            if self.goes("}") {
                return Some(());
            }
            self.eat(",")?;
        }
    }

    /// An array: `item` is called at each value, and goes past it.
    pub(crate) fn array(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.eat("[")?;
        if self.goes("]") {
            return Some(());
        }
        loop {
            item(self)?;
            if self.goes("]") {
                return Some(());
            }
            self.eat(",")?;
        }
    }

    /// Any value.
    pub(crate) fn skip(&mut self) -> Option<()> {
        // One bit for each open level, the innermost lowest: an object or an array.
        let (mut objects, mut depth) = (0_u64, 0_u32);
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    let close = if open == b'{' { "}" } else { "]" };
                    if !self.goes(close) {
                        depth += 1;
                        if depth > DEPTH_MAX {
                            return None;
                        }
                        objects = (objects << 1) | u64::from(open == b'{');
                        if open == b'{' {
                            self.skip_string()?;
                            self.eat(":")?;
                        }
                        continue;
                    }
                }
                b't' => self.eat("true")?,
                b'f' => self.eat("false")?,
                b'n' => self.eat("null")?,
                _ => {
                    self.number()?;
                }
            }
            // A value has ended; so may have the levels around it.
            loop {
                if depth == 0 {
                    return Some(());
                }
                let object = objects & 1 == 1;
                if self.goes(",") {
                    if object {
                        self.skip_string()?;
                        self.eat(":")?;
                    }
                    break;
                }
                self.eat(if object { "}" } else { "]" })?;
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        self.eat("\"")?;
        self.skip_to_quote()
    }

    fn skip_to_quote(&mut self) -> Option<()> {
        loop {
            self.at += scan::plain_len(self.rest());
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                // `\u` stands for control characters only in this form, and is for the general parser.
                b'\\' => {
                    let escaped = self.rest().get(1)?;
                    if !matches!(escaped, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') {
                        return None;
                    }
                    self.at += 2;
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Reader;

    fn skips(text: &[u8]) -> bool {
        Reader::new(text).is_some_and(|mut r| r.skip().and_then(|()| r.end()).is_some())
    }

    fn general(text: &[u8]) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    #[test]
    fn canonical_values_are_skipped_whole() {
        for text in [
            r"{}",
            r"[]",
            r"[[],{}]",
            r#"{"a":[1,-2.5,1e+30,0,{"b":"\"\\\n"}],"c":null,"d":true}"#,
            r#""é""#,
            "0",
            "false",
        ] {
            assert!(skips(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_not_skipped() {
        for text in [
            "",
            "[",
            "]",
            "{",
            "[1,]",
            "[,1]",
            "{1:2}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "01",
            "1.",
            "-",
            "1e",
            "tru",
            "[1}",
            r#"{"a":1]"#,
            "\"\\x\"",
            "\"a",
            "\"\n\"",
            "1 1",
            "\u{feff}1",
        ] {
            assert!(!skips(text.as_bytes()), "{text}");
            assert!(!general(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_string_is_read_as_the_general_parser_reads_it() {
        for text in [r#""plain""#, r#""a\"b\\c\nd""#, r#""""#, r#""é\t""#] {
            let mut reader = Reader::new(text.as_bytes()).unwrap();
            let expected: String = serde_json::from_str(text).unwrap();
            assert_eq!(reader.string().as_deref(), Some(expected.as_str()));
            assert!(reader.end().is_some());
        }
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_that_the_general_parser_refuses(
            text in r#"[\[\]{}",:0-9truefalsn\\.eE+\- a]{0,12}"#,
        ) {
            prop_assert!(!skips(text.as_bytes()) || general(text.as_bytes()), "{}", text);
        }
    }
}
