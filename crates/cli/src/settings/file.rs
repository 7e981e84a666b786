//! `deponent.toml` as it is written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::idempotency::IdempotencyTable;
use super::oidc::OidcTable;
use crate::brought;
use crate::output::Usage;

/// Longest settings file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) grpc_listen: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) database_url: Option<String>,
    pub(super) redis_url: Option<String>,
    pub(super) idempotency: IdempotencyTable,
    pub(super) log: Option<String>,
    pub(super) ledger: LedgerTable,
    pub(super) runs: RunsTable,
    pub(super) retention: RetentionTable,
    pub(super) policies: Option<PathBuf>,
    pub(super) rate_limit: Option<u32>,
    pub(super) record: RecordTable,
    pub(super) oidc: OidcTable,
    pub(super) tls: TlsTable,
    pub(super) tlog: TlogTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LedgerTable {
    pub(super) origin: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RunsTable {
    pub(super) seal_after: Option<String>,
    pub(super) abandon_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RetentionTable {
    pub(super) minimum: Option<String>,
    pub(super) runs: Option<String>,
    pub(super) synthetic: Option<String>,
    pub(super) system: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RecordTable {
    pub(super) reads: Option<String>,
    pub(super) writes: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsTable {
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlogTable {
    pub(super) public: Option<bool>,
}

pub(super) fn read_file(path: &Path) -> Result<File> {
    let bytes = brought::read(path, FILE_BYTES_MAX)
        .with_context(|| format!("cannot read {}", path.display()))?
        .ok_or_else(|| Usage(format!("{} is longer than any settings file", path.display())))?;
    let text = String::from_utf8(bytes).map_err(|_| Usage(format!("{} is not UTF-8", path.display())))?;
    parse(&text).map_err(|said| Usage(format!("{}: {said}", path.display())).into())
}

/// Reads settings, or says where they are wrong and how. The text itself is not said: a secret may stand in it.
fn parse(text: &str) -> Result<File, String> {
    // What is said of the grammar is fixed words; only what is said of a field quotes its value.
    let table = toml::Deserializer::parse(text).map_err(|error| at(text, &error, error.message()))?;
    File::deserialize(table).map_err(|mut error| {
        // Without its text the error shows no line of it, but names the field after the message.
        error.set_input(None);
        let shown = error.to_string();
        let field = shown.strip_prefix(error.message()).unwrap_or_default().trim();
        let said = without_value(error.message());
        at(text, &error, format!("{said} {field}").trim_end())
    })
}

/// What is wrong, after its place.
fn at(text: &str, error: &toml::de::Error, said: &str) -> String {
    let Some(span) = error.span() else {
        return said.to_owned();
    };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    format!("line {line}, column {column}: {said}")
}

/// `invalid type: string "x", expected u32` without its `"x"`. Names of fields stay.
fn without_value(message: &str) -> String {
    if message.starts_with("unknown field ") {
        return message.to_owned();
    }
    // What is expected is said in our own words, and last; the value before it may say anything.
    let (found, expected) = match message.rsplit_once(", expected ") {
        Some((found, expected)) => (found, Some(expected)),
        None => (message, None),
    };
    let found = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    match expected {
        Some(expected) => format!("{found}, expected {expected}"),
        None => found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_mistake_is_said_by_place_and_field_and_no_value_is() {
        for (text, said) in [
            (
                "log = 'info'\nrate_limit = 'hunter2'",
                "line 2, column 14: invalid type: string, expected u32 in `rate_limit`",
            ),
            (
                "redis_url = ['redis://:hunter2@h']",
                "line 1, column 13: invalid type: sequence, expected a string in `redis_url`",
            ),
            // A value that looks like the rest of the message.
            (
                "[tlog]\npublic = ', expected hunter2'",
                "line 2, column 10: invalid type: string, expected a boolean in `tlog.public`",
            ),
            (
                "[oidc.roles]\n\"ä\" = 3",
                "line 2, column 7: invalid type: integer, expected a string in `oidc.roles.ä`",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), said);
        }
        for text in [
            "redis_url = 'redis://:hunter2@h",
            "redis_url = redis://:hunter2@h",
            "redis_url = \"hunter2\\q\"",
            "redis_url = 'a' hunter2",
            "redis_url = 'hunter2'\nredis_url = 'hunter2'",
            "redis_url = 'hunter2'\n[redis_url.x]",
            "idempotency = 'hunter2'",
            "rate_limit = -2",
            "rate_limit = 1979-05-27",
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with("line "), "{text}: {said}");
            for value in ["hunter2", "-2", "1979"] {
                assert!(!said.contains(value), "{text}: {said}");
            }
        }
        let unknown = parse("[oidc]\nissuers = 'hunter2'").unwrap_err();
        assert!(
            unknown.starts_with("line 2, column 1: unknown field `issuers`, expected one of `issuer`, "),
            "{unknown}"
        );
        assert!(unknown.ends_with(" in `oidc`"), "{unknown}");
    }
}
