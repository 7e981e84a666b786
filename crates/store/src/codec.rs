//! How bytes are packed at rest: leaves in blocks, each body alone.
//!
//! A block holds consecutive leaves as a C2SP entry bundle does (16-bit length,
//! then the leaf), compressed in parts. A body is compressed alone, so that it
//! can be erased alone. Both use zstd with a shared dictionary; the frame's first
//! byte is the dictionary's version (0: stored as it is). A dictionary's hash is
//! fixed here, and verification compares the stored copy with it.
//!
//! Out of scope: what the bytes mean. Packing is no evidence: what is hashed is
//! what comes out.

use std::cell::RefCell;
use std::sync::LazyLock;

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::{CParameter, ParamSwitch};

/// Leaves of one block at most.
pub const BLOCK_LEAVES_MAX: usize = 256;

/// Leaves of a block that are packed together. They are unpacked to answer for one of them: 64 of 500 bytes in about
/// 12 µs, where 256 take 60 to 100. Each then takes 2 to 6 bytes more; by parts of 32 it would be 5 to 10.
const PART_LEAVES: usize = 64;

/// Begins a block in parts, where else the dictionary's version stands.
const IN_PARTS: u8 = 2;

/// Largest unpacked block: 256 leaves of 65,535 bytes and their lengths.
const BLOCK_BYTES_MAX: usize = BLOCK_LEAVES_MAX * (evidence::LEAF_BYTES_MAX + 2);

/// Largest unpacked part of a block.
const PART_BYTES_MAX: usize = PART_LEAVES * (evidence::LEAF_BYTES_MAX + 2);

/// Level 1 packs 1 KiB in a few microseconds; level 3 gains 3 % for twice the time.
const LEVEL: i32 = 1;

/// The version of the dictionary that new rows are packed with.
pub const DICTIONARY_VERSION: u8 = 1;

/// Dictionary 1: what bodies and leaves have in common, trained by `examples/train_dictionary.rs` on demo runs.
pub static DICTIONARY_1: &[u8] = include_bytes!("dictionary_1.zdict");

static ENCODER: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY_1, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY_1));

thread_local! {
    // Contexts are 100 KiB and more; one a thread instead of one a record.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Why packed bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// No first byte, or a dictionary this version does not know.
    #[error("packed with dictionary {0}, which this version does not know")]
    Dictionary(u8),
    /// Nothing at all.
    #[error("empty")]
    Empty,
    /// zstd says no.
    #[error("not the packed form of anything: {0}")]
    Frame(#[from] std::io::Error),
    /// A block whose entries do not end where it ends, or whose count is another.
    #[error("block holds other leaves than its row says")]
    Block,
}

/// Packs a body.
///
/// Letters stay as they are: with codes of their own a body takes a sixth less room and half as long again to unpack,
/// and a verification unpacks every one.
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    packed(bytes, ParamSwitch::Disable)
}

fn packed(bytes: &[u8], letters: ParamSwitch) -> Vec<u8> {
    let mut out = vec![0; 1 + zstd::zstd_safe::compress_bound(bytes.len())];
    let packed = COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = if let Some(compressor) = slot {
            compressor
        } else {
            let mut compressor = Compressor::with_prepared_dictionary(&ENCODER).ok()?;
            // The first byte says which dictionary; four bytes a record are 5 %.
            compressor.include_dictid(false).ok()?;
            slot.insert(compressor)
        };
        let letters = CParameter::LiteralCompressionMode(letters);
        compressor.set_parameter(letters).ok()?;
        compressor.compress_to_buffer(bytes, &mut out[1..]).ok()
    });
    if let Some(len) = packed.filter(|&len| len < bytes.len()) {
        out[0] = DICTIONARY_VERSION;
        out.truncate(1 + len);
        out.shrink_to_fit();
        return out;
    }
    out.clear();
    out.push(0);
    out.extend_from_slice(bytes);
    out
}

