//! Log records.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use serde_json::json;
use server::otlp::{LogsRequest, lower_logs};

use super::*;

fn request(resource: Resource, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope = InstrumentationScope {
        name: "my.logger".into(),
        ..InstrumentationScope::default()
    };
    let scope_logs = vec![ScopeLogs {
        scope: Some(scope),
        log_records,
        ..ScopeLogs::default()
    }];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs,
            ..ResourceLogs::default()
        }],
    }
}

fn lower_request(request: &ExportLogsServiceRequest) -> Lowered {
    let bytes = request.encode_to_vec();
    let lowered = lower_logs(
        &LogsRequest::decode(&bytes, Encoding::Protobuf).unwrap(),
        now(),
        &mut Salts::default(),
    );
    lowered.drafts.iter().for_each(check);
    let text = serde_json::to_vec(request).unwrap();
    let json = lower_logs(
        &LogsRequest::decode(&text, Encoding::Json).unwrap(),
        now(),
        &mut Salts::default(),
    );
    let bodies = |lowered: &Lowered| lowered.drafts.iter().map(body).collect::<Vec<_>>();
    assert_eq!(bodies(&json), bodies(&lowered), "the same in JSON");
    lowered
}

fn log(severity: i32, text: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: START,
        severity_number: severity,
        body: Some(any_value(super::text(text))),
        ..LogRecord::default()
    }
}

#[test]
fn a_log_record_is_a_system_record_of_its_scope() {
    let mut resource = resource();
    resource.attributes.push(kv("host.name", text("node-1")));
    let record = LogRecord {
        observed_time_unix_nano: START + 1,
        severity_text: "ERR".into(),
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        attributes: vec![kv("k", V::IntValue(i64::MAX))],
        dropped_attributes_count: 4,
        ..log(17, "disk full\nat /dev/sda")
    };
    let lowered = lower_request(&request(resource, vec![record]));
    let draft = &lowered.drafts[0];
    let record = body(draft);
    assert_eq!(
        [
            &record["component"],
            &record["event_type"],
            &record["severity"],
            &record["summary"],
            &record["host"]
        ],
        ["my.logger", "LOG", "ERROR", "disk full", "node-1"]
    );
    assert_eq!(record["details"]["body"], "disk full\nat /dev/sda");
    assert_eq!(
        record["details"]["attributes"],
        json!({"k": "9223372036854775807"})
    );
    assert_eq!(record["details"]["trace_id"], "01".repeat(16));
    assert_eq!(record["details"]["span_id"], "02".repeat(8));
    assert_eq!(record["details"]["dropped_attributes_count"], json!(4));
    assert_eq!(record["details"]["resource"]["service.name"], "agents");
    assert_eq!(draft.correlation_id.as_deref(), Some(&*"01".repeat(16)));
    assert_eq!((draft.identity, draft.content), (None, None));
    assert_eq!(draft.occurred_at, Timestamp::from_unix_nanos(START).0);
}

#[test]
fn an_id_of_zeros_is_none() {
    let record = LogRecord {
        trace_id: vec![0; 16],
        span_id: vec![0; 8],
        ..log(9, "outside of any span")
    };
    let lowered = lower_request(&request(resource(), vec![record]));
    let draft = &lowered.drafts[0];
    assert_eq!((&draft.trace_id, &draft.correlation_id), (&None, &None));
    let details = &body(draft)["details"];
    assert_eq!((details.get("trace_id"), details.get("span_id")), (None, None));
}

#[test]
fn severities_have_five_words() {
    let logs = [0, 1, 8, 9, 12, 13, 16, 17, 20, 21, 24, 99, -1].map(|number| log(number, "x"));
    let lowered = lower_request(&request(resource(), logs.to_vec()));
    let words: Vec<_> = lowered
        .drafts
        .iter()
        .map(|draft| body(draft)["severity"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        words,
        [
            "INFO", "DEBUG", "DEBUG", "INFO", "INFO", "WARN", "WARN", "ERROR", "ERROR", "CRITICAL",
            "CRITICAL", "INFO", "INFO"
        ]
    );
}

#[test]
fn without_a_number_the_loggers_own_word_counts() {
    let words = [
        ("TRACE", 0, "DEBUG"),
        ("Debug", 0, "DEBUG"),
        ("info", 0, "INFO"),
        ("WARN", 0, "WARN"),
        ("warning", 0, "WARN"),
        ("ERROR", 0, "ERROR"),
        ("fatal", 0, "CRITICAL"),
        ("CRITICAL", 0, "CRITICAL"),
        ("E", 0, "INFO"),
        ("", 0, "INFO"),
        // The number says it.
        ("ERROR", 9, "INFO"),
        ("ERROR", 99, "INFO"),
    ];
    let logs = words.map(|(text, number, _)| LogRecord {
        severity_text: text.into(),
        ..log(number, "x")
    });
    let lowered = lower_request(&request(resource(), logs.to_vec()));
    assert_eq!(lowered.drafts.len(), words.len());
    for (draft, (text, number, expected)) in lowered.drafts.iter().zip(words) {
        let record = body(draft);
        assert_eq!(record["severity"], expected, "{text} {number}");
        assert_eq!(record["details"]["severity_number"], number);
    }
}

#[test]
fn a_run_binds_its_log_records() {
    let mut named = resource();
    named.attributes.push(kv("deponent.run.id", text("run-1")));
    let lowered = lower_request(&request(named, vec![log(9, "x")]));
    assert_eq!(body(&lowered.drafts[0])["run_id"], "run-1");
    assert_eq!(lowered.drafts[0].correlation_id.as_deref(), Some("run-1"));
    let by_record = LogRecord {
        attributes: vec![kv("deponent.run.id", text("run-2"))],
        ..log(9, "x")
    };
    assert_eq!(
        body(&lower_request(&request(resource(), vec![by_record])).drafts[0])["run_id"],
        "run-2"
    );
}

#[test]
fn genai_events_keep_their_name_and_their_structured_body() {
    let details = LogRecord {
        event_name: "gen_ai.client.inference.operation.details".into(),
        body: Some(any_value(map([("a", list([V::IntValue(1)]))]))),
        ..log(9, "")
    };
    let record = body(&lower_request(&request(resource(), vec![details])).drafts[0]);
    assert_eq!(record["event_type"], "gen_ai.client.inference.operation.details");
    assert_eq!(record["details"]["body"], json!({"a": [1]}));
    assert_eq!(record["summary"], r#"{"a":[1]}"#);
}

#[test]
fn a_long_text_is_whole_in_the_details_and_a_bad_record_rejects_itself_alone() {
    let long = "é".repeat(600);
    let bad_time = LogRecord {
        time_unix_nano: u64::MAX,
        ..log(9, "x")
    };
    let bad_id = LogRecord {
        trace_id: vec![1; 3],
        ..log(9, "x")
    };
    let no_time = LogRecord {
        time_unix_nano: 0,
        ..log(9, &long)
    };
    let bytes = request(resource(), vec![bad_time, no_time, bad_id]).encode_to_vec();
    let lowered = lower_logs(
        &LogsRequest::decode(&bytes, Encoding::Protobuf).unwrap(),
        now(),
        &mut Salts::default(),
    );
    assert_eq!((lowered.drafts.len(), lowered.rejected.count), (1, 2));
    let record = body(&lowered.drafts[0]);
    assert_eq!(record["summary"].as_str().unwrap().chars().count(), 500);
    assert_eq!(record["details"]["body"], long);
    assert_eq!(lowered.drafts[0].occurred_at, now());
}
