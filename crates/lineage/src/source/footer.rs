//! The footer of a Parquet file, looked at before the library reads it.
//!
//! The library builds the tree of columns by recursion and takes the word of the file for how many there are: a file
//! of forty bytes may ask for gigabytes, and a deep one ends the program. So the tree is walked here first.
//!
//! Source: parquet-format, `parquet.thrift`, `FileMetaData`.

use super::thrift::{Shape, Thrift};

/// Most elements of the tree of columns.
const SCHEMA_ELEMENTS_MAX: u64 = 20_000;

/// Groups in groups.
const SCHEMA_DEPTH_MAX: usize = 64;

/// All columns' paths together: each column holds the names of all groups above it.
const PATH_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most column chunks, of all row groups: some 600 bytes each are held.
const CHUNKS_MAX: u64 = 100_000;

const EMPTY: Shape = Shape::Struct(&[]);
const UNIT: Shape = Shape::Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]);
const TIME: Shape = Shape::Struct(&[(1, Shape::Bool), (2, UNIT)]);

const LOGICAL_TYPE: Shape = Shape::Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Shape::Struct(&[(1, Shape::I32), (2, Shape::I32)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Shape::Struct(&[(1, Shape::Byte), (2, Shape::Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Shape::Struct(&[(1, Shape::Byte)])),
    (17, Shape::Struct(&[(1, Shape::Bytes)])),
    (18, Shape::Struct(&[(1, Shape::Bytes), (2, Shape::I32)])),
]);

/// Statistics, which stand in the headers of pages as well.
pub(super) const STATISTICS: Shape = Shape::Struct(&[
    (1, Shape::Bytes),
    (2, Shape::Bytes),
    (3, Shape::I64),
    (4, Shape::I64),
    (5, Shape::Bytes),
    (6, Shape::Bytes),
    (7, Shape::Bool),
    (8, Shape::Bool),
    (9, Shape::I64),
]);

const KEY_VALUE: Shape = Shape::Struct(&[(1, Shape::Bytes), (2, Shape::Bytes)]);

const BOX: Shape = Shape::Struct(&[
    (1, Shape::Double),
    (2, Shape::Double),
    (3, Shape::Double),
    (4, Shape::Double),
    (5, Shape::Double),
    (6, Shape::Double),
    (7, Shape::Double),
    (8, Shape::Double),
]);

const COLUMN: Shape = Shape::Struct(&[
    (1, Shape::I32),
    (2, Shape::List(&Shape::I32)),
    (3, Shape::List(&Shape::Bytes)),
    (4, Shape::I32),
    (5, Shape::I64),
    (6, Shape::I64),
    (7, Shape::I64),
    (8, Shape::List(&KEY_VALUE)),
    (9, Shape::I64),
    (10, Shape::I64),
    (11, Shape::I64),
    (12, STATISTICS),
    (
        13,
        Shape::List(&Shape::Struct(&[
            (1, Shape::I32),
            (2, Shape::I32),
            (3, Shape::I32),
        ])),
    ),
    (14, Shape::I64),
    (15, Shape::I32),
    (
        16,
        Shape::Struct(&[
            (1, Shape::I64),
            (2, Shape::List(&Shape::I64)),
            (3, Shape::List(&Shape::I64)),
        ]),
    ),
    (17, Shape::Struct(&[(1, BOX), (2, Shape::List(&Shape::I32))])),
]);

const CHUNK: Shape = Shape::Struct(&[
    (1, Shape::Bytes),
    (2, Shape::I64),
    (3, COLUMN),
    (4, Shape::I64),
    (5, Shape::I32),
    (6, Shape::I64),
    (7, Shape::I32),
    (9, Shape::Bytes),
]);

const ROW_GROUP: Shape = Shape::Struct(&[
    (1, Shape::List(&CHUNK)),
    (2, Shape::I64),
    (3, Shape::I64),
    (
        4,
        Shape::List(&Shape::Struct(&[
            (1, Shape::I32),
            (2, Shape::Bool),
            (3, Shape::Bool),
        ])),
    ),
    (5, Shape::I64),
    (6, Shape::I64),
    (7, Shape::I16),
]);

/// What follows the row groups.
const REST: [(i64, Shape); 4] = [
    (5, Shape::List(&KEY_VALUE)),
    (6, Shape::Bytes),
    (7, Shape::List(&Shape::Struct(&[(1, EMPTY), (2, EMPTY)]))),
    (9, Shape::Bytes),
];

fn malformed() -> String {
    "its footer is not as the format has it: refused".to_owned()
}

/// Whether a footer asks for no more than can be given.
///
/// # Errors
/// It does not; why.
pub(super) fn look(bytes: &[u8]) -> Result<(), String> {
    let mut thrift = Thrift::new(bytes);
    let mut last = 0;
    // The version, then the columns: whatever stood between them could be read in two ways.
    let version = thrift.field(&mut last) == Some((1, 5)) && thrift.number(Shape::I32).is_some();
    if !version || thrift.field(&mut last) != Some((2, 9)) {
        return Err(malformed());
    }
    let leaves = schema(&mut thrift)?;
    loop {
        let (number, wire) = thrift.field(&mut last).ok_or_else(malformed)?;
        let read = match (number, wire) {
            (_, 0) => return Ok(()),
            (3, 6) => thrift.number(Shape::I64).map(|_| ()),
            (4, 9) => {
                let (wire, groups) = thrift.list().ok_or_else(malformed)?;
                if groups.saturating_mul(leaves.max(1)) > CHUNKS_MAX {
                    return Err(format!(
                        "it has {groups} row groups of {leaves} columns; {CHUNKS_MAX} parts of columns are read"
                    ));
                }
                (0..groups).try_for_each(|_| thrift.skip_as(ROW_GROUP, wire))
            }
            _ => match REST.iter().find(|(known, _)| *known == number) {
                Some((_, shape)) => thrift.skip_as(*shape, wire),
                None if number > 4 => thrift.skip(wire, 0),
                None => None,
            },
        };
        read.ok_or_else(malformed)?;
    }
}

/// One element of the tree: the bytes of its name, and its children.
fn element(thrift: &mut Thrift<'_>) -> Option<(u64, i64)> {
    let (mut name, mut children, mut last) = (0, 0, 0);
    loop {
        match thrift.field(&mut last)? {
            (_, 0) => return Some((name, children)),
            (4, 8) => name = thrift.text()?,
            (5, 5) => children = thrift.number(Shape::I32)?,
            (1 | 2 | 3 | 6 | 7 | 8 | 9, 5) => {
                thrift.number(Shape::I32)?;
            }
            (10, 12) => thrift.skip_as(LOGICAL_TYPE, 12)?,
            (1..=10, _) => return None,
            (_, wire) => thrift.skip(wire, 0)?,
        }
    }
}

/// The tree of columns, root first, each group before what is in it; how many columns there are.
fn schema(thrift: &mut Thrift<'_>) -> Result<u64, String> {
    let (wire, count) = thrift.list().ok_or_else(malformed)?;
    if count > SCHEMA_ELEMENTS_MAX {
        return Err(format!("it has {count} columns and groups: refused"));
    }
    if wire != 12 || count == 0 {
        return Err(malformed());
    }
    // Of each group that is open: children still to come, and the bytes of the names down to it.
    let mut open: Vec<(u64, u64)> = vec![(1, 0)];
    let (mut leaves, mut paths) = (0, 0_u64);
    for place in 0..count {
        let (name, children) = element(thrift).ok_or_else(malformed)?;
        let children = u64::try_from(children).map_err(|_| malformed())?;
        if children > count - place - 1 {
            return Err(format!("a group of {children} columns in {count}: refused"));
        }
        while open.last().is_some_and(|(left, _)| *left == 0) {
            open.pop();
        }
        let (left, above) = open.last_mut().ok_or_else(malformed)?;
        *left -= 1;
        let path = *above + name;
        if children == 0 {
            leaves += 1;
            paths += path;
        } else {
            open.push((children, path));
        }
        if open.len() > SCHEMA_DEPTH_MAX + 1 {
            return Err(format!(
                "its groups are more than {SCHEMA_DEPTH_MAX} deep: refused"
            ));
        }
        if paths > PATH_BYTES_MAX {
            return Err("the names of its columns are too long: refused".to_owned());
        }
    }
    if open.iter().any(|(left, _)| *left > 0) {
        return Err(malformed());
    }
    Ok(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(name: &[u8], children: u8) -> Vec<u8> {
        let mut bytes = vec![0x48, u8::try_from(name.len()).unwrap()];
        bytes.extend(name);
        if children > 0 {
            bytes.extend([0x15, children << 1]);
        }
        bytes.push(0);
        bytes
    }

    fn footer(elements: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0x15, 0x02, 0x19, 0xfc];
        let mut count = elements.len();
        while count > 0x7f {
            bytes.push(u8::try_from(count & 0x7f).unwrap() | 0x80);
            count >>= 7;
        }
        bytes.push(u8::try_from(count).unwrap());
        bytes.extend(elements.concat());
        // No rows, no row groups.
        bytes.extend([0x16, 0x00, 0x19, 0x0c, 0x00]);
        bytes
    }

    #[test]
    fn a_tree_is_as_deep_and_as_wide_as_it_says() {
        let chain = |depth: usize| {
            let mut elements = vec![element(b"g", 1); depth];
            elements.push(element(b"a", 0));
            look(&footer(&elements))
        };
        assert_eq!(chain(1), Ok(()));
        assert_eq!(chain(64), Ok(()));
        assert!(chain(65).unwrap_err().contains("64 deep"));
        let wide = look(&footer(&[element(b"m", 3), element(b"a", 0), element(b"b", 0)]));
        assert!(wide.unwrap_err().contains("a group of 3"));
        let more = look(&footer(&[element(b"m", 1), element(b"a", 0), element(b"b", 0)]));
        assert!(more.is_err(), "an element outside of the tree");
        let many = vec![element(b"a", 0); 20_001];
        assert!(look(&footer(&many)).unwrap_err().contains("20001"));
    }

    #[test]
    fn long_names_above_many_columns_are_refused() {
        let long = vec![b'x'; 100];
        let mut elements = vec![element(b"m", 1)];
        // 62 groups of 100 bytes, then 127 columns: 127 × 6,200 bytes, and a thousandfold of that is too much.
        elements.extend(vec![element(&long, 1); 61]);
        elements.push(element(&long, 2));
        elements.push(element(b"a", 0));
        elements.push(element(b"b", 0));
        assert_eq!(look(&footer(&elements)), Ok(()));
        let mut thrift_name = vec![0x48, 0x80, 0x80, 0x80, 0x08];
        thrift_name.extend(vec![b'x'; 16 * 1024 * 1024]);
        thrift_name.push(0);
        let huge = look(&footer(&[element(b"m", 1), thrift_name]));
        assert!(huge.unwrap_err().contains("too long"));
    }
}