/// Unpacks a body into `out`, which is cleared first.
pub fn unpack_into(packed: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), UnpackError> {
    out.clear();
    match packed.split_first() {
        None => Err(UnpackError::Empty),
        Some((0, bytes)) => {
            out.extend_from_slice(bytes);
            Ok(())
        }
        Some((&DICTIONARY_VERSION, frame)) => DECOMPRESSOR.with_borrow_mut(|slot| {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(Decompressor::with_prepared_dictionary(&DECODER)?),
            };
            out.reserve(claimed(frame, bytes_max)?);
            decompressor.decompress_to_buffer(frame, out)?;
            Ok(())
        }),
        Some((&version, _)) => Err(UnpackError::Dictionary(version)),
    }
}

/// What a frame claims to hold, bounded before anything is reserved for it.
fn claimed(frame: &[u8], bytes_max: usize) -> Result<usize, UnpackError> {
    let unclaimed = || std::io::Error::other("not one frame that says its size");
    let claimed = zstd::zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .ok_or_else(unclaimed)?;
    // One frame and nothing after it: a second, empty one would unpack to the same bytes.
    if zstd::zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(unclaimed().into());
    }
    let claimed = usize::try_from(claimed).unwrap_or(usize::MAX);
    if claimed > bytes_max {
        return Err(std::io::Error::other("frame claims more than its kind may hold").into());
    }
    Ok(claimed)
}

/// Bodies up to this size are unpacked right behind the dictionary; few are larger.
const ROOM_BYTES: usize = 64 << 10;

/// Unpacks bodies, one after the other. [`unpacking`] gives one for many; the default is for a few.
#[derive(Default)]
pub struct Unpacker<'r> {
    /// Knows a dictionary, and the room right behind it.
    near: Option<(Decompressor<'r>, &'r mut [u8])>,
    out: Vec<u8>,
}

/// Calls `work` with an unpacker for many bodies.
///
/// Its room lies right behind the dictionary: zstd then copies what a body has in common with the dictionary as
/// it copies within a body, and not by a call for each piece. That is a tenth of the time of a verification
/// whose bodies are 1 KiB; making the unpacker costs as much as a few bodies.
///
/// # Errors
/// No memory for it.
pub fn unpacking<T>(work: impl FnOnce(Unpacker<'_>) -> T) -> std::io::Result<T> {
    let mut memory = vec![0; DICTIONARY_1.len() + ROOM_BYTES];
    let (dictionary, room) = memory.split_at_mut(DICTIONARY_1.len());
    dictionary.copy_from_slice(DICTIONARY_1);
    let dictionary = DecoderDictionary::try_new(dictionary)?;
    Ok(work(Unpacker {
        near: Some((Decompressor::with_prepared_dictionary(&dictionary)?, room)),
        out: Vec::new(),
    }))
}

impl Unpacker<'_> {
    /// Unpacks a body; it stands until the next one is unpacked.
    ///
    /// # Errors
    /// The bytes are not the packed form of anything, or of more than `bytes_max`.
    pub fn unpack<'a>(&'a mut self, packed: &'a [u8], bytes_max: usize) -> Result<&'a [u8], UnpackError> {
        match (packed.split_first(), &mut self.near) {
            (Some((0, bytes)), _) => Ok(bytes),
            (Some((&DICTIONARY_VERSION, frame)), Some((decompressor, room)))
                if claimed(frame, bytes_max)? <= room.len() =>
            {
                let len = decompressor.decompress_to_buffer(frame, *room)?;
                Ok(&room[..len])
            }
            _ => {
                unpack_into(packed, bytes_max, &mut self.out)?;
                Ok(&self.out)
            }
        }
    }
}

impl std::fmt::Debug for Unpacker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

/// Unpacks a body.
pub fn unpack(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    unpack_into(packed, bytes_max, &mut out)?;
    Ok(out)
}

