//! By what a record is known again after its body was erased, where its identity is a hash of the body.
//!
//! A line of an audit log and an environment that came with spans are told from others by their content. Such an
//! identity may not outlive the body: whoever has a guess could test it. So the erasure keeps it under a key that is
//! in no ledger, `keys/erased.key`, made with the first such erasure. The same again is then the first record, as SPEC 3
//! has it; without the key file nobody can tell, and it is a record again.
//!
//! Out of scope: which records are erased ([`crate::erase`]).
//!
//! Source: SPEC 3, 11.6; docs/formats.md, "Identities".

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use evidence::{Identity, Kind, sha256};

use crate::Draft;
use crate::once::Vault;

/// The key's file, beside the ledgers' keys.
const FILE: &str = "erased.key";

/// Keeps identities that are content.
#[derive(Debug)]
pub(crate) struct ErasedKey {
    vault: Vault,
    file: PathBuf,
    /// Without the file nothing was ever kept, and nothing need be looked for.
    made: AtomicBool,
}

impl ErasedKey {
    /// Of a folder of keys.
    pub(crate) fn new(folder: &Path) -> Self {
        let file = folder.join(FILE);
        Self {
            vault: Vault::new(&file),
            made: AtomicBool::new(file.exists()),
            file,
        }
    }

    /// What is kept of an identity; `None`: the key cannot be had, and a repeat will be a record again.
    pub(crate) fn keep(&self, tenant_id: &str, identity: Identity) -> Option<Identity> {
        let kept = self.keyed(tenant_id, identity)?;
        self.made.store(true, Ordering::Release);
        Some(kept)
    }

    /// As what a draft would be on record if it had been erased; `None`: its identity is kept as it is, or none is.
    pub(crate) fn known_as(&self, tenant_id: &str, draft: &Draft) -> Option<Identity> {
        if !self.made.load(Ordering::Acquire) {
            return None;
        }
        let identity = draft.identity.filter(|_| is_content(draft))?;
        self.keyed(tenant_id, identity)
    }

    fn keyed(&self, tenant_id: &str, identity: Identity) -> Option<Identity> {
        // A tenant has no 0x00 in its name, so no two tenants' identities meet.
        let named = [tenant_id.as_bytes(), &[0], identity.as_bytes()].concat();
        match self.vault.keyed(&sha256(&named)) {
            Ok(keyed) => {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&keyed[..16]);
                Some(Identity::from_bytes(bytes))
            }
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "what was erased is not known when it is sent again");
                None
            }
        }
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
        let key = ErasedKey::new(folder.path());
        let line = Identity::lineage(Kind::LineageEvidence, &[7; 32]);
        let kept = key.keep("a", line).unwrap();
        assert_ne!(kept, line);
        assert_ne!(key.keep("b", line), Some(kept), "another tenant's");
        assert_eq!(
            ErasedKey::new(folder.path()).keep("a", line),
            Some(kept),
            "after a restart"
        );
        std::fs::remove_file(folder.path().join(FILE)).unwrap();
        assert_ne!(
            ErasedKey::new(folder.path()).keep("a", line),
            Some(kept),
            "without the key file"
        );
    }
}
