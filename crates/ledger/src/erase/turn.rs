//! Whose turn it is to erase: of one tenant one after the other.
//!
//! What an erasure does is planned from what is read, and thrown away when its run changed meanwhile. Of many from one
//! run at once each would throw away the plans of all others, and a large run would never rest. Of no run too, each
//! rewrites the files, and the next commit waits for that in a thread. So they stand in line, which takes no thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::EraseError;
use crate::Tenant;

/// Erasures of one tenant that are under way or wait, each with its request of some KB: what [`WAIT_MAX`] has time
/// for when one takes a third of a second. From small runs and databases they take some 10 ms.
const LINE_MAX: usize = 32;

/// How long one waits. Erasures from runs of a million records, and the rewriting of a database of 256 MiB, take
/// seconds each: who stands behind several of those gives up, and asks again.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The line of a tenant.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Given in the order in which it was asked for.
    turn: Arc<Mutex<()>>,
    places: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            turn: Arc::default(),
            places: Arc::new(Semaphore::new(LINE_MAX)),
        }
    }
}

impl Turns {
    fn place(&self) -> Result<OwnedSemaphorePermit, EraseError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| EraseError::Busy { waiting: LINE_MAX })
    }
}

/// A tenant's turn to erase, which ends when this is dropped.
#[derive(Debug)]
pub struct EraseTurn {
    tenant: Arc<Tenant>,
    // Both are given back, the turn first.
    _turn: OwnedMutexGuard<()>,
    _place: OwnedSemaphorePermit,
}

impl EraseTurn {
    /// Waits for it. Who stops waiting leaves the line.
    ///
    /// # Errors
    /// [`EraseError::Busy`] when too many stand before it, or for too long.
    pub async fn take(tenant: &Arc<Tenant>) -> Result<Self, EraseError> {
        Self::take_within(tenant, WAIT_MAX).await
    }

    async fn take_within(tenant: &Arc<Tenant>, wait_max: Duration) -> Result<Self, EraseError> {
        let turns = &tenant.turns;
        let place = turns.place()?;
        let turn = Arc::clone(&turns.turn).lock_owned();
        match tokio::time::timeout(wait_max, turn).await {
            Ok(turn) => Ok(Self::new(tenant, turn, place)),
            Err(_) => Err(EraseError::Busy {
                // Beside this one.
                waiting: LINE_MAX - 1 - turns.places.available_permits(),
            }),
        }
    }

    /// The same from a thread that may block, for as long as it takes.
    pub(super) fn take_blocking(tenant: &Arc<Tenant>) -> Result<Self, EraseError> {
        let place = tenant.turns.place()?;
        let turn = Arc::clone(&tenant.turns.turn).blocking_lock_owned();
        Ok(Self::new(tenant, turn, place))
    }

    fn new(tenant: &Arc<Tenant>, turn: OwnedMutexGuard<()>, place: OwnedSemaphorePermit) -> Self {
        Self {
            tenant: Arc::clone(tenant),
            _turn: turn,
            _place: place,
        }
    }

    /// Whose it is.
    pub(super) fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    fn busy(turn: &Result<EraseTurn, EraseError>) -> Option<usize> {
        match turn {
            Err(EraseError::Busy { waiting }) => Some(*waiting),
            _ => None,
        }
    }

    fn free(tenant: &Tenant) -> usize {
        tenant.turns.places.available_permits()
    }

    #[tokio::test]
    async fn who_waits_too_long_or_no_longer_leaves_the_line() {
        let tenant = Arc::new(Tenant::new(1, "acme", Vec::new()));
        let first = EraseTurn::take(&tenant).await.unwrap();
        assert_eq!(busy(&EraseTurn::take_within(&tenant, SOON).await), Some(1));
        let gone = tokio::time::timeout(SOON, EraseTurn::take(&tenant)).await;
        assert!(gone.is_err());
        assert_eq!(free(&tenant), LINE_MAX - 1);
        drop(first);
        drop(EraseTurn::take(&tenant).await.unwrap());
        assert_eq!(free(&tenant), LINE_MAX);
    }

    #[test]
    fn each_gets_its_turn_and_a_full_line_takes_nobody() {
        let tenant = Arc::new(Tenant::new(1, "acme", Vec::new()));
        let first = EraseTurn::take_blocking(&tenant).unwrap();
        std::thread::scope(|scope| {
            for _ in 1..LINE_MAX {
                scope.spawn(|| drop(EraseTurn::take_blocking(&tenant).unwrap()));
            }
            while free(&tenant) > 0 {
                std::thread::yield_now();
            }
            assert_eq!(busy(&EraseTurn::take_blocking(&tenant)), Some(LINE_MAX));
            drop(first);
        });
        assert_eq!(free(&tenant), LINE_MAX);
    }
}