/// Packs leaves that stand end to end in `entries`, each behind its 16-bit length ([`push_leaf`]).
///
/// More than [`PART_LEAVES`] are packed in parts, so that one leaf is read without the others: a byte that says so, then
/// each part as bytes are packed, behind its length in 32 bits.
pub fn pack_block(entries: &[u8]) -> Vec<u8> {
    // Many at once unpack quickly in either form.
    let pack = |entries| packed(entries, ParamSwitch::Auto);
    let mut rest = entries;
    let mut part = next_part(&mut rest);
    if rest.is_empty() {
        return pack(entries);
    }
    let mut out = vec![IN_PARTS];
    while !part.is_empty() {
        let part_packed = pack(part);
        // A part is at most 4 MiB.
        let len = u32::try_from(part_packed.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&part_packed);
        part = next_part(&mut rest);
    }
    out
}

/// Takes the entries of a part off the front; of a cut entry, all that is left.
fn next_part<'a>(entries: &mut &'a [u8]) -> &'a [u8] {
    let mut end = 0;
    for _ in 0..PART_LEAVES {
        end += match entries.get(end..end + 2) {
            Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => entries.len(),
        };
    }
    let (part, rest) = entries.split_at(end.min(entries.len()));
    *entries = rest;
    part
}

/// Appends one leaf to the entries of a block. A leaf is at most 65,535 bytes; `false` when longer.
pub fn push_leaf(entries: &mut Vec<u8>, leaf: &[u8]) -> bool {
    let Ok(len) = u16::try_from(leaf.len()) else {
        return false;
    };
    entries.extend_from_slice(&len.to_be_bytes());
    entries.extend_from_slice(leaf);
    true
}

/// Takes a part off the front of the parts of a block.
fn take_part<'a>(parts: &mut &'a [u8]) -> Result<&'a [u8], UnpackError> {
    let (len, rest) = parts.split_first_chunk::<4>().ok_or(UnpackError::Block)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| UnpackError::Block)?;
    let (part, rest) = rest.split_at_checked(len).ok_or(UnpackError::Block)?;
    *parts = rest;
    Ok(part)
}

/// The leaves of a block, or of a part of one, unpacked. The default has none.
#[derive(Debug, Default)]
pub struct Leaves {
    entries: Vec<u8>,
    ends: Vec<u32>,
    /// Where a part is unpacked before it is added.
    part: Vec<u8>,
}

impl Leaves {
    /// Unpacks a block that should hold `count` leaves.
    pub fn unpack(packed: &[u8], count: u32) -> Result<Self, UnpackError> {
        let mut leaves = Self::default();
        leaves.read(packed, count)?;
        Ok(leaves)
    }

    /// The same in place of those that are here: their room is used again. After an error there are none, or some.
    pub fn read(&mut self, packed: &[u8], count: u32) -> Result<(), UnpackError> {
        self.entries.clear();
        self.ends.clear();
        let count = usize::try_from(count).map_err(|_| UnpackError::Block)?;
        // Before any part is unpacked: a few bytes may be millions.
        if count > BLOCK_LEAVES_MAX {
            return Err(UnpackError::Block);
        }
        let Some((&IN_PARTS, mut parts)) = packed.split_first() else {
            unpack_into(packed, BLOCK_BYTES_MAX, &mut self.entries)?;
            return self.find_ends(count);
        };
        let mut left = count;
        while left > 0 {
            let of_part = left.min(PART_LEAVES);
            unpack_into(take_part(&mut parts)?, PART_BYTES_MAX, &mut self.part)?;
            self.entries.extend_from_slice(&self.part);
            self.find_ends(of_part)?;
            left -= of_part;
        }
        // What does not begin another form is in no block; nothing stands behind the last part.
        if count <= PART_LEAVES || !parts.is_empty() {
            return Err(UnpackError::Block);
        }
        Ok(())
    }

