//! Which record erased another.
//!
//! It is found in a list that nobody signs, so it is held against what it says itself.

use std::sync::Arc;

use evidence::record::ErasurePerformed;
use evidence::{Kind, RecordId};
use store::Store;

use crate::verify::erasures_listed;
use crate::{Ledger, Record, RecordError, Tenant, records};

impl Ledger {
    /// The record that erased another's body; `None`: there is none that can be read.
    ///
    /// # Errors
    /// The store cannot answer.
    pub fn erasure_of(
        &self,
        tenant: &Arc<Tenant>,
        id: RecordId,
    ) -> Result<Option<(Record, ErasurePerformed)>, RecordError> {
        erasure_in(self.store(), tenant.tenant_no, id)
    }
}

/// [`Ledger::erasure_of`]. What the list leads to counts when it is an erasure, with the body that its leaf commits to,
/// and names the record. What else it leads to is the verification's to find, and hides no true one.
pub(crate) fn erasure_in(
    store: &dyn Store,
    tenant_no: u32,
    id: RecordId,
) -> Result<Option<(Record, ErasurePerformed)>, RecordError> {
    for leaf in erasures_listed(store, tenant_no, id)? {
        let record = match records::read(store, &[leaf]) {
            Ok(mut read) => read.pop(),
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        let Some(record) = record else { continue };
        let Some(body) = record.body.bytes() else { continue };
        if record.header()?.kind != Kind::ErasurePerformed {
            continue;
        }
        if let Ok(erasure) = ErasurePerformed::read(body)
            && erasure.erased.iter().any(|erased| erased.record_id == id)
        {
            return Ok(Some((record, erasure)));
        }
    }
    Ok(None)
}
