//! The way to a Redis, and which one is refused.

use redis::{Client, Cmd, Connection};

use super::{RedisAddressError, RedisAof, WAIT, unavailable};
use crate::once::OnceError;

pub(super) fn client(url: &str) -> Result<Client, RedisAddressError> {
    if !url.starts_with("redis://") && !url.starts_with("redis+unix://") {
        return Err(RedisAddressError(
            "must begin with redis:// or redis+unix:// (TLS is not spoken to Redis)".into(),
        ));
    }
    Client::open(url).map_err(|error| RedisAddressError(error.to_string()))
}

pub(super) fn connect(client: &Client) -> Result<Connection, OnceError> {
    let connection = client.get_connection_with_timeout(WAIT).map_err(unavailable)?;
    connection.set_read_timeout(Some(WAIT)).map_err(unavailable)?;
    connection.set_write_timeout(Some(WAIT)).map_err(unavailable)?;
    Ok(connection)
}

pub(super) fn ask<T: redis::FromRedisValue>(
    connection: &mut Connection,
    command: &Cmd,
) -> Result<T, OnceError> {
    command.query(connection).map_err(unavailable)
}

/// A Redis that throws keys away when it is full would let work be done twice.
pub(super) fn refuse_eviction(connection: &mut Connection) -> Result<(), OnceError> {
    let info: String = ask(connection, redis::cmd("INFO").arg("memory"))?;
    let (limit, policy) = (told(&info, "maxmemory"), told(&info, "maxmemory_policy"));
    match (limit, policy) {
        (Some("0"), _) | (_, Some("noeviction")) => Ok(()),
        (_, policy) => Err(OnceError::Unavailable(format!(
            "Redis may throw keys away (maxmemory-policy {}); set it to noeviction",
            policy.unwrap_or("unknown")
        ))),
    }
}

/// A Redis that keeps nothing, or only snapshots, forgets keys when it is started again, and work would be done twice.
/// Looked at with each connection; what is changed while one is open shows with the next.
pub(super) fn refuse_volatile(connection: &mut Connection, aof: RedisAof) -> Result<(), OnceError> {
    let info: String = ask(connection, redis::cmd("INFO").arg("persistence"))?;
    if told(&info, "aof_enabled") == Some("1") {
        return Ok(());
    }
    if aof == RedisAof::Required {
        return Err(OnceError::Unavailable(
            "Redis keeps no append-only file, so it forgets keys when it is started again; set appendonly yes, or \
             accept it (idempotency.redis_aof = \"optional\")"
                .into(),
        ));
    }
    tracing::warn!(
        "Redis keeps no append-only file: keys that it forgets when it is started again are new again"
    );
    Ok(())
}

/// A value of INFO.
fn told<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// A number that no other node has: Redis counts.
pub(super) fn random_of(connection: &mut Connection) -> Result<u64, OnceError> {
    let (secs, micros): (u64, u64) = ask(connection, &redis::cmd("TIME"))?;
    let id: u64 = ask(connection, redis::cmd("CLIENT").arg("ID"))?;
    Ok((secs << 32) ^ (micros << 12) ^ id)
}