    /// Unpacks leaves that stand together in a block of `count`, that at `place` among them, and says at which place
    /// the first of them stands.
    pub fn unpack_around(packed: &[u8], count: u32, place: u32) -> Result<(u32, Self), UnpackError> {
        let Some((&IN_PARTS, mut parts)) = packed.split_first() else {
            return Ok((0, Self::unpack(packed, count)?));
        };
        let (count, place) = (count as usize, place as usize);
        if place >= count || count > BLOCK_LEAVES_MAX {
            return Err(UnpackError::Block);
        }
        let part = place / PART_LEAVES;
        for _ in 0..part {
            take_part(&mut parts)?;
        }
        let first = part * PART_LEAVES;
        let of_part = (count - first).min(PART_LEAVES);
        let mut leaves = Self::default();
        unpack_into(take_part(&mut parts)?, PART_BYTES_MAX, &mut leaves.entries)?;
        leaves.find_ends(of_part)?;
        Ok((u32::try_from(first).map_err(|_| UnpackError::Block)?, leaves))
    }

    /// Finds where the entries end that were added, `count` of them.
    fn find_ends(&mut self, count: usize) -> Result<(), UnpackError> {
        let before = self.ends.len();
        let mut at = match self.ends.last() {
            Some(&end) => usize::try_from(end).map_err(|_| UnpackError::Block)?,
            None => 0,
        };
        while at < self.entries.len() {
            let Some(&[high, low]) = self.entries.get(at..at + 2) else {
                return Err(UnpackError::Block);
            };
            at += 2 + usize::from(u16::from_be_bytes([high, low]));
            self.ends.push(u32::try_from(at).map_err(|_| UnpackError::Block)?);
        }
        if at != self.entries.len() || self.ends.len() != before + count {
            return Err(UnpackError::Block);
        }
        Ok(())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The leaf at that place in the block.
    pub fn get(&self, place: usize) -> Option<&[u8]> {
        let end = usize::try_from(*self.ends.get(place)?).ok()?;
        let start = match place.checked_sub(1) {
            Some(before) => usize::try_from(self.ends[before]).ok()?,
            None => 0,
        };
        self.entries.get(start + 2..end)
    }

    /// The leaves in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|place| self.get(place))
    }

