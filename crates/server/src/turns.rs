//! Who is at work beside the async threads: nobody's long reads may take all of them.
//!
//! What blocks takes a thread that the runtime replaces, as long as it has others; without one left, nothing is accepted,
//! no timer runs and no signal is seen. So there are fewer turns than such threads, and the long reads of all tenants,
//! and of one, have fewer still. Who waits for a turn holds no thread, and goes when its client does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ApiError;

/// Handlers that block at once. A runtime needs more threads for what blocks than these: the server's own passes use them
/// too.
pub const BLOCKING_AT_ONCE: usize = 12;

/// Of these, reads of whole runs and of bodies, with up to three processors: each may hold some 60 MB while it makes an
/// answer of 15, and goes on to its end when nobody waits for it any more. With more processors, one each. All but one
/// may be one tenant's.
const READS_AT_ONCE: usize = 3;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    blocking: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    of_tenant: usize,
    by_tenant: Arc<Mutex<HashMap<u32, Arc<Semaphore>>>>,
}

impl Default for Turns {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let reads = processors.clamp(READS_AT_ONCE, BLOCKING_AT_ONCE - 2);
        Self {
            blocking: Arc::new(Semaphore::new(BLOCKING_AT_ONCE)),
            reads: Arc::new(Semaphore::new(reads)),
            of_tenant: reads - 1,
            by_tenant: Arc::default(),
        }
    }
}

/// A turn of a long read, until it is dropped.
#[derive(Debug)]
pub(crate) struct ReadTurn {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// A turn for what blocks.
    pub(crate) async fn blocking(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        taken(&self.blocking).await
    }

    /// A turn for a long read.
    pub(crate) async fn reading(&self, tenant_no: u32) -> Result<ReadTurn, ApiError> {
        let of_tenant = {
            let mut all = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
            let one = all.entry(tenant_no);
            Arc::clone(one.or_insert_with(|| Arc::new(Semaphore::new(self.of_tenant))))
        };
        // The tenant's own first: who waits for it takes nothing from others.
        Ok(ReadTurn {
            _of_tenant: taken(&of_tenant).await?,
            _of_all: taken(&self.reads).await?,
        })
    }
}

async fn taken(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.map_err(|error| ApiError::internal(&error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_tenants_long_reads_leave_a_turn_to_others_and_to_what_is_short() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..turns.of_tenant {
            held.push(turns.reading(1).await.unwrap());
        }
        let waits = tokio::time::timeout(Duration::from_millis(20), turns.reading(1));
        assert!(waits.await.is_err());
        held.push(turns.reading(2).await.unwrap());
        let waits = tokio::time::timeout(Duration::from_millis(20), turns.reading(3));
        assert!(waits.await.is_err());
        assert!(turns.blocking().await.is_ok());
        held.clear();
        assert!(turns.reading(1).await.is_ok());
    }
}
