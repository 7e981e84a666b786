//! Entries of [`crate::once`] in Redis: one script an act, one round trip for all that come together.
//!
//! The decision is the script's, by Redis's own clock, so nodes with clocks apart
//! agree who holds a key. A script that Redis lost is loaded again.
//!
//! Redis forgets: flushed, or restarted without its last seconds. Two things tell.
//! An *epoch* lies beside the entries and is kept here too; where it is gone or
//! another, nothing is answered until an operator resets it. And writes are
//! counted: a count behind the one seen last is a Redis of an earlier day. What is
//! lost together with the node that counted it cannot be told: so a Redis without
//! an append-only file is refused, unless the operator accepts it.
//!
//! Out of scope: clusters, and TLS (a Redis beside the server, or a tunnel).

mod connect;
mod reply;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use evidence::Timestamp;
use redis::{Client, Cmd, Connection, ConnectionLike, Pipeline, Value};

use self::connect::{ask, client, connect, random_of, refuse_eviction, refuse_volatile};
use self::reply::{entry, is_lost, is_no_script, number, time, unreadable};
use crate::once::{
    ENTRIES_PER_TENANT_MAX, FAILED_SECS, OnceAct, OnceAsk, OnceError, OnceKey, OnceSaid, OnceSpace,
    OnceStore, PAYLOAD_BYTES_PER_TENANT_MAX, Previous, SWEPT_AT_ONCE, SWEPT_PER_ACT,
};
use crate::sqlite::StateDb;

const SCRIPT: &str = include_str!("once.lua");

/// Before every key of ours.
const PREFIX: &str = "deponent:once:";

/// Longest wait for a connection, an answer, or room to send: a check that takes longer is refused, and whoever
/// asked asks again. A Redis beside the server answers in a millisecond.
const WAIT: Duration = Duration::from_secs(1);

/// Tenants whose expiries are swept when nothing else is to be done; those seen since the start.
const TENANTS_SWEPT_MAX: usize = 10_000;

/// Whose clock decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisClock {
    /// Redis's: all nodes agree.
    Redis,
    /// That of each ask: for tests, where time is made.
    Asks,
}

/// Whether Redis must keep an append-only file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisAof {
    /// One without is refused: started again, it forgets what came after its last snapshot.
    #[default]
    Required,
    /// The operator accepts that, or keeps its data in another way.
    Optional,
}

/// The Redis backend.
pub struct RedisOnce {
    client: Client,
    clock: RedisClock,
    aof: RedisAof,
    state: StateDb,
    connection: Option<Ready>,
    /// Of the newest answer.
    writes: u64,
    /// The epoch in which they were counted.
    counted: Option<String>,
    /// Spaces and tenants that may have something to sweep.
    tenants: HashSet<(OnceSpace, Arc<str>)>,
}

/// A connection over which the script and the epoch are known.
struct Ready {
    connection: Connection,
    script: String,
    epoch: String,
}

impl std::fmt::Debug for RedisOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may hold a password.
        f.debug_struct("RedisOnce").finish_non_exhaustive()
    }
}

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RedisAddressError(String);

impl RedisOnce {
    /// Over the Redis at `url`; `state` keeps its epoch. Nothing is asked of it yet.
    ///
    /// # Errors
    /// The address is none of `redis://…`.
    pub fn new(
        url: &str,
        clock: RedisClock,
        aof: RedisAof,
        state: StateDb,
    ) -> Result<Self, RedisAddressError> {
        Ok(Self {
            client: client(url)?,
            clock,
            aof,
            state,
            connection: None,
            writes: 0,
            counted: None,
            tenants: HashSet::new(),
        })
    }

    /// Takes a Redis up that has lost its data: what it holds now is believed from now on.
    ///
    /// # Errors
    /// It does not answer, or `state.db` cannot be written.
    pub fn reset(&mut self, at: Timestamp, random: u64) -> Result<(), OnceError> {
        let epoch = epoch_of(RESET, at, random);
        let mut connection = connect(&self.client)?;
        let mut pipe = Pipeline::new();
        pipe.atomic()
            .cmd("SET")
            .arg(epoch_key())
            .arg(&epoch)
            .cmd("SET")
            .arg(writes_key())
            .arg(0);
        pipe.query::<()>(&mut connection).map_err(unavailable)?;
        self.keep(&epoch)?;
        self.connection = None;
        Ok(())
    }