    /// The entries as a C2SP bundle has them: 16-bit length and leaf, end to end.
    pub fn entries(&self) -> &[u8] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        for bytes in [b"".as_slice(), b"x", &b"abc ".repeat(5_000), DICTIONARY_1] {
            assert_eq!(unpack(&pack(bytes), 1 << 20).unwrap(), bytes);
            unpacking(|mut unpacker| assert_eq!(unpacker.unpack(&pack(bytes), 1 << 20).unwrap(), bytes))
                .unwrap();
        }
    }

    #[test]
    fn an_unpacker_takes_small_and_large_bodies_in_any_order_and_goes_on_after_damage() {
        let bodies = [b"abc ".repeat(12), b"abc ".repeat(50_000), b"abc ".repeat(10)];
        unpacking(|mut unpacker| {
            for body in bodies.iter().chain(bodies.iter().rev()) {
                let packed = pack(body);
                assert!(unpacker.unpack(&packed[..packed.len() - 1], 1 << 20).is_err());
                assert!(unpacker.unpack(&packed, body.len() - 1).is_err());
                assert_eq!(unpacker.unpack(&packed, 1 << 20).unwrap(), body);
            }
        })
        .unwrap();
    }

    #[test]
    fn a_block_gives_back_its_leaves_and_refuses_another_count() {
        let mut entries = Vec::new();
        for leaf in [b"one".as_slice(), b"", b"three"] {
            assert!(push_leaf(&mut entries, leaf));
        }
        let packed = pack_block(&entries);
        let leaves = Leaves::unpack(&packed, 3).unwrap();
        assert_eq!(
            leaves.iter().collect::<Vec<_>>(),
            [b"one".as_slice(), b"", b"three"]
        );
        assert!(matches!(Leaves::unpack(&packed, 2), Err(UnpackError::Block)));
        assert!(!push_leaf(&mut entries, &vec![0; 65_536]));
    }

    /// A block of so many leaves, of differing lengths, and those.
    fn block(count: u32) -> (Vec<u8>, Vec<Vec<u8>>) {
        let leaves: Vec<Vec<u8>> = (0..count)
            .map(|leaf| format!("{leaf} ").repeat(leaf as usize % 7).into_bytes())
            .collect();
        let mut entries = Vec::new();
        for leaf in &leaves {
            assert!(push_leaf(&mut entries, leaf));
        }
        (pack_block(&entries), leaves)
    }

    #[test]
    fn a_large_block_is_in_parts_and_each_of_its_leaves_is_read_without_the_others() {
        for count in [1, 2, 63, 64, 65, 128, 129, 255, 256] {
            let (packed, all) = block(count);
            assert_eq!(packed[0] == IN_PARTS, count > 64, "{count}");
            let leaves = Leaves::unpack(&packed, count).unwrap();
            assert!(leaves.iter().eq(&all), "{count}");
            for place in 0..count {
                let (first, part) = Leaves::unpack_around(&packed, count, place).unwrap();
                let leaf = part.get((place - first) as usize).unwrap();
                assert_eq!(leaf, all[place as usize], "{place} of {count}");
                assert!(part.len() <= PART_LEAVES);
            }
            for other in [0, count - 1, count + 1, count + 64, u32::MAX] {
                assert!(Leaves::unpack(&packed, other).is_err(), "{count} as {other}");
            }
            assert!(Leaves::unpack_around(&packed, count, count).is_err() || count <= 64);
        }
        let (packed, _) = block(257);
        assert!(Leaves::unpack(&packed, 257).is_err(), "no block is so large");
        assert!(Leaves::unpack_around(&packed, 257, 0).is_err());
    }

    #[test]
    fn parts_that_are_cut_added_or_of_other_leaves_are_no_block() {
        let (packed, all) = block(130);
        for end in 0..packed.len() {
            assert!(Leaves::unpack(&packed[..end], 130).is_err(), "cut at {end}");
        }
        let longer = [packed.as_slice(), &[0, 0, 0, 1, 0]].concat();
        assert!(Leaves::unpack(&longer, 130).is_err());
        // One part alone has another form.
        let mut entries = Vec::new();
        for leaf in &all[..3] {
            assert!(push_leaf(&mut entries, leaf));
        }
        let part = pack_block(&entries);
        let len = u32::try_from(part.len()).unwrap().to_be_bytes();
        let alone = [[IN_PARTS].as_slice(), &len, &part].concat();
        assert!(Leaves::unpack(&alone, 3).is_err());
        // A part of a part: there is no such form.
        let within = [[IN_PARTS].as_slice(), &len, &alone, &len, &alone].concat();
        assert!(Leaves::unpack(&within, 65).is_err());
        assert!(Leaves::unpack_around(&within, 65, 0).is_err());
    }

    #[test]
    fn a_block_in_one_piece_of_a_version_before_is_read() {
        let (_, all) = block(200);
        let mut entries = Vec::new();
        for leaf in &all {
            assert!(push_leaf(&mut entries, leaf));
        }
        let whole = packed(&entries, ParamSwitch::Auto);
        assert!(Leaves::unpack(&whole, 200).unwrap().iter().eq(&all));
        let (first, leaves) = Leaves::unpack_around(&whole, 200, 150).unwrap();
        assert_eq!((first, leaves.get(150).unwrap()), (0, all[150].as_slice()));
    }

    #[test]
    fn cut_or_claimed_too_large_is_an_error_not_a_panic() {
        let packed = pack(&b"abc ".repeat(5_000));
        for end in 0..packed.len() {
            assert!(unpack(&packed[..end], 1 << 20).is_err());
        }
        assert!(unpack(&packed, 100).is_err());
        assert!(matches!(unpack(&[9, 1, 2], 100), Err(UnpackError::Dictionary(9))));
    }
}
