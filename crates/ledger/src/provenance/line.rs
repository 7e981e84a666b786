//! A provenance log as a line of a file: written, and read.
//!
//! Source: SPEC 9.1.

use std::io::{self, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence::canonical::{self, Value};
use evidence::record::{COMMIT_UNKNOWN, PROVENANCE_VERSION_DEFAULT, ProvenanceLog, ProvenanceView};
use evidence::{GivenTime, Header, TimesGiven, Timestamp};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use store::Gone;

/// Largest payload once unpacked: as a record's body.
const PAYLOAD_BYTES_MAX: u64 = evidence::record::BODY_BYTES_MAX as u64;

/// A log as a line.
#[derive(Serialize)]
struct LineOut<'a> {
    id: &'a str,
    timestamp: String,
    input_hash: &'a str,
    output_hash: &'a str,
    input_json: String,
    output_json: String,
    compressed: bool,
    model_version: &'a str,
    adapter_version: &'a str,
    commit_sha: &'a str,
    runtime_ms: i64,
    status: &'a str,
    tenant_id: &'a str,
    run_id: Option<&'a str>,
    plan_hash: &'a str,
}

/// What a line says instead of a log whose body is gone. One that has payloads is a log all the same, whatever else a
/// file says of it.
#[derive(Deserialize)]
struct GoneIn {
    #[serde(default)]
    erased: bool,
    #[serde(default)]
    archived: bool,
    #[serde(default)]
    missing: bool,
    input_json: Option<IgnoredAny>,
    output_json: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object, a log")]
struct LineIn {
    id: String,
    timestamp: GivenTime,
    input_hash: String,
    output_hash: String,
    input_json: String,
    output_json: String,
    compressed: Option<bool>,
    model_version: Option<String>,
    adapter_version: Option<String>,
    commit_sha: Option<String>,
    runtime_ms: Option<i64>,
    status: Option<String>,
    run_id: Option<String>,
    plan_hash: Option<String>,
}

/// A line, read.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) log: ProvenanceLog,
    pub(super) timestamp: Timestamp,
    pub(super) run_id: Option<String>,
    /// SHA-256 of input and output as they stand in the file, hex.
    pub(super) hashes: [String; 2],
    /// Which of its hashes are not those of its payloads.
    pub(super) disagrees: Option<String>,
}

pub(super) fn line_of<'a>(
    header: &'a Header<'_>,
    tenant_id: &'a str,
    log: &'a ProvenanceView<'_>,
) -> Result<serde_json::Value, io::Error> {
    let id = header.id.to_string();
    let line = LineOut {
        id: log.id.as_deref().unwrap_or(&id),
        timestamp: log
            .times_given
            .get("timestamp")
            .cloned()
            .unwrap_or_else(|| header.occurred_at.to_string()),
        input_hash: log.input_hash,
        output_hash: log.output_hash,
        input_json: packed(log.input.get())?,
        output_json: packed(log.output.get())?,
        compressed: true,
        model_version: &log.model_version,
        adapter_version: &log.adapter_version,
        commit_sha: &log.commit_sha,
        runtime_ms: log.runtime_ms,
        status: &log.status,
        tenant_id,
        run_id: header.run.as_ref().map(|run| &*run.run_id),
        plan_hash: log.plan_hash(),
    };
    serde_json::to_value(line).map_err(io::Error::from)
}

/// The line of a log whose body is gone: every field, those of the body null, and why.
pub(super) fn line_of_gone(header: &Header<'_>, tenant_id: &str, gone: Gone) -> serde_json::Value {
    let mut line = serde_json::json!({
        "adapter_version": null, "commit_sha": null, "compressed": true, "id": header.id.to_string(),
        "input_hash": null, "input_json": null, "model_version": null, "output_hash": null, "output_json": null,
        "plan_hash": null, "run_id": header.run.as_ref().map(|run| &*run.run_id), "runtime_ms": null,
        "status": null, "tenant_id": tenant_id, "timestamp": header.occurred_at.to_string(),
    });
    line[gone.as_str()] = true.into();
    line
}

/// Text as gzip in base64. The same text gives the same.
fn packed(text: &str) -> io::Result<String> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes())?;
    Ok(STANDARD.encode(gzip.finish()?))
}

/// The text of gzip in base64.
///
/// # Errors
/// It is none, or longer than a record may be.
pub fn unpacked(text: &str) -> Result<String, String> {
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    let mut out = String::new();
    MultiGzDecoder::new(bytes.as_slice())
        .take(PAYLOAD_BYTES_MAX + 1)
        .read_to_string(&mut out)
        .map_err(|error| error.to_string())?;
    if out.len() as u64 > PAYLOAD_BYTES_MAX {
        return Err(format!("has more than {PAYLOAD_BYTES_MAX} bytes"));
    }
    Ok(out)
}

/// Whether a line stands for a log whose body was gone.
fn is_gone(text: &[u8]) -> bool {
    serde_json::from_slice(text).is_ok_and(|line: GoneIn| {
        (line.erased || line.archived || line.missing)
            && line.input_json.is_none()
            && line.output_json.is_none()
    })
}

