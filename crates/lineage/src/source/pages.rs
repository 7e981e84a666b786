//! The headers of a Parquet file's pages, read before any page is unpacked.
//!
//! A page says how large it becomes, and the reader takes its word: a file of a kilobyte may ask for gigabytes. So
//! every header is read first, as Thrift's compact protocol has it, and what asks for too much is refused.
//!
//! Source: parquet-format, `parquet.thrift`, `PageHeader`.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use crate::SourceFile;

/// Largest page when unpacked; writers make pages of 1 MiB.
const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Largest pages of one row group together: one of each column is held, and its dictionary.
const PAGES_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Most values of a dictionary: 32 bytes each are held beside the page.
const DICTIONARY_VALUES_MAX: i64 = 4_000_000;

/// Longest header; statistics stand in it.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// Encodings whose lengths are numbers of their own, so that a small page holds any amount of text.
const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
const DELTA_BYTE_ARRAY: i64 = 7;

/// Structs in structs in a header; the format has three.
const DEPTH_MAX: u8 = 8;

#[derive(Debug, Default, PartialEq, Eq)]
struct PageHeader {
    uncompressed: i64,
    compressed: i64,
    encoding: i64,
    dictionary_values: Option<i64>,
}

/// How the pages of a column are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// The reader stops at the size that the header names.
    Bounded,
    /// The reader unpacks until the end, whatever the header names.
    Gzip,
}

/// The largest pages of the columns of one row group, added up.
#[derive(Debug, Default)]
pub(super) struct RowGroup {
    held: u64,
}

impl RowGroup {
    /// Looks at the pages of one column, which are the bytes from `start` on.
    pub(super) fn column(
        &mut self,
        file: &SourceFile,
        (start, bytes): (u64, u64),
        packing: Packing,
    ) -> Result<(), String> {
        let end = start.checked_add(bytes).filter(|end| *end <= file.bytes());
        let end = end.ok_or("a column lies outside of the file")?;
        let (mut at, mut largest, mut dictionary) = (start, 0, 0);
        while at < end {
            let (header, length) = header_at(file, at, end)?;
            let compressed = u64::try_from(header.compressed).map_err(|_| "a page has a negative size")?;
            let unpacked = u64::try_from(header.uncompressed).map_err(|_| "a page has a negative size")?;
            if unpacked > PAGE_BYTES_MAX {
                return Err(format!(
                    "a page of {compressed} bytes would become {unpacked}: refused"
                ));
            }
            if matches!(header.encoding, DELTA_LENGTH_BYTE_ARRAY | DELTA_BYTE_ARRAY) {
                return Err(
                    "its texts are written as differences (DELTA_BYTE_ARRAY), which is not read".into(),
                );
            }
            at += length;
            if at + compressed > end {
                return Err("a page lies outside of its column".into());
            }
            if packing == Packing::Gzip {
                gzip_is_bounded(file, at, compressed, unpacked)?;
            }
            at += compressed;
            match header.dictionary_values {
                None => largest = unpacked.max(largest),
                Some(values) if (0..=DICTIONARY_VALUES_MAX).contains(&values) => dictionary = unpacked,
                Some(values) => return Err(format!("a dictionary of {values} values: refused")),
            }
        }
        self.held += largest + dictionary;
        if self.held > PAGES_BYTES_MAX {
            return Err(format!(
                "the pages of a row group would take {} bytes: refused",
                self.held
            ));
        }
        Ok(())
    }
}

fn gzip_is_bounded(file: &SourceFile, at: u64, compressed: u64, unpacked: u64) -> Result<(), String> {
    let compressed = usize::try_from(compressed).map_err(|_| "a page is too large")?;
    let packed = file.part(at, compressed).map_err(|error| error.to_string())?;
    let mut rest = MultiGzDecoder::new(packed.as_slice()).take(unpacked + 1);
    let found = std::io::copy(&mut rest, &mut std::io::sink()).map_err(|error| error.to_string())?;
    if found > unpacked {
        return Err(format!(
            "a page says it becomes {unpacked} bytes and becomes more: refused"
        ));
    }
    Ok(())
}

