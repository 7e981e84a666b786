//! The lines of a file that somebody else wrote, each in bounded memory.
//!
//! Out of scope: what stands in them.

use std::io::{self, BufRead, Read};

/// A line that is longer than any may be; it was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Lines that are not blank, without byte order mark and the space around them.
pub(crate) struct Lines<R> {
    reader: R,
    bytes_max: u64,
    line: Vec<u8>,
    number: u64,
    bytes_read: u64,
}

impl<R: BufRead> Lines<R> {
    /// Of lines of up to `bytes_max` bytes.
    pub(crate) fn new(reader: R, bytes_max: u64) -> Self {
        Self {
            reader,
            bytes_max,
            line: Vec::new(),
            number: 0,
            bytes_read: 0,
        }
    }

    /// Bytes of the file so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next line with its number, from 1.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<(u64, Result<&[u8], TooLong>)>> {
        loop {
            self.line.clear();
            let mut one = (&mut self.reader).take(self.bytes_max);
            let read = one.read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.bytes_read += read as u64;
            self.number += 1;
            if self.line.len() as u64 == self.bytes_max && !self.line.ends_with(b"\n") {
                self.pass_over()?;
                return Ok(Some((self.number, Err(TooLong))));
            }
            if !text_of(&self.line).is_empty() {
                return Ok(Some((self.number, Ok(text_of(&self.line)))));
            }
        }
    }

    /// The rest of a line.
    fn pass_over(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.reader.consume(used);
            self.bytes_read += used as u64;
            if end.is_some() || used == 0 {
                return Ok(());
            }
        }
    }
}

fn text_of(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_and_long_lines_are_passed_over_and_counted() {
        let text: &[u8] = b"\xef\xbb\xbf{}\r\n\n  \n12345678901234567890\nab\n123456789\n1234567890";
        let mut lines = Lines::new(text, 10);
        let mut seen = Vec::new();
        while let Some((number, line)) = lines.next_line().unwrap() {
            seen.push((number, line.map(|line| String::from_utf8(line.to_vec()).unwrap())));
        }
        assert_eq!(
            seen,
            [
                (1, Ok("{}".to_owned())),
                (4, Err(TooLong)),
                (5, Ok("ab".to_owned())),
                (6, Ok("123456789".to_owned())),
                (7, Err(TooLong)),
            ]
        );
        assert_eq!(lines.bytes_read(), text.len() as u64);
    }
}