/// `None`: the line stands for a log whose body was gone.
pub(super) fn read_line(text: &[u8]) -> Result<Option<Line>, String> {
    let line: LineIn = match serde_json::from_slice(text) {
        Ok(line) => line,
        Err(_) if is_gone(text) => return Ok(None),
        Err(error) => {
            let text = error.to_string();
            // Which line of the file it is, the caller knows.
            let reason = text.rsplit_once(" at line ").map_or(&*text, |(reason, _)| reason);
            return Err(format!("column {}: {reason}", error.column()));
        }
    };
    let payload = |field: &str, given: &str| -> Result<Value, String> {
        let text = if line.compressed == Some(true) {
            unpacked(given).map_err(|error| format!("{field}: {error}"))?
        } else {
            given.to_owned()
        };
        canonical::parse(text.as_bytes(), canonical::Limits::default())
            .map_err(|error| format!("{field}: {error}"))
    };
    let (input, output) = (
        payload("input_json", &line.input_json)?,
        payload("output_json", &line.output_json)?,
    );
    let hash = |value: &Value| canonical::sha256_hex(&canonical::to_vec(value));
    let hashes = [hash(&input), hash(&output)];
    let [of_input, of_output] = hashes.each_ref().map(String::as_str);
    let of_plan = of_input.get(..16).unwrap_or(of_input);
    let wrong: Vec<String> = [
        ("input_hash", Some(&line.input_hash), of_input),
        ("output_hash", Some(&line.output_hash), of_output),
        ("plan_hash", line.plan_hash.as_ref(), of_plan),
    ]
    .into_iter()
    .filter_map(|(field, given, found)| {
        let given = given.filter(|given| *given != found)?;
        Some(format!("{field} is {given}, the payload's is {found}"))
    })
    .collect();
    let or = |given: Option<String>, default: &str| given.unwrap_or_else(|| default.to_owned());
    let log = ProvenanceLog {
        id: Some(line.id),
        runtime_ms: line.runtime_ms.unwrap_or(0),
        status: or(line.status, "success"),
        model_version: or(line.model_version, PROVENANCE_VERSION_DEFAULT),
        adapter_version: or(line.adapter_version, PROVENANCE_VERSION_DEFAULT),
        commit_sha: or(line.commit_sha, COMMIT_UNKNOWN),
        times_given: TimesGiven::of([("timestamp", Some(&line.timestamp))]),
        ..ProvenanceLog::new(input, output)
    };
    Ok(Some(Line {
        log,
        timestamp: line.timestamp.time,
        run_id: line.run_id.filter(|run_id| !run_id.is_empty()),
        hashes,
        disagrees: (!wrong.is_empty()).then(|| wrong.join("; ")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_packed_the_same_each_time_and_comes_back_whole() {
        let text = r#"{"a":"ä","b":[1,2,3]}"#;
        assert_eq!(packed(text).unwrap(), packed(text).unwrap());
        assert_eq!(unpacked(&packed(text).unwrap()).unwrap(), text);
        for bad in ["", "!", "AAAA", &STANDARD.encode("no gzip")] {
            assert!(unpacked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_with_payloads_is_a_log_whatever_flags_it_has() {
        let line = |rest: &str| {
            let line = format!(
                r#"{{"id":"p","timestamp":"2026-05-11T10:00:00+00:00","input_hash":"a","output_hash":"b",{rest}}}"#
            );
            read_line(line.as_bytes()).map(|line| line.is_some())
        };
        for flag in ["erased", "archived", "missing"] {
            let both = format!(r#""{flag}":true,"input_json":"1","output_json":"2""#);
            assert_eq!(line(&both), Ok(true), "{flag}");
            let nulls = format!(r#""{flag}":true,"input_json":null,"output_json":null"#);
            assert_eq!(line(&nulls), Ok(false), "{flag}");
            assert_eq!(line(&format!(r#""{flag}":true"#)), Ok(false), "{flag}");
            let one = format!(r#""{flag}":true,"input_json":"1","output_json":null"#);
            assert!(line(&one).is_err(), "{flag}: half a log is none");
        }
        assert!(line(r#""erased":false,"input_json":null,"output_json":null"#).is_err());
    }

    #[test]
    fn a_line_needs_six_fields_and_tells_every_hash_that_disagrees() {
        let line = |input: &str, output: &str, rest: &str| {
            let line = format!(
                r#"{{"id":"p","timestamp":"2026-05-11T10:00:00+00:00","input_hash":"{input}","output_hash":"{output}","input_json":"{{\"a\": 1}}","output_json":"{{}}"{rest}}}"#
            );
            read_line(line.as_bytes()).unwrap().unwrap()
        };
        let input = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";
        let output = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let read = line(input, output, "");
        assert_eq!((read.log.model_version.as_str(), read.disagrees), ("2.0.0", None));
        assert_eq!(read.hashes, [input, output]);
        assert_eq!(
            line(input, output, r#","compressed":null"#).hashes,
            [input, output]
        );
        let plan = |hash: &str| format!(r#","plan_hash":{hash}"#);
        for agreed in [plan("null"), plan("\"015abd7f5cc57a2d\"")] {
            assert_eq!(line(input, output, &agreed).disagrees, None, "{agreed}");
        }
        for (read, told) in [
            (
                line("x", output, ""),
                format!("input_hash is x, the payload's is {input}"),
            ),
            (
                line("x", "y", ""),
                format!(
                    "input_hash is x, the payload's is {input}; output_hash is y, the payload's is {output}"
                ),
            ),
            (
                line(input, output, &plan("\"z\"")),
                "plan_hash is z, the payload's is 015abd7f5cc57a2d".to_owned(),
            ),
        ] {
            assert_eq!(read.disagrees.as_deref(), Some(told.as_str()));
        }
        assert!(read_line(br#"{"id":"p"}"#).unwrap_err().contains("missing field"));
    }
}
