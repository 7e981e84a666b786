//! `deponent idempotency`: take the idempotency store up again after it has lost its data.
//!
//! Source: SPEC 8.1.

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::json;
use store::redis::{RedisClock, RedisOnce};
use store::sqlite::StateDb;

use super::DataDir;
use crate::output::{self, Format, Usage};

/// Look after idempotency keys.
#[derive(Debug, Subcommand)]
pub(crate) enum IdempotencyCommand {
    /// After Redis has lost its data: believe what it holds now, so that checks are answered again.
    ///
    /// A key that was completed before the loss is new again. Servers take it up by themselves.
    #[command(
        after_help = "Exit codes: 0 reset, or nothing to reset, 64 usage, 69 Redis or the data folder cannot be used"
    )]
    Reset {
        #[command(flatten)]
        data_dir: DataDir,
        /// How to print.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

impl IdempotencyCommand {
    pub(crate) fn run(self) -> Result<u8> {
        let Self::Reset { data_dir, format } = self;
        let settings = data_dir.settings()?;
        let Some(url) = settings.redis_url else {
            match format {
                Format::Json => output::json(&json!({ "reset": false, "store": "embedded" }))?,
                Format::Text => {
                    output::line("idempotency keys are kept in state.db: there is nothing to reset");
                }
            }
            return Ok(0);
        };
        let options = data_dir.existing()?;
        let state = StateDb::open(&options.data_dir.join("state.db"))?;
        let mut redis = RedisOnce::new(&url, RedisClock::Redis, settings.redis_aof, state)
            .map_err(|error| Usage(format!("redis_url: {error}")))?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        redis
            .reset(crate::clock::now(), u64::from_ne_bytes(random))
            .context("Redis was not reset")?;
        match format {
            Format::Json => output::json(&json!({ "reset": true, "store": "redis" }))?,
            Format::Text => output::line("reset: checks are answered again"),
        }
        Ok(0)
    }
}
