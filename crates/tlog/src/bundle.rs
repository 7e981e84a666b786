//! Entry bundles: up to 256 entries, each behind its length.
//!
//! Source: C2SP tlog-tiles. An entry is two bytes of big-endian length, then
//! that many bytes.

use thiserror::Error;

use crate::TileWidth;

/// Longest entry in bytes: what two bytes of length can say.
pub const ENTRY_BYTES_MAX: usize = 65_535;

/// Longest bundle in bytes: 256 entries of [`ENTRY_BYTES_MAX`], each with its length.
pub const BUNDLE_BYTES_MAX: usize = 256 * (2 + ENTRY_BYTES_MAX);

/// Why entries make no bundle, or bytes are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    /// The entry is longer than [`ENTRY_BYTES_MAX`].
    #[error("an entry of {bytes} bytes is too long for a bundle")]
    EntryTooLong {
        /// The entry's length.
        bytes: usize,
    },
    /// The bytes end inside an entry or before the last one.
    #[error("the bundle ends inside entry {entry}")]
    Truncated {
        /// 0-based position in the bundle.
        entry: usize,
    },
    /// Bytes follow the last entry.
    #[error("{bytes} bytes follow the bundle's last entry")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Appends one entry to a bundle.
///
/// # Errors
/// [`BundleError::EntryTooLong`]; then `bundle` is as it was.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), BundleError> {
    let length = u16::try_from(entry.len()).map_err(|_| BundleError::EntryTooLong { bytes: entry.len() })?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// Encodes entries as one bundle. How many there may be is the caller's [`TileWidth`].
///
/// # Errors
/// [`BundleError::EntryTooLong`].
pub fn encode_bundle<E: AsRef<[u8]>>(entries: impl IntoIterator<Item = E>) -> Result<Vec<u8>, BundleError> {
    let mut bundle = Vec::new();
    for entry in entries {
        push_entry(&mut bundle, entry.as_ref())?;
    }
    Ok(bundle)
}

/// Reads a bundle of exactly `width` entries, which is known from its path.
///
/// After an error the iterator ends. An entry seen before an error is only
/// as good as its leaf hash, as any entry is.
pub const fn decode_bundle(bytes: &[u8], width: TileWidth) -> BundleEntries<'_> {
    BundleEntries {
        rest: bytes,
        entry: 0,
        width: width.as_usize(),
        done: false,
    }
}

/// The entries of a bundle, or what is wrong with it: see [`decode_bundle`].
#[derive(Debug, Clone)]
pub struct BundleEntries<'a> {
    rest: &'a [u8],
    entry: usize,
    width: usize,
    done: bool,
}

impl<'a> BundleEntries<'a> {
    fn read(&mut self) -> Option<Result<&'a [u8], BundleError>> {
        if self.entry == self.width {
            let bytes = self.rest.len();
            return (bytes > 0).then_some(Err(BundleError::Trailing { bytes }));
        }
        let split = self.rest.split_first_chunk::<2>().and_then(|(length, rest)| {
            let length = usize::from(u16::from_be_bytes(*length));
            rest.split_at_checked(length)
        });
        let Some((entry, rest)) = split else {
            return Some(Err(BundleError::Truncated { entry: self.entry }));
        };
        self.rest = rest;
        self.entry += 1;
        Some(Ok(entry))
    }
}

impl<'a> Iterator for BundleEntries<'a> {
    type Item = Result<&'a [u8], BundleError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl std::iter::FusedIterator for BundleEntries<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, BundleError> {
        decode_bundle(bytes, TileWidth::new(width).unwrap()).collect()
    }

    #[test]
    fn the_worked_bundle() {
        let bundle = encode_bundle(["alpha", "bravo", "charlie"]).unwrap();
        assert_eq!(bundle, b"\x00\x05alpha\x00\x05bravo\x00\x07charlie");
        assert_eq!(decode(&bundle, 3), Ok(vec![&b"alpha"[..], b"bravo", b"charlie"]));
    }

    #[test]
    fn another_width_is_refused() {
        let bundle = encode_bundle(["alpha", "bravo", "charlie"]).unwrap();
        assert_eq!(decode(&bundle, 2), Err(BundleError::Trailing { bytes: 9 }));
        assert_eq!(decode(&bundle, 4), Err(BundleError::Truncated { entry: 3 }));
        for length in 0..bundle.len() {
            assert!(matches!(
                decode(&bundle[..length], 3),
                Err(BundleError::Truncated { .. })
            ));
        }
    }

    #[test]
    fn after_an_error_the_iterator_ends() {
        let mut entries = decode_bundle(b"\x00\x02a", TileWidth::FULL);
        assert_eq!(entries.next(), Some(Err(BundleError::Truncated { entry: 0 })));
        assert_eq!(entries.next(), None);
    }

    #[test]
    fn an_entry_may_be_empty_or_as_long_as_two_bytes_can_say() {
        let longest = vec![7; ENTRY_BYTES_MAX];
        let bundle = encode_bundle([&longest[..], b""]).unwrap();
        assert_eq!(decode(&bundle, 2), Ok(vec![&longest[..], b""]));
        let mut bundle = Vec::new();
        let too_long = vec![7; ENTRY_BYTES_MAX + 1];
        assert_eq!(
            push_entry(&mut bundle, &too_long),
            Err(BundleError::EntryTooLong { bytes: 65_536 })
        );
        assert_eq!(bundle, b"");
    }
}