    fn keep(&self, epoch: &str) -> Result<(), OnceError> {
        self.state
            .once_epoch_set(epoch)
            .map_err(|error| OnceError::Unavailable(error.to_string()))
    }

    /// A connection that may be asked.
    fn ready(&mut self, at: Timestamp) -> Result<&mut Ready, OnceError> {
        if self.connection.is_none() {
            let mut connection = connect(&self.client)?;
            refuse_eviction(&mut connection)?;
            refuse_volatile(&mut connection, self.aof)?;
            let script: String = ask(&mut connection, redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT))?;
            let epoch = self.epoch(&mut connection, at)?;
            // Another epoch begins its own count, whoever made it.
            if self.counted.as_ref() != Some(&epoch) {
                self.writes = 0;
                self.counted = Some(epoch.clone());
            }
            self.connection = Some(Ready {
                connection,
                script,
                epoch,
            });
        }
        self.connection
            .as_mut()
            .ok_or_else(|| OnceError::Unavailable("no connection".into()))
    }

    /// The epoch that is in force: kept here, there, or made now, when neither knows of one.
    fn epoch(&mut self, connection: &mut Connection, at: Timestamp) -> Result<String, OnceError> {
        let known = self
            .state
            .once_epoch()
            .map_err(|error| OnceError::Unavailable(error.to_string()))?;
        let there: Option<String> = ask(connection, redis::cmd("GET").arg(epoch_key()))?;
        match (known, there) {
            (Some(known), Some(there)) if known == there => Ok(known),
            (Some(known), Some(there)) if is_reset_after(&there, &known) => {
                self.keep(&there)?;
                Ok(there)
            }
            (Some(_), _) => Err(OnceError::Lost),
            (None, Some(there)) => {
                self.keep(&there)?;
                Ok(there)
            }
            (None, None) => {
                // Two nodes may be here at once: one of them makes it, both take it.
                let made = epoch_of(FIRST, at, random_of(connection)?);
                let _: Option<String> =
                    ask(connection, redis::cmd("SET").arg(epoch_key()).arg(made).arg("NX"))?;
                let there: Option<String> = ask(connection, redis::cmd("GET").arg(epoch_key()))?;
                let there = there.ok_or(OnceError::Lost)?;
                self.keep(&there)?;
                Ok(there)
            }
        }
    }

    /// Sends the acts, in one round trip.
    fn send(&mut self, commands: &[Command<'_>]) -> Result<Vec<Value>, OnceError> {
        let Some(at) = commands.first().map(|command| command.at) else {
            return Ok(Vec::new());
        };
        // A new connection may find another epoch, and its count.
        self.ready(at)?;
        let (clock, writes) = (self.clock, self.writes);
        let ready = self.ready(at)?;
        let mut pipe = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipe.add_command(command.packed(ready, clock, writes));
        }
        let packed = pipe.get_packed_pipeline();
        let answers = ready.connection.req_packed_commands(&packed, 0, commands.len());
        answers.map_err(|error| {
            // Answers may still come: to questions nobody remembers.
            self.connection = None;
            unavailable(error)
        })
    }

    /// The same, and again what was answered with "no script" or "lost": nothing of it was done. With the next connection
    /// the script is loaded, and a reset by an operator taken note of.
    fn sent(&mut self, commands: &[Command<'_>]) -> Result<Vec<Value>, OnceError> {
        let mut answers = self.send(commands)?;
        let again: Vec<usize> = (0..answers.len())
            .filter(|&i| is_no_script(&answers[i]) || is_lost(&answers[i]))
            .collect();
        if again.is_empty() {
            return Ok(answers);
        }
        self.connection = None;
        let commands: Vec<Command<'_>> = again.iter().map(|&i| commands[i].clone()).collect();
        for (i, answer) in again.into_iter().zip(self.send(&commands)?) {
            answers[i] = answer;
        }
        Ok(answers)
    }

    fn read(&mut self, answer: Value) -> Result<OnceSaid, OnceError> {
        let parts = match answer {
            Value::Array(parts) => parts,
            Value::ServerError(error) => return Err(OnceError::Unavailable(format!("{error:?}"))),
            other => return Err(unreadable(&other)),
        };
        let mut parts = parts.into_iter().map(|part| match part {
            Value::BulkString(bytes) => Ok(bytes),
            other => Err(unreadable(&other)),
        });
        let mut next = || parts.next().ok_or_else(|| unreadable(&Value::Nil))?;
        let writes = number(&next()?)?;
        let word = next()?;
        self.writes = self.writes.max(writes.unsigned_abs());
        match word.as_slice() {
            b"lost" => {
                // It may have been reset by another node: the next connection looks.
                self.connection = None;
                Err(OnceError::Lost)
            }
            b"new" => {
                let previous = match next()?.as_slice() {
                    b"expired" => Some(Previous::Expired),
                    b"failed" => Some(Previous::Failed),
                    _ => None,
                };
                Ok(OnceSaid::New {
                    previous,
                    lease_until: time(&next()?)?,
                    expires_at: time(&next()?)?,
                })
            }
            word @ (b"known" | b"conflict") => Ok(OnceSaid::Known {
                conflict: word == b"conflict",
                entry: Box::new(entry(&mut next)?),
            }),
            b"done" => Ok(OnceSaid::Done(Box::new(entry(&mut next)?))),
            b"entry" => Ok(OnceSaid::Read(Some(Box::new(entry(&mut next)?)))),
            b"payload" => Ok(OnceSaid::Payload(
                Some(next()?).filter(|payload| !payload.is_empty()),
            )),
            b"unknown" => Ok(OnceSaid::Unknown),
            b"lease_lost" => Ok(OnceSaid::LeaseLost),
            b"full" => Ok(OnceSaid::Full),
            b"deleted" => Ok(OnceSaid::Deleted),
            _ => Err(OnceError::Unavailable("an answer that is no word".into())),
        }
    }
}

