//! Stored outputs of steps whose bodies are erased.

use std::sync::Arc;

use evidence::Timestamp;

use crate::Tenant;
use crate::erase::{Erasure, Remains};
use crate::once::{Once, OnceKey, OnceSpace};

/// Takes away what is stored of the outputs of erased steps, and says in `remains` what is left of them. The keys stay
/// known until their time is over: nothing is done a second time because somebody was forgotten.
///
/// A crash between the erasure and this leaves an output for as long as it would have been kept, a day at most.
pub async fn forget_outputs(once: &Once, tenant: &Tenant, erasure: &mut Erasure, at: Timestamp) {
    let mut left = Vec::new();
    for output in &erasure.outputs {
        let place = OnceKey {
            space: OnceSpace::Output,
            tenant: Arc::clone(&tenant.tenant_id),
            key: output.key.as_str().into(),
        };
        for hash in &output.hashes {
            match once.forget(&place, *hash, at).await {
                Ok(true) => {
                    left.push("the step's key, for up to a day, so that it is not done a second time");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the stored output of an erased step could not be taken away");
                    left.push(
                        "the output stored under the step's key, encrypted, for up to a day: its store cannot answer",
                    );
                }
            }
        }
    }
    left.sort_unstable();
    left.dedup();
    let left = left.into_iter().map(|what| Remains { record: None, what });
    erasure.remains.extend(left);
}
