//! Whether a CSV file ends inside quotes, told from its bytes on their way to the parser, which does not say.

use std::io::{self, Read};

/// Hands bytes on and follows the quotes in them as the parser does: one begins a quoted cell only where the cell
/// begins, and two within quotes are one that is meant.
pub(super) struct Quotes<R> {
    reader: R,
    delimiter: u8,
    state: State,
    is_at_end: bool,
}

#[derive(Clone, Copy)]
enum State {
    /// Outside of quotes, behind this byte.
    Outside(u8),
    Within,
    /// Behind a quote within quotes: it ends them, or is the first of two.
    Behind,
}

impl<R> Quotes<R> {
    pub(super) fn new(reader: R, delimiter: u8) -> Self {
        Self {
            reader,
            delimiter,
            state: State::Outside(b'\n'),
            is_at_end: false,
        }
    }

    /// The parser has asked for more than there is, and a quote is open: the row it made of that takes the rest of the
    /// file.
    pub(super) fn is_open_at_end(&self) -> bool {
        self.is_at_end && matches!(self.state, State::Within)
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    fn follow(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((first, behind_first)) = rest.split_first() {
            if matches!(self.state, State::Behind) {
                self.state = if *first == b'"' {
                    State::Within
                } else {
                    State::Outside(*first)
                };
                rest = behind_first;
                continue;
            }
            let (passed, quote_on) = rest.split_at(next_quote(rest));
            let before = match self.state {
                State::Outside(before) => Some(passed.last().copied().unwrap_or(before)),
                State::Within | State::Behind => None,
            };
            let Some((_, behind_quote)) = quote_on.split_first() else {
                self.state = before.map_or(State::Within, State::Outside);
                return;
            };
            self.state = match before {
                None => State::Behind,
                Some(before) if before == self.delimiter || before == b'\n' || before == b'\r' => {
                    State::Within
                }
                Some(_) => State::Outside(b'"'),
            };
            rest = behind_quote;
        }
    }
}

/// Where the next quote is, or the end. Where there is none, `contains` finds that out far quicker than a look at each
/// byte.
fn next_quote(bytes: &[u8]) -> usize {
    if !bytes.contains(&b'"') {
        return bytes.len();
    }
    bytes.iter().position(|byte| *byte == b'"').unwrap_or(bytes.len())
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        self.is_at_end = count == 0;
        self.follow(out.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use csv::{ByteRecord, ReaderBuilder};

    use super::*;

    fn builder() -> ReaderBuilder {
        let mut builder = ReaderBuilder::new();
        builder.has_headers(false).flexible(true);
        builder
    }

    fn is_open(text: &[u8], buffer: usize) -> bool {
        let mut reader = builder()
            .buffer_capacity(buffer)
            .from_reader(Quotes::new(text, b','));
        while reader.read_byte_record(&mut ByteRecord::new()).unwrap() {}
        reader.get_ref().is_open_at_end()
    }

    /// The parser's own word: outside of quotes a line that is appended is a row of its own.
    fn takes_a_line(text: &[u8]) -> bool {
        let more = [text, b"\nZ"].concat();
        let mut reader = builder().from_reader(more.as_slice());
        let last = reader.byte_records().last().unwrap().unwrap();
        last.len() != 1 || last.get(0) != Some(b"Z".as_slice())
    }

    #[test]
    fn quotes_are_followed_as_the_parser_does() {
        for (text, open) in [
            ("", false),
            ("a,\"x\nb,2\n", true),
            ("\"", true),
            ("\"\"", false),
            ("\"a\"\"", true),
            ("\"a\"b\"c", false),
            ("a\"b,\"c\"\r\n", false),
            ("a,b\r\n\"c", true),
        ] {
            assert_eq!(is_open(text.as_bytes(), 8), open, "{text:?}");
        }
        let mut longest: Vec<Vec<u8>> = vec![Vec::new()];
        let mut texts = longest.clone();
        for _ in 0..6 {
            longest = longest
                .iter()
                .flat_map(|text| b"a,\"\r\n".map(|byte| [text.as_slice(), &[byte]].concat()))
                .collect();
            texts.extend(longest.iter().cloned());
        }
        assert!(texts.len() > 15_000);
        for text in &texts {
            let open = takes_a_line(text);
            let shown = String::from_utf8_lossy(text);
            assert_eq!(is_open(text, 64), open, "{shown:?}");
            assert_eq!(is_open(text, 1), open, "{shown:?}, byte by byte");
        }
    }
}