impl OnceStore for RedisOnce {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        for ask in asks {
            let tenant = (ask.key.space, Arc::clone(&ask.key.tenant));
            if self.tenants.len() < TENANTS_SWEPT_MAX {
                self.tenants.insert(tenant);
            }
        }
        let commands: Vec<Command<'_>> = asks.iter().map(Command::of).collect();
        let answers = match self.sent(&commands) {
            Ok(answers) => answers,
            Err(error) => return asks.iter().map(|_| Err(error.clone())).collect(),
        };
        asks.iter()
            .zip(answers)
            .map(|(ask, answer)| {
                let said = self.read(answer)?;
                // A read finds nothing; the others were about something that must be there.
                Ok(match (said, &ask.act) {
                    (OnceSaid::Unknown, OnceAct::Read) => OnceSaid::Read(None),
                    (said, _) => said,
                })
            })
            .collect()
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        let tenants: Vec<_> = self.tenants.iter().cloned().collect();
        let commands: Vec<Command<'_>> = tenants
            .iter()
            .map(|(space, tenant)| Command::sweep(*space, tenant, at))
            .collect();
        let mut swept = 0_i64;
        for answer in self.sent(&commands)? {
            if let Value::Array(parts) = answer
                && let Some(Value::BulkString(count)) = parts.get(2)
            {
                swept += number(count).unwrap_or(0);
            }
        }
        Ok(u32::try_from(swept).unwrap_or(u32::MAX))
    }
}

/// One run of the script.
#[derive(Clone)]
struct Command<'a> {
    space: OnceSpace,
    tenant: &'a str,
    key: &'a str,
    at: Timestamp,
    sweep: u32,
    act: Option<&'a OnceAct>,
}

impl<'a> Command<'a> {
    fn of(ask: &'a OnceAsk) -> Self {
        let OnceKey { space, tenant, key } = &ask.key;
        Self {
            space: *space,
            tenant,
            key,
            at: ask.at,
            sweep: SWEPT_PER_ACT,
            act: Some(&ask.act),
        }
    }

    fn sweep(space: OnceSpace, tenant: &'a str, at: Timestamp) -> Self {
        Self {
            space,
            tenant,
            key: "",
            at,
            sweep: SWEPT_AT_ONCE,
            act: None,
        }
    }

