//! By what a record is known again after its body was erased, where its identity is a hash of the body.
//!
//! A line of an audit log and an environment that came with spans are told from others by their content. Such an
//! identity may not outlive the body: whoever has a guess could test it. So the erasure keeps it under a key that is
//! in no ledger, `keys/erased.key`, made with the first such erasure. The same again is then the first record, as SPEC 3
//! has it; without the key file nobody can tell, and it is a record again. What an imported provenance log is told by is
//! kept in the same way, so that its file does not bring it back.
//!
//! Out of scope: which records are erased ([`crate::erase`]).
//!
//! Source: SPEC 3, 11.6; docs/formats.md, "Identities".

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use evidence::{Identity, Kind, sha256};

use crate::Draft;
use crate::once::{OnceError, Vault};

/// The key's file, beside the ledgers' keys.
const FILE: &str = "erased.key";

/// Keeps identities that are content.
#[derive(Debug)]
pub(crate) struct ErasedKey {
    vault: Vault,
    /// The key is in memory. Without a file nothing was ever kept, and nothing need be looked for.
    usable: AtomicBool,
}

impl ErasedKey {
    /// Of a folder of keys. A file that is there is read now, and never again: one that comes back, or that nobody
    /// else may read any more, counts from the next start, or from the next erasure that needs it.
    pub(crate) fn open(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let vault = Vault::new(&file);
        let usable = file.exists()
            && vault
                .ready()
                .inspect_err(|error| {
                    tracing::warn!(%error, "what was erased is a record again when it is sent again");
                })
                .is_ok();
        Self {
            vault,
            usable: AtomicBool::new(usable),
        }
    }

    /// What is kept of an identity. The file is made when there is none.
    ///
    /// # Errors
    /// The key cannot be had: a repeat will be a record again.
    pub(crate) fn keep(&self, tenant_id: &str, identity: Identity) -> Result<Identity, OnceError> {
        let kept = self.keyed(tenant_id, identity)?;
        self.usable.store(true, Ordering::Release);
        Ok(kept)
    }

    /// As what a draft would be on record if it had been erased; `None`: its identity is kept as it is, or none is.
    pub(crate) fn known_as(&self, tenant_id: &str, draft: &Draft) -> Option<Identity> {
        self.known(tenant_id, draft.identity.filter(|_| is_content(draft))?)
    }

    /// As what an identity was kept, if it was; `None`: none is.
    pub(crate) fn known(&self, tenant_id: &str, identity: Identity) -> Option<Identity> {
        if !self.usable.load(Ordering::Acquire) {
            return None;
        }
        // In memory: nothing is left to fail.
        self.keyed(tenant_id, identity).ok()
    }

    fn keyed(&self, tenant_id: &str, identity: Identity) -> Result<Identity, OnceError> {
        // A tenant has no 0x00 in its name, so no two tenants' identities meet.
        let named = [tenant_id.as_bytes(), &[0], identity.as_bytes()].concat();
        let keyed = self.vault.keyed(&sha256(&named))?;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&keyed[..16]);
        Ok(Identity::from_bytes(bytes))
    }
}

/// Whether a draft's identity is a hash of what it says.
pub(crate) fn is_content(draft: &Draft) -> bool {
    match draft.kind {
        Kind::EvidenceEnvironment => draft.identity != Some(Identity::once(draft.kind)),
        Kind::LineageEvidence
        | Kind::LineageDeterministic
        | Kind::LineageAiOutput
        | Kind::LineageAiMetrics => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_an_identity_is_neither_it_nor_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let key = ErasedKey::open(folder.path());
        let line = Identity::lineage(Kind::LineageEvidence, &[7; 32]);
        assert!(!folder.path().join(FILE).exists(), "made when it is needed");
        let kept = key.keep("a", line).unwrap();
        assert_ne!(kept, line);
        assert_ne!(key.keep("b", line).unwrap(), kept, "another tenant's");
        let again = ErasedKey::open(folder.path());
        assert!(again.usable.load(Ordering::Acquire), "read at the opening");
        assert_eq!(again.keep("a", line).unwrap(), kept, "after a restart");
        std::fs::remove_file(folder.path().join(FILE)).unwrap();
        let other = ErasedKey::open(folder.path());
        assert_ne!(other.keep("a", line).unwrap(), kept, "without the key file");
    }
}
