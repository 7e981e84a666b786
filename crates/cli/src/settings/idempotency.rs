//! Settings of idempotency keys: how they are held, and what encrypts what is kept with them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use ledger::once::{LEASE_SECS_DEFAULT, LEASE_SECS_MAX, OnOutage, OnceOptions};
use serde::Deserialize;
use store::redis::RedisAof;

use super::duration::{parse_duration, whole_seconds};
use super::named_path;
use crate::output::Usage;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IdempotencyTable {
    on_outage: Option<String>,
    lease: Option<String>,
    key_file: Option<PathBuf>,
    redis_aof: Option<String>,
}

/// As they are resolved.
pub(super) struct Idempotency {
    pub(super) once: OnceOptions,
    pub(super) redis_aof: RedisAof,
}

impl IdempotencyTable {
    /// What a variable says wins over the file.
    pub(super) fn resolve(
        self,
        variable: impl Fn(&str) -> Option<String>,
        data_dir: &Path,
    ) -> Result<Idempotency> {
        let named = named_path(
            "idempotency.key_file",
            variable("DEPONENT_IDEMPOTENCY_KEY_FILE"),
            self.key_file,
        )?;
        let lease_secs = match variable("DEPONENT_IDEMPOTENCY_LEASE").or(self.lease) {
            None => LEASE_SECS_DEFAULT,
            Some(text) => parse_duration(&text)
                .and_then(whole_seconds)
                .filter(|secs| (1..=LEASE_SECS_MAX).contains(secs))
                .ok_or_else(|| {
                    Usage(format!(
                        "idempotency.lease: {text:?} is no whole number of seconds between 1s and {LEASE_SECS_MAX}s"
                    ))
                })?,
        };
        let on_outage = match variable("DEPONENT_IDEMPOTENCY_ON_OUTAGE")
            .or(self.on_outage)
            .as_deref()
        {
            None | Some("refuse") => OnOutage::Refuse,
            Some("allow") => OnOutage::Allow,
            Some(other) => bail!(Usage(format!(
                "idempotency.on_outage: {other:?} is neither refuse nor allow"
            ))),
        };
        let redis_aof = match variable("DEPONENT_IDEMPOTENCY_REDIS_AOF")
            .or(self.redis_aof)
            .as_deref()
        {
            None | Some("required") => RedisAof::Required,
            Some("optional") => RedisAof::Optional,
            Some(other) => bail!(Usage(format!(
                "idempotency.redis_aof: {other:?} is neither required nor optional"
            ))),
        };
        Ok(Idempotency {
            once: OnceOptions {
                key_is_named: named.is_some(),
                key_file: named.unwrap_or_else(|| data_dir.join("keys").join("once.key")),
                lease_secs,
                on_outage,
            },
            redis_aof,
        })
    }
}
