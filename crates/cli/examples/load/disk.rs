//! What the disk does at best.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::stats::{latencies, round};

/// Appends 4 KiB and waits for it, again and again.
pub(crate) fn fdatasync(seconds: f64, dir: &Path) -> Result<Value> {
    let path = dir.join("fdatasync.probe");
    let mut file = File::create(&path)?;
    let mut all = Vec::new();
    let begun = Instant::now();
    let time = Duration::from_secs_f64(seconds);
    while begun.elapsed() < time {
        let asked = Instant::now();
        file.write_all(&[0x5a; 4_096])?;
        file.sync_data()?;
        all.push(asked.elapsed());
    }
    let rate = all.len() as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(json!({"writes_per_sec": round(rate, 0), "latency_ms": latencies(all)}))
}
