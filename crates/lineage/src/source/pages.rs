//! The headers of a Parquet file's pages, read before any page is unpacked.
//!
//! A page says how large it becomes, and the reader takes its word: a file of a kilobyte may ask for gigabytes. So
//! every header is read first ([`super::thrift`]), and what asks for too much is refused.
//!
//! Source: parquet-format, `parquet.thrift`, `PageHeader`.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use super::footer::STATISTICS;
use super::thrift::{Shape, Thrift};
use crate::SourceFile;

/// Largest page, packed and when unpacked; writers make pages of 1 MiB.
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

#[derive(Debug, Default, PartialEq, Eq)]
struct PageHeader {
    uncompressed: i64,
    compressed: i64,
    encoding: i64,
    dictionary_values: Option<i64>,
    /// Inner headers: which of several counts, two readers may see differently.
    inner: u8,
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
            if unpacked.max(compressed) > PAGE_BYTES_MAX {
                return Err(format!(
                    "a page of {compressed} bytes would become {unpacked}: refused"
                ));
            }
            if header.inner > 1 {
                return Err("a page is of two kinds: refused".into());
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
        let mut thrift = Thrift::new(&bytes);
        if let Some(header) = page_header(&mut thrift) {
            let used = bytes.len() - thrift.left();
            return Ok((header, u64::try_from(used).unwrap_or(0)));
        }
        if window >= there || window >= HEADER_BYTES_MAX {
            return Err("a page's header cannot be read".into());
        }
        window *= 8;
    }
}

const DATA_PAGE: Shape = Shape::Struct(&[
    (1, Shape::I32),
    (2, Shape::I32),
    (3, Shape::I32),
    (4, Shape::I32),
    (5, STATISTICS),
]);

const DICTIONARY_PAGE: Shape = Shape::Struct(&[(1, Shape::I32), (2, Shape::I32), (3, Shape::Bool)]);

const DATA_PAGE_V2: Shape = Shape::Struct(&[
    (1, Shape::I32),
    (2, Shape::I32),
    (3, Shape::I32),
    (4, Shape::I32),
    (5, Shape::I32),
    (6, Shape::I32),
    (7, Shape::Bool),
    (8, STATISTICS),
]);

/// The number of values and the encoding of one of the inner headers, which has this shape.
fn inner(thrift: &mut Thrift<'_>, shape: Shape, encoding_field: i64) -> Option<(i64, i64)> {
    let Shape::Struct(fields) = shape else { return None };
    let (mut values, mut encoding, mut last) = (0, 0, 0);
    loop {
        match thrift.field(&mut last)? {
            (_, 0) => return Some((values, encoding)),
            (1, 5) => values = thrift.number(Shape::I32)?,
            (field, 5) if field == encoding_field => encoding = thrift.number(Shape::I32)?,
            (field, wire) => match fields.iter().find(|(known, _)| *known == field) {
                Some((_, shape)) => thrift.skip_as(*shape, wire)?,
                None => thrift.skip(wire, 0)?,
            },
        }
    }
}

fn page_header(thrift: &mut Thrift<'_>) -> Option<PageHeader> {
    let mut header = PageHeader::default();
    let mut last = 0;
    loop {
        match thrift.field(&mut last)? {
            (_, 0) => return Some(header),
            (1 | 4, 5) => {
                thrift.number(Shape::I32)?;
            }
            (2, 5) => header.uncompressed = thrift.number(Shape::I32)?,
            (3, 5) => header.compressed = thrift.number(Shape::I32)?,
            (5, 12) => {
                header.inner += 1;
                header.encoding = inner(thrift, DATA_PAGE, 2)?.1;
            }
            (6, 12) => thrift.skip_as(Shape::Struct(&[]), 12)?,
            (7, 12) => {
                header.inner += 1;
                header.dictionary_values = Some(inner(thrift, DICTIONARY_PAGE, 2)?.0);
            }
            (8, 12) => {
                header.inner += 1;
                header.encoding = inner(thrift, DATA_PAGE_V2, 4)?.1;
            }
            (1..=8, _) => return None,
            (_, wire) => thrift.skip(wire, 0)?,
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
        let mut thrift = Thrift::new(&bytes);
        let header = page_header(&mut thrift).unwrap();
        assert_eq!(
            (header.uncompressed, header.compressed, header.encoding),
            (20, 10, 7)
        );
        assert_eq!(thrift.left(), 1);
        for cut in 0..bytes.len() - 1 {
            assert!(page_header(&mut Thrift::new(&bytes[..cut])).is_none());
        }
        assert!(page_header(&mut Thrift::new(&[0xff; 64])).is_none());
        assert!(
            page_header(&mut Thrift::new(&[0x1c; 64])).is_none(),
            "structs without end"
        );
    }

    #[test]
    fn a_page_of_two_kinds_is_refused() {
        // {num_values 3, encoding 7} as field 5, and {.., encoding 0} as field 8, which would have hidden it.
        let bytes = [
            0x15, 0x00, 0x15, 0x00, 0x15, 0x00, 0x2c, 0x15, 0x06, 0x15, 0x0e, 0x00, 0x3c, 0x15, 0x06, 0x35,
            0x00, 0x00, 0x00,
        ];
        assert_eq!(page_header(&mut Thrift::new(&bytes)).unwrap().inner, 2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pages");
        std::fs::write(&path, bytes).unwrap();
        let file = SourceFile::open(&path).unwrap();
        let column = (0, u64::try_from(bytes.len()).unwrap());
        let refused = RowGroup::default().column(&file, column, Packing::Bounded);
        assert_eq!(refused.unwrap_err(), "a page is of two kinds: refused");
        let mut wrong = bytes;
        wrong[6] = 0x28;
        assert!(
            page_header(&mut Thrift::new(&wrong)).is_none(),
            "a text where the inner header stands"
        );
    }
}
