//! Which tiles and entry bundles a tree has, and their paths.
//!
//! Out of scope: their contents ([`crate::TileNodes`], [`crate::decode_bundle`])
//! and the prefix before `tile/`. Paths are those of C2SP tlog-tiles: without the
//! height segment and the `data` segment of Go's checksum database.

use std::fmt;

use thiserror::Error;

use crate::{TreeSize, text::parse_decimal};

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_HASHES: u16 = 256;

/// Longest path: `tile/entries/` (13), an index of seven groups as `u64::MAX` has (33), `.p/255` (6).
pub const TILE_PATH_BYTES_MAX: usize = 52;

/// Highest level of a tile's path.
const LEVEL_MAX: u64 = 63;

/// How many hashes a tile has, or entries a bundle: 1 to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileWidth(u16);

/// A tile of hashes or a bundle of entries, without the log's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TilePath {
    /// `tile/<level>/<index>[.p/<width>]`: up to 256 nodes of tree level `8 * level`.
    Hash {
        /// Tile level, 0 to 63; level 0 holds leaf hashes.
        level: u8,
        /// Position among the tiles of its level.
        index: u64,
        /// Hashes in the tile.
        width: TileWidth,
    },
    /// `tile/entries/<index>[.p/<width>]`: up to 256 entries.
    Entries {
        /// Position among the bundles.
        index: u64,
        /// Entries in the bundle.
        width: TileWidth,
    },
}

/// The text is no tile path, or not in its one canonical spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a tile path")]
pub struct TilePathError;

impl TileWidth {
    /// A full tile.
    pub const FULL: Self = Self(TILE_HASHES);

    /// A width of 1 to 256; `None` for any other.
    pub const fn new(width: u16) -> Option<Self> {
        if width >= 1 && width <= TILE_HASHES {
            Some(Self(width))
        } else {
            None
        }
    }

    /// The number of hashes or entries.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// The number of hashes or entries.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Whether the tile can grow no further.
    pub const fn is_full(self) -> bool {
        self.0 == TILE_HASHES
    }
}

impl TilePath {
    /// Reads a path as [`TilePath`]'s `Display` writes it; every other spelling is refused.
    ///
    /// Whether a tree has the tile is another question: [`tile_width`].
    ///
    /// # Errors
    /// [`TilePathError`].
    ///
    /// Source: C2SP tlog-tiles.
    pub fn parse(path: &str) -> Result<Self, TilePathError> {
        Self::read(path).ok_or(TilePathError)
    }

    fn read(path: &str) -> Option<Self> {
        if path.len() > TILE_PATH_BYTES_MAX {
            return None;
        }
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, partial_width(width)?),
            None => (rest, TileWidth::FULL),
        };
        let index = parse_groups(index)?;
        if level == "entries" {
            return Some(Self::Entries { index, width });
        }
        let level = parse_decimal(level).filter(|level| *level <= LEVEL_MAX)?;
        Some(Self::Hash {
            level: u8::try_from(level).ok()?,
            index,
            width,
        })
    }

    /// Hashes in the tile, or entries in the bundle.
    pub const fn width(&self) -> TileWidth {
        match self {
            Self::Hash { width, .. } | Self::Entries { width, .. } => *width,
        }
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, width) = match *self {
            Self::Hash { level, index, width } => {
                write!(f, "tile/{level}/")?;
                (index, width)
            }
            Self::Entries { index, width } => {
                f.write_str("tile/entries/")?;
                (index, width)
            }
        };
        // 1000^6 is the largest power below 2^64.
        for power in (1..=6)
            .rev()
            .map(|exponent| 1000_u64.pow(exponent))
            .filter(|power| index >= *power)
        {
            write!(f, "x{:03}/", index / power % 1000)?;
        }
        write!(f, "{:03}", index % 1000)?;
        if width.is_full() {
            Ok(())
        } else {
            write!(f, ".p/{}", width.as_u16())
        }
    }
}

impl std::str::FromStr for TilePath {
    type Err = TilePathError;

    fn from_str(path: &str) -> Result<Self, TilePathError> {
        Self::parse(path)
    }
}

/// Width of tile `index` at tile level `level` in a tree of `size` leaves; `None` if it has no such tile.
///
/// Level 0 also gives the width of the entry bundle of this index.
pub fn tile_width(level: u8, index: u64, size: TreeSize) -> Option<TileWidth> {
    let hashes = hashes_at(level, size);
    let before = index.checked_mul(u64::from(TILE_HASHES))?;
    let rest = hashes.checked_sub(before)?.min(u64::from(TILE_HASHES));
    TileWidth::new(u16::try_from(rest).ok()?)
}

/// Every tile and bundle of a tree of `size` leaves: hash tiles level by level, then entry bundles.
///
/// Only the last of each level can be partial. A tree of `n` leaves has about `n / 128` of them,
/// so the iterator is lazy.
pub fn tile_paths(size: TreeSize) -> impl Iterator<Item = TilePath> {
    let hashes = (0_u8..8).flat_map(move |level| {
        widths(level, size).map(move |(index, width)| TilePath::Hash { level, index, width })
    });
    hashes.chain(widths(0, size).map(|(index, width)| TilePath::Entries { index, width }))
}

fn widths(level: u8, size: TreeSize) -> impl Iterator<Item = (u64, TileWidth)> {
    let tiles = hashes_at(level, size).div_ceil(u64::from(TILE_HASHES));
    (0..tiles).filter_map(move |index| tile_width(level, index, size).map(|width| (index, width)))
}