    fn packed(&self, ready: &Ready, clock: RedisClock, writes: u64) -> Cmd {
        let Self {
            space, tenant, key, ..
        } = self;
        // The tenant's length stands before it: no tenant and key can be read as another pair.
        let of = format!("{}:{}:{tenant}", space.code(), tenant.len());
        let now = match clock {
            RedisClock::Redis => String::new(),
            RedisClock::Asks => self.at.as_micros().to_string(),
        };
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(&ready.script)
            .arg(5)
            .arg(format!("{PREFIX}e:{of}:{key}"))
            .arg(epoch_key())
            .arg(writes_key())
            .arg(format!("{PREFIX}x:{of}"))
            .arg(format!("{PREFIX}b:{of}"))
            .arg(&ready.epoch)
            .arg(writes)
            .arg(now)
            .arg(*key)
            .arg(ENTRIES_PER_TENANT_MAX)
            .arg(PAYLOAD_BYTES_PER_TENANT_MAX)
            .arg(self.sweep);
        match self.act {
            None => command.arg("sweep"),
            Some(OnceAct::Read) => command.arg("read"),
            Some(OnceAct::Payload) => command.arg("payload"),
            Some(OnceAct::Forget { response_hash }) => command.arg("forget").arg(response_hash.as_slice()),
            Some(OnceAct::Delete) => command.arg("delete"),
            Some(OnceAct::Check {
                hash,
                label,
                ttl_secs,
                lease_secs,
                lease,
            }) => command
                .arg("check")
                .arg(bytes(hash.as_ref().map(<[u8; 32]>::as_slice)))
                .arg(bytes(label.as_deref().map(str::as_bytes)))
                .arg(*ttl_secs)
                .arg(*lease_secs)
                .arg(lease.as_slice()),
            Some(OnceAct::Complete {
                lease,
                label,
                response_hash,
                payload,
            }) => command
                .arg("complete")
                .arg(lease.as_slice())
                .arg(bytes(label.as_deref().map(str::as_bytes)))
                .arg(bytes(response_hash.as_ref().map(<[u8; 32]>::as_slice)))
                .arg(bytes(payload.as_deref())),
            Some(OnceAct::Fail { lease, error }) => command
                .arg("fail")
                .arg(lease.as_slice())
                .arg(error)
                .arg(FAILED_SECS),
            Some(OnceAct::Renew { lease, lease_secs }) => {
                command.arg("renew").arg(lease.as_slice()).arg(*lease_secs)
            }
        };
        command
    }
}

/// Absent is empty: no hash, word or result is.
fn bytes(of: Option<&[u8]>) -> &[u8] {
    of.unwrap_or_default()
}

fn epoch_key() -> String {
    format!("{PREFIX}epoch")
}

fn writes_key() -> String {
    format!("{PREFIX}writes")
}

/// An epoch that a node made, finding none.
const FIRST: &str = "first";

/// An epoch that an operator made.
const RESET: &str = "reset";

fn epoch_of(how: &str, at: Timestamp, random: u64) -> String {
    format!("{how}:{}:{random:016x}", at.as_micros())
}

/// Whether an operator, on another node, has made this epoch after the one that is known. One that a node made by
/// itself is never believed so: it found nothing, which is the loss.
fn is_reset_after(there: &str, known: &str) -> bool {
    let micros = |epoch: &str| epoch.split(':').nth(1).and_then(|text| text.parse::<i64>().ok());
    there.starts_with(RESET) && micros(there) > micros(known)
}

/// Whether an address is one of a Redis that can be used.
///
/// # Errors
/// What is wrong with it, without the address.
pub fn check_address(url: &str) -> Result<(), RedisAddressError> {
    client(url).map(drop)
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn unavailable(error: redis::RedisError) -> OnceError {
    OnceError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_reset_is_believed() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let known = epoch_of(FIRST, at(10), 1);
        assert!(is_reset_after(&epoch_of(RESET, at(11), 2), &known));
        assert!(!is_reset_after(&epoch_of(RESET, at(9), 2), &known), "an old one");
        assert!(
            !is_reset_after(&epoch_of(FIRST, at(11), 2), &known),
            "made by a node that found nothing"
        );
        assert!(!is_reset_after("", &known));
    }

    #[test]
    fn addresses_are_of_redis() {
        for good in ["redis://127.0.0.1:6379", "redis://:secret@localhost/3"] {
            client(good).unwrap();
        }
        for bad in [
            "",
            "localhost",
            "http://localhost",
            "rediss://localhost",
            "redis://",
        ] {
            assert!(client(bad).is_err(), "{bad}");
        }
    }
}
