//! Keys of rows: one integer that sorts by owner, then by place.
//!
//! Rows that are written in order stand under ascending integer keys, so that a
//! store appends to them instead of inserting at random places.

use tlog::LeafIndex;

/// Bits of a key that count within its owner; see [`evidence::LEAF_INDEX_BITS`].
const PLACE_BITS: u32 = evidence::LEAF_INDEX_BITS;
const PLACE_MASK: i64 = (1 << PLACE_BITS) - 1;

/// Most owners (tenants, or ledgers) of one database: what is left of a positive 64-bit key.
pub const OWNERS_MAX: u32 = (1 << (63 - PLACE_BITS)) - 1;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident, $owner:ident, $place:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            /// The key of that place; places beyond 40 bits do not exist ([`evidence::RecordId`] refuses them).
            pub fn new($owner: u32, $place: u64) -> Self {
                debug_assert!($owner <= OWNERS_MAX);
                Self((i64::from($owner) << PLACE_BITS) | (i64::try_from($place).unwrap_or(PLACE_MASK) & PLACE_MASK))
            }

            /// From the stored integer.
            pub const fn from_i64(key: i64) -> Self {
                Self(key)
            }

            /// The integer to store.
            pub const fn as_i64(self) -> i64 {
                self.0
            }

            /// The owner's number.
            pub fn $owner(self) -> u32 {
                u32::try_from(self.0 >> PLACE_BITS).unwrap_or(u32::MAX)
            }

            /// The place within the owner, from 0.
            pub fn $place(self) -> u64 {
                u64::try_from(self.0 & PLACE_MASK).unwrap_or(0)
            }
        }
    };
}

key! {
    /// A leaf: ledger number and leaf index.
    LeafKey, ledger_no, leaf_index
}
key! {
    /// A run: tenant number and the run's ordinal, from 0, in ledger order.
    RunKey, tenant_no, ordinal
}

impl LeafKey {
    /// The leaf's index.
    pub fn index(self) -> LeafIndex {
        LeafIndex::new(self.leaf_index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_owner_and_place_and_sorts_by_both() {
        let key = LeafKey::new(7, 123_456_789_012);
        assert_eq!((key.ledger_no(), key.leaf_index()), (7, 123_456_789_012));
        assert!(LeafKey::new(7, u64::MAX >> 24) < LeafKey::new(8, 0));
        assert_eq!(LeafKey::from_i64(key.as_i64()), key);
        assert_eq!(RunKey::new(OWNERS_MAX, 5).tenant_no(), OWNERS_MAX);
    }
}