/// Complete subtrees of `256^level` leaves. From level 8 on there are none: 256^8 is 2^64.
fn hashes_at(level: u8, size: TreeSize) -> u64 {
    size.as_u64().checked_shr(8 * u32::from(level)).unwrap_or(0)
}

/// `1` to `255`.
fn partial_width(text: &str) -> Option<TileWidth> {
    let width = TileWidth::new(u16::try_from(parse_decimal(text)?).ok()?)?;
    (!width.is_full()).then_some(width)
}

/// `x001/x234/067`; no leading group of zeros.
fn parse_groups(text: &str) -> Option<u64> {
    let (leading, last) = match text.rsplit_once('/') {
        Some((leading, last)) => (Some(leading), last),
        None => (None, text),
    };
    let mut index = 0_u64;
    for group in leading.into_iter().flat_map(|groups| groups.split('/')) {
        index = index
            .checked_mul(1000)?
            .checked_add(parse_group(group.strip_prefix('x')?)?)?;
        // The first group decides: later ones may be zero, but never make the index so.
        if index == 0 {
            return None;
        }
    }
    index.checked_mul(1000)?.checked_add(parse_group(last)?)
}

/// Exactly three digits.
fn parse_group(text: &str) -> Option<u64> {
    let three_digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    if three_digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(width: u16) -> TileWidth {
        TileWidth::new(width).unwrap()
    }

    #[test]
    fn paths_are_those_of_c2sp() {
        let full = TileWidth::FULL;
        let tile = |level, index, width| TilePath::Hash { level, index, width };
        for (path, text) in [
            (tile(0, 0, full), "tile/0/000"),
            (tile(0, 273, partial(112)), "tile/0/273.p/112"),
            (tile(1, 1_234_067, full), "tile/1/x001/x234/067"),
            (tile(63, 1000, partial(1)), "tile/63/x001/000.p/1"),
            (
                TilePath::Entries {
                    index: 0,
                    width: partial(3),
                },
                "tile/entries/000.p/3",
            ),
            (
                TilePath::Entries {
                    index: u64::MAX,
                    width: partial(255),
                },
                "tile/entries/x018/x446/x744/x073/x709/x551/615.p/255",
            ),
        ] {
            assert_eq!(path.to_string(), text);
            assert_eq!(TilePath::parse(text), Ok(path));
            assert!(text.len() <= TILE_PATH_BYTES_MAX);
        }
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for bad in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "/tile/0/000",
            "tile/0/000/",
            "tile//000",
            "tile/00/000",
            "tile/+0/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/8/0/000",
            "tile/data/000",
            "tile/0/data/000",
            "tile/Entries/000",
            "tile/0/0",
            "tile/0/00",
            "tile/0/0000",
            "tile/0/+00",
            "tile/0/x000",
            "tile/0/x000/000",
            "tile/0/x000/x001/000",
            "tile/0/001/000",
            "tile/0/x001/x000",
            "tile/0/x1/000",
            "tile/0/X001/000",
            "tile/0/x001//000",
            "tile/0/000.p",
            "tile/0/000.p/",
            "tile/0/000.p/0",
            "tile/0/000.p/01",
            "tile/0/000.p/256",
            "tile/0/000.p/+1",
            "tile/0/000.p/1/",
            "tile/0/000.p/1.p/1",
            "tile/0/000.p/1\n",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
            "tile/0/x001/x000/x000/x000/x000/x000/x000/000",
            "tile/0/٠٠٠",
        ] {
            assert_eq!(TilePath::parse(bad), Err(TilePathError), "{bad:?}");
        }
    }

    #[test]
    fn widths_at_seventy_thousand() {
        let size = TreeSize::new(70_000);
        assert_eq!(tile_width(0, 272, size), Some(TileWidth::FULL));
        assert_eq!(tile_width(0, 273, size), Some(partial(112)));
        assert_eq!(tile_width(0, 274, size), None);
        assert_eq!(tile_width(1, 1, size), Some(partial(17)));
        assert_eq!(tile_width(2, 0, size), Some(partial(1)));
        for (level, index) in [(3, 0), (8, 0), (63, 0), (255, 0), (0, u64::MAX)] {
            assert_eq!(tile_width(level, index, size), None);
        }
        assert_eq!(tile_width(7, 255, TreeSize::new(u64::MAX)), None);
        assert_eq!(tile_width(7, 0, TreeSize::new(u64::MAX)), Some(partial(255)));
    }

    #[test]
    fn the_paths_of_a_tree_are_complete() {
        let texts = |size| {
            tile_paths(TreeSize::new(size))
                .map(|path| path.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(0), Vec::<String>::new());
        assert_eq!(texts(1), ["tile/0/000.p/1", "tile/entries/000.p/1"]);
        assert_eq!(texts(256), ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]);
        let large = texts(70_000);
        let partials: Vec<_> = large.iter().filter(|path| path.contains(".p/")).collect();
        assert_eq!(large.len(), 274 + 2 + 1 + 274);
        assert_eq!(
            partials,
            [
                "tile/0/273.p/112",
                "tile/1/001.p/17",
                "tile/2/000.p/1",
                "tile/entries/273.p/112"
            ]
        );
    }

    #[test]
    fn paths_read_back() {
        for exponent in 0..64 {
            for index in [1 << exponent, (1 << exponent) - 1, 10_u64.pow(exponent % 20)] {
                let path = TilePath::Hash {
                    level: 3,
                    index,
                    width: TileWidth::FULL,
                };
                assert_eq!(path.to_string().parse(), Ok(path));
            }
        }
    }
}
