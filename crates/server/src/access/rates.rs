//! Rate limits per key: a bucket each, refilled by the clock of requests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use evidence::Timestamp;

/// Buckets at once; when full, those that are full again are thrown away, which changes nothing.
const BUCKETS_MAX: usize = 20_000;

/// Requests a principal may make.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// For ever.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

#[derive(Debug)]
struct Bucket {
    /// In millionths of a request.
    left: u64,
    at: Timestamp,
}

/// The buckets of all principals.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    rate: Option<Rate>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Rates {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self {
            rate,
            buckets: Mutex::default(),
        }
    }

    /// Takes one request; else the seconds after which there will be one.
    pub(crate) fn take(&self, principal: &str, at: Timestamp) -> Result<(), u32> {
        let Some(rate) = self.rate else { return Ok(()) };
        const ONE: u64 = 1_000_000;
        let full = u64::from(rate.burst.max(1)) * ONE;
        let per_second = u64::from(rate.per_second.max(1));
        let refilled = |bucket: &Bucket| {
            let micros = u64::try_from(at.micros_since(bucket.at)).unwrap_or(0);
            // A microsecond brings `per_second` millionths of a request.
            bucket
                .left
                .saturating_add(micros.saturating_mul(per_second))
                .min(full)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(principal) {
            buckets.retain(|_, bucket| refilled(bucket) < full);
        }
        let bucket = buckets
            .entry(principal.to_owned())
            .or_insert(Bucket { left: full, at });
        bucket.left = refilled(bucket);
        bucket.at = bucket.at.max(at);
        if bucket.left >= ONE {
            bucket.left -= ONE;
            return Ok(());
        }
        let micros = (ONE - bucket.left).div_ceil(per_second);
        Err(u32::try_from(micros.div_ceil(1_000_000))
            .unwrap_or(u32::MAX)
            .max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_by_the_clock_and_is_nobody_elses() {
        let rates = Rates::new(Some(Rate {
            per_second: 2,
            burst: 3,
        }));
        let at = |millis: i64| Timestamp::from_micros(1_767_323_045_000_000 + millis * 1_000).unwrap();
        for _ in 0..3 {
            assert_eq!(rates.take("a", at(0)), Ok(()));
        }
        assert_eq!(rates.take("a", at(0)), Err(1));
        assert_eq!(rates.take("b", at(0)), Ok(()));
        assert_eq!(rates.take("a", at(499)), Err(1));
        assert_eq!(rates.take("a", at(500)), Ok(()));
        assert_eq!(
            rates.take("a", at(400)),
            Err(1),
            "a clock that runs back gives nothing"
        );
        assert_eq!(Rates::new(None).take("a", at(0)), Ok(()));
    }
}
