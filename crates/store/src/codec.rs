//! How bytes are packed at rest: leaves in blocks, each body alone.
//!
//! A block holds consecutive leaves as a C2SP entry bundle does (16-bit length,
//! then the leaf), compressed as a whole. A body is compressed alone, so that it
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

/// Leaves of one block at most. One block is read to answer for one leaf: 256
/// leaves of 500 bytes unpack in about 0.1 ms.
pub const BLOCK_LEAVES_MAX: usize = 256;

/// Largest unpacked block: 256 leaves of 65,535 bytes and their lengths.
const BLOCK_BYTES_MAX: usize = BLOCK_LEAVES_MAX * (evidence::LEAF_BYTES_MAX + 2);

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
pub fn pack_block(entries: &[u8]) -> Vec<u8> {
    // Many at once unpack quickly in either form.
    packed(entries, ParamSwitch::Auto)
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

/// The leaves of a block, unpacked.
#[derive(Debug)]
pub struct Leaves {
    entries: Vec<u8>,
    ends: Vec<u32>,
}

impl Leaves {
    /// Unpacks a block that should hold `count` leaves.
    pub fn unpack(packed: &[u8], count: u32) -> Result<Self, UnpackError> {
        let entries = unpack(packed, BLOCK_BYTES_MAX)?;
        let mut ends = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(BLOCK_LEAVES_MAX));
        let mut at = 0;
        while at < entries.len() {
            let Some(&[high, low]) = entries.get(at..at + 2) else {
                return Err(UnpackError::Block);
            };
            at += 2 + usize::from(u16::from_be_bytes([high, low]));
            ends.push(u32::try_from(at).map_err(|_| UnpackError::Block)?);
        }
        if at != entries.len() || u32::try_from(ends.len()) != Ok(count) {
            return Err(UnpackError::Block);
        }
        Ok(Self { entries, ends })
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
