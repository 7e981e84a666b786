//! Latencies and what they come to.

use std::time::Duration;

use serde_json::{Value, json};

/// Milliseconds at a share of the sorted latencies.
pub(crate) fn at(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted
        .get(at)
        .map_or(0.0, |latency| round(latency.as_secs_f64() * 1e3, 3))
}

pub(crate) fn latencies(mut all: Vec<Duration>) -> Value {
    all.sort_unstable();
    json!({"n": all.len(), "p50": at(&all, 0.50), "p95": at(&all, 0.95), "p99": at(&all, 0.99), "max": at(&all, 1.0)})
}

pub(crate) fn round(number: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (number * factor).round() / factor
}
