//! Seals held against the records that they stand on.
//!
//! Of each run that is not sealed yet the digest so far is held: some 200 bytes. Runs are sealed soon after their end.

use std::collections::HashMap;

use evidence::record::{Facts, RunDigest, SealFacts};

/// The digests of open runs.
#[derive(Debug, Default)]
pub(crate) struct Seals {
    open: HashMap<String, RunDigest>,
}

impl Seals {
    /// Takes the next record of a run; what disagrees, if it is a seal that does not stand on those before it.
    pub(crate) fn push(
        &mut self,
        run_id: &str,
        run_seq: u64,
        facts: &Facts,
        hash: &[u8; 32],
    ) -> Option<String> {
        if let Facts::Seal(seal) = facts {
            // What follows is late and no part of any seal.
            let stood_on = self.open.remove(run_id)?.finish();
            return disagreement(seal, &stood_on, run_seq);
        }
        if run_seq == 0 {
            self.open.insert(run_id.to_owned(), RunDigest::default());
        }
        if let Some(digest) = self.open.get_mut(run_id) {
            digest.push(hash);
        }
        None
    }

    /// A record of the run could not be read: its seal is not judged.
    pub(crate) fn forget(&mut self, run_id: &str) {
        self.open.remove(run_id);
    }
}

fn disagreement(seal: &SealFacts, stood_on: &SealFacts, run_seq: u64) -> Option<String> {
    if seal.count != stood_on.count || seal.count != run_seq {
        return Some(format!(
            "the seal stands on {} records, {} are before it",
            seal.count, stood_on.count
        ));
    }
    (seal.digest != stood_on.digest)
        .then(|| "the seal's digest is not that of the records before it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_stands_on_all_records_before_it_and_on_no_others() {
        let hashes = [[1; 32], [2; 32]];
        let mut whole = RunDigest::default();
        for hash in &hashes {
            whole.push(hash);
        }
        let seal = whole.finish();
        let judged = |of: &[[u8; 32]], seal: SealFacts| {
            let mut seals = Seals::default();
            for (seq, hash) in (0..).zip(of) {
                assert_eq!(seals.push("r", seq, &Facts::Other, hash), None);
            }
            seals.push("r", of.len() as u64, &Facts::Seal(seal), &[9; 32])
        };
        assert_eq!(judged(&hashes, seal), None);
        assert!(judged(&hashes[..1], seal).unwrap().contains("1 are before"));
        assert!(judged(&[[1; 32], [3; 32]], seal).unwrap().contains("digest"));
    }
}
