//! Leaves that were read lately.
//!
//! A leaf is read out of a part of a block, of dozens of leaves. The newest records of a kind lie one in a block when
//! others come in between, so that a page of them takes as many parts; whoever looks at such a list looks at it again,
//! and two lists are merged by looking at the same leaves more than once. So leaves are kept, and not what they stand
//! in. A leaf that is written never changes. Verification reads for itself and asks nothing of this.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use store::LeafKey;

/// Most bytes that are kept: some 15,000 leaves of 500 bytes, or three hundred pages of lists.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a leaf takes beside its bytes.
const LEAF_BYTES: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lately(Mutex<Kept>);

/// Two halves: what is looked at goes into the young one, and when that is full, the old one goes.
#[derive(Debug, Default)]
struct Kept {
    young: HashMap<LeafKey, Vec<u8>>,
    old: HashMap<LeafKey, Vec<u8>>,
    young_bytes: usize,
}

impl Lately {
    /// The leaves that are kept, in the order asked for.
    pub(crate) fn find(&self, leaves: &[LeafKey]) -> Vec<Option<Vec<u8>>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.iter().map(|leaf| kept.find(*leaf)).collect()
    }

    /// Keeps a leaf; those looked at longest ago go.
    pub(crate) fn keep(&self, leaf: LeafKey, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keep(leaf, bytes.to_vec());
    }
}

impl Kept {
    fn find(&mut self, leaf: LeafKey) -> Option<Vec<u8>> {
        if let Some(bytes) = self.young.get(&leaf) {
            return Some(bytes.clone());
        }
        let bytes = self.old.remove(&leaf)?;
        self.keep(leaf, bytes.clone());
        Some(bytes)
    }

    fn keep(&mut self, leaf: LeafKey, bytes: Vec<u8>) {
        let taken = bytes.len() + LEAF_BYTES;
        if self.young_bytes + taken > KEPT_BYTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(leaf, bytes).is_none() {
            self.young_bytes += taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lately: &Lately, leaf: LeafKey) -> Option<Vec<u8>> {
        lately.find(&[leaf]).remove(0)
    }

    #[test]
    fn a_leaf_is_found_in_its_own_ledger_and_place_alone() {
        let lately = Lately::default();
        lately.keep(LeafKey::new(1, 10), b"ten");
        lately.keep(LeafKey::new(1, 11), b"eleven");
        let asked = [(1, 11), (2, 10), (1, 9), (1, 10)].map(|(no, index)| LeafKey::new(no, index));
        assert_eq!(
            lately.find(&asked),
            [Some(b"eleven".to_vec()), None, None, Some(b"ten".to_vec())]
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_was_looked_at_last_stays() {
        let lately = Lately::default();
        let bytes = vec![b'x'; 60_000];
        for index in 0..1_000 {
            lately.keep(LeafKey::new(1, index), &bytes);
            assert!(found(&lately, LeafKey::new(1, 0)).is_some(), "{index}");
            let kept = lately.0.lock().unwrap();
            let all = kept.young.values().chain(kept.old.values());
            let taken: usize = all.map(|bytes| bytes.len() + LEAF_BYTES).sum();
            assert!(taken <= KEPT_BYTES_MAX, "{index}: {taken}");
        }
        assert!(found(&lately, LeafKey::new(1, 1)).is_none());
        assert!(found(&lately, LeafKey::new(1, 999)).is_some());
    }
}
