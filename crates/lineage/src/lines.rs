//! The lines of a log, with their places: bounded, and read once.

use std::io::{self, BufRead, BufReader, Read};

/// Longest line that is read: an evidence line with some two million row ids. A longer one is passed over and
/// reported, so that a log without line ends cannot take the memory.
pub(crate) const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Read at once.
const READ_BYTES: usize = 1024 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// A line as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// The first is 1.
    pub number: u64,
    /// Where its text begins.
    pub offset: u64,
    /// Its text without line end; empty when it is [too long](LINE_BYTES_MAX).
    pub text: &'a [u8],
    /// It was passed over.
    pub too_long: bool,
}

/// The lines of a reader; blank ones are left out, and counted.
#[derive(Debug)]
pub struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    number: u64,
    offset: u64,
}

impl<R: Read> Lines<R> {
    /// Of a reader at its beginning.
    pub fn new(reader: R) -> Self {
        Self {
            reader: BufReader::with_capacity(READ_BYTES, reader),
            line: Vec::new(),
            number: 0,
            offset: 0,
        }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<RawLine<'_>>> {
        loop {
            self.line.clear();
            let begins = self.offset;
            let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
            let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.offset += u64::try_from(read).unwrap_or(0);
            let too_long = read == LINE_BYTES_MAX && self.line.last() != Some(&b'\n');
            if too_long {
                self.line.clear();
                self.line.shrink_to(READ_BYTES);
                self.offset += skip_line(&mut self.reader)?;
            }
            let mut skipped = 0;
            if begins == 0 && self.line.starts_with(BOM) {
                skipped = BOM.len();
            }
            let text = self.line.get(skipped..).unwrap_or_default().trim_ascii_end();
            let end = skipped + text.len();
            if end == skipped && !too_long {
                continue;
            }
            return Ok(Some(RawLine {
                number: self.number,
                offset: begins + u64::try_from(skipped).unwrap_or(0),
                text: self.line.get(skipped..end).unwrap_or_default(),
                too_long,
            }));
        }
    }
}

/// Passes over the rest of a line; its bytes.
fn skip_line(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |place| place + 1);
        reader.consume(used);
        skipped += u64::try_from(used).unwrap_or(0);
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_know_their_places_and_blank_ones_are_left_out() {
        let text = b"\xef\xbb\xbf{1}\r\n\n  \n{22}\n{3}";
        let mut lines = Lines::new(&text[..]);
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            let from = usize::try_from(line.offset).unwrap();
            assert_eq!(&text[from..from + line.text.len()], line.text);
            seen.push((line.number, String::from_utf8(line.text.to_vec()).unwrap()));
        }
        assert_eq!(seen, [(1, "{1}".into()), (4, "{22}".into()), (5, "{3}".into())]);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let text = io::repeat(b'x')
            .take(u64::try_from(LINE_BYTES_MAX).unwrap() + 10)
            .chain(&b"\n{}\n"[..]);
        let mut lines = Lines::new(text);
        let line = lines.next_line().unwrap().unwrap();
        assert!(line.too_long && line.text.is_empty());
        let line = lines.next_line().unwrap().unwrap();
        assert_eq!((line.number, line.text), (2, &b"{}"[..]));
    }
}