fn header_at(file: &SourceFile, at: u64, end: u64) -> Result<(PageHeader, u64), String> {
    let mut window = 512;
    loop {
        let there = usize::try_from(end - at).unwrap_or(usize::MAX);
        let bytes = file
            .part(at, there.min(window))
            .map_err(|error| error.to_string())?;
        let mut thrift = Thrift { rest: &bytes };
        if let Some(header) = thrift.page_header() {
            let used = bytes.len() - thrift.rest.len();
            return Ok((header, u64::try_from(used).unwrap_or(0)));
        }
        if window >= there || window >= HEADER_BYTES_MAX {
            return Err("a page's header cannot be read".into());
        }
        window *= 8;
    }
}

/// Reads as much of the compact protocol as a header takes.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let raw = self.varint()?;
        Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    fn skip_bytes(&mut self, count: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    /// The next field's number and type; type 0 ends the struct.
    fn field(&mut self, last: &mut i64) -> Option<(i64, u8)> {
        let byte = self.byte()?;
        let field_type = byte & 0x0f;
        if byte == 0 {
            return Some((0, 0));
        }
        *last = match byte >> 4 {
            0 => self.integer()?,
            step => last.checked_add(i64::from(step))?,
        };
        Some((*last, field_type))
    }

    fn skip(&mut self, field_type: u8, depth: u8) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match field_type {
            1 | 2 => Some(()),
            3 => self.skip_bytes(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip_bytes(8),
            8 => {
                let count = self.varint()?;
                self.skip_bytes(count)
            }
            12 => {
                let mut last = 0;
                loop {
                    match self.field(&mut last)? {
                        (_, 0) => return Some(()),
                        (_, inner) => self.skip(inner, depth + 1)?,
                    }
                }
            }
            // Lists, sets and maps do not occur in a page's header.
            _ => None,
        }
    }

    /// The number of values and the encoding of one of the inner headers, which stands in this field.
    fn inner(&mut self, encoding_field: i64) -> Option<(i64, i64)> {
        let (mut values, mut encoding, mut last) = (0, 0, 0);
        loop {
            match self.field(&mut last)? {
                (_, 0) => return Some((values, encoding)),
                (1, 5) => values = self.integer()?,
                (field, 5) if field == encoding_field => encoding = self.integer()?,
                (_, other) => self.skip(other, 1)?,
            }
        }
    }

    fn page_header(&mut self) -> Option<PageHeader> {
        let mut header = PageHeader::default();
        let mut last = 0;
        loop {
            match self.field(&mut last)? {
                (_, 0) => return Some(header),
                (2, 5) => header.uncompressed = self.integer()?,
                (3, 5) => header.compressed = self.integer()?,
                (5, 12) => header.encoding = self.inner(2)?.1,
                (7, 12) => header.dictionary_values = Some(self.inner(2)?.0),
                (8, 12) => header.encoding = self.inner(4)?.1,
                (_, other) => self.skip(other, 0)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_header_is_read_and_rubbish_is_not() {
        // type 0, uncompressed 20, compressed 10, {num_values 3, encoding 7}
        let bytes = [
            0x15, 0x00, 0x15, 0x28, 0x15, 0x14, 0x2c, 0x15, 0x06, 0x15, 0x0e, 0x00, 0x00, 0xff,
        ];
        let mut thrift = Thrift { rest: &bytes };
        let header = thrift.page_header().unwrap();
        assert_eq!(
            (header.uncompressed, header.compressed, header.encoding),
            (20, 10, 7)
        );
        assert_eq!(thrift.rest, [0xff]);
        for cut in 0..bytes.len() - 1 {
            assert!(Thrift { rest: &bytes[..cut] }.page_header().is_none());
        }
        assert!(Thrift { rest: &[0xff; 64] }.page_header().is_none());
        assert!(
            Thrift { rest: &[0x1c; 64] }.page_header().is_none(),
            "structs without end"
        );
    }
}
