//! What Deponent's ingest is compared with: the same work by plain means, and the disk part of it alone.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::ids::Random;
use crate::spans::{Body, Factory};
use crate::stats::round;

/// Spans in one transaction.
const TRANSACTION: usize = 1_000;

/// Requests encoded once; each is decoded many times.
const POOL: usize = 40;

/// Spans of a request.
const BATCH: usize = 500;

fn database(dir: &Path, name: &str, table: &str) -> Result<(Connection, PathBuf)> {
    let path = dir.join(name);
    let connection = Connection::open(&path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(table)?;
    Ok((connection, path))
}

fn remove(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        // Not all of them exist.
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}

/// A request's spans as canonical JSON: serde_json's maps are sorted, and nothing here needs more of RFC 8785.
fn canonical(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let request = ExportTraceServiceRequest::decode(bytes)?;
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let about = serde_json::to_value(&resource.resource)?;
        for scope in resource.scope_spans {
            for span in scope.spans {
                let id = [span.trace_id.as_slice(), &span.span_id].concat();
                let body: Value = json!({"resource": about, "span": serde_json::to_value(&span)?});
                spans.push((id, serde_json::to_vec(&body)?));
            }
        }
    }
    Ok(spans)
}

/// Two threads, each decoding, canonicalising and hashing for a transaction, which one at a time inserts.
pub(crate) fn plain(spans: u64, dir: &Path) -> Result<Value> {
    let mut factory = Factory::new(Random::fresh());
    let pools: Vec<Vec<Body>> = (0..2)
        .map(|_| {
            (0..POOL / 2)
                .map(|_| Body::encode(&factory.request(BATCH)))
                .collect()
        })
        .collect();
    let table = "CREATE TABLE leaf (n INTEGER PRIMARY KEY, hash BLOB NOT NULL, id BLOB NOT NULL UNIQUE, body BLOB NOT NULL)";
    let (connection, path) = database(dir, "plain.db", table)?;
    let connection = Mutex::new(connection);
    let taken = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = pools
            .into_iter()
            .map(|pool| scope.spawn(|| plain_thread(pool, spans, &taken, &connection)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let inserted: i64 = connection
        .lock()
        .unwrap()
        .query_row("SELECT count(*) FROM leaf", [], |row| row.get(0))?;
    drop(connection);
    remove(&path);
    Ok(
        json!({"spans": inserted, "seconds": round(seconds, 3), "spans_per_sec": round(inserted as f64 / seconds, 0)}),
    )
}

fn plain_thread(
    mut pool: Vec<Body>,
    spans: u64,
    taken: &AtomicU64,
    connection: &Mutex<Connection>,
) -> Result<()> {
    let mut random = Random::new(std::ptr::from_ref(&pool).addr() as u64 ^ Random::fresh().next());
    let mut turn = 0;
    while taken.fetch_add(TRANSACTION as u64, Ordering::Relaxed) < spans {
        let mut rows = Vec::with_capacity(TRANSACTION);
        while rows.len() < TRANSACTION {
            let at = turn % pool.len();
            turn += 1;
            pool[at].renew(&mut random, 1_000_000_000);
            for (id, body) in canonical(&pool[at].bytes)? {
                let hash = Sha256::new().chain_update([0]).chain_update(&body).finalize();
                rows.push((id, hash, body));
            }
        }
        let mut connection = connection.lock().unwrap();
        let transaction = connection.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO leaf (hash, id, body) VALUES (?1, ?2, ?3)")?;
            for (id, hash, body) in &rows {
                insert.execute((hash.as_slice(), id, body))?;
            }
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The same bytes, made beforehand, into a table without index.
pub(crate) fn raw(spans: u64, dir: &Path) -> Result<Value> {
    let mut factory = Factory::new(Random::fresh());
    let mut bodies = Vec::new();
    for _ in 0..POOL {
        bodies.extend(
            canonical(&factory.request(BATCH).encode_to_vec())?
                .into_iter()
                .map(|(_, body)| body),
        );
    }
    let (mut connection, path) = database(dir, "raw.db", "CREATE TABLE leaf (body BLOB NOT NULL)")?;
    let begun = Instant::now();
    let mut next = bodies.iter().cycle();
    let transactions = spans.div_ceil(TRANSACTION as u64);
    for _ in 0..transactions {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO leaf (body) VALUES (?1)")?;
            for body in next.by_ref().take(TRANSACTION) {
                insert.execute([body])?;
            }
        }
        transaction.commit()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let inserted = transactions * TRANSACTION as u64;
    let bytes = bodies.iter().map(Vec::len).sum::<usize>() as f64 / bodies.len() as f64;
    drop(connection);
    remove(&path);
    Ok(
        json!({"spans": inserted, "seconds": round(seconds, 3), "spans_per_sec": round(inserted as f64 / seconds, 0),
        "stored_bytes_per_span": round(bytes, 0)}),
    )
}
