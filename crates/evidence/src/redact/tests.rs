mod hiding;
mod of_tenants;

use super::*;
use proptest::prelude::*;

fn text(text: &str) -> String {
    Redactor::standard().text(text).unwrap_or_else(|| text.to_owned())
}

fn body(json: &str) -> String {
    let canonical = canonical::canonicalize(json.as_bytes(), Limits::default()).unwrap();
    let done = Redactor::standard()
        .body(Kind::TraceStep, &canonical)
        .unwrap()
        .unwrap_or(canonical);
    String::from_utf8(done).unwrap()
}

#[test]
fn each_pattern_leaves_its_own_marker() {
    for (sent, stored) in [
        ("write to ada@example.com.", "write to <REDACTED_EMAIL>."),
        ("'o'brien+x@mail.example.co.uk'", "'<REDACTED_EMAIL>'"),
        ("jörg@bücher.example", "<REDACTED_EMAIL>"),
        ("联系ada@example.com吧", "联系<REDACTED_EMAIL>吧"),
        (
            "https://user:pass@host.example/",
            "https://user:<REDACTED_EMAIL>/",
        ),
        (
            "Authorization: Bearer x",
            "Authorization: <REDACTED_BEARER_TOKEN>",
        ),
        ("bearer abc.def-123~+/=", "<REDACTED_BEARER_TOKEN>"),
        ("card 4111 1111 1111 1111, ok", "card <REDACTED_CARD_NUMBER>, ok"),
        ("5500-0000-0000-0004", "<REDACTED_CARD_NUMBER>"),
        ("12 340000000000009 7", "12 <REDACTED_CARD_NUMBER> 7"),
        ("2026-11-21 6011000000000004", "2026-11-21 <REDACTED_CARD_NUMBER>"),
        ("ssn 123-45-6789.", "ssn <REDACTED_US_SSN>."),
        ("AKIAIOSFODNN7EXAMPLE", "<REDACTED_AWS_KEY>"),
        ("(ASIAIOSFODNN7EXAMPLE)", "(<REDACTED_AWS_KEY>)"),
        (
            "ghp_0123456789abcdefghijABCDEFGHIJ012345",
            "<REDACTED_GITHUB_TOKEN>",
        ),
        (
            "x github_pat_11AAAAAAA0aaaaaaaaaa y",
            "x <REDACTED_GITHUB_TOKEN> y",
        ),
        ("xoxb-123456789012-abcdefABCDEF", "<REDACTED_SLACK_TOKEN>"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nrest",
            "<REDACTED_PRIVATE_KEY>\nrest",
        ),
        ("a -----BEGIN PRIVATE KEY-----\nMIIE", "a <REDACTED_PRIVATE_KEY>"),
        ("line\\nada@example.com", "line\\n<REDACTED_EMAIL>"),
        ("line\\n4111111111111111", "line\\n<REDACTED_CARD_NUMBER>"),
    ] {
        assert_eq!(text(sent), stored);
    }
}

#[test]
fn what_only_looks_like_it_stays() {
    for kept in [
        "the bearer of good news, bearer bonds, Bearer",
        "4111 1111 1111 1112",
        "1234567890123456",
        "1763717400000000000",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "01a1fd70-f1c0-7d15-8000-0000046789ab",
        "0.4111111111111111",
        "call_4111111111111111",
        "2026-11-21T09:30:00.000001Z",
        "123-456-7890",
        "@mention, a@b, user@localhost, pkg@1.2.3",
        "AKIA, AKIAIOSFODNN7EXAMPLEX, ghp_, xoxb-",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "the secret of \"token\" counts: \"tokens\": 5",
    ] {
        assert_eq!(Redactor::standard().text(kept), None, "{kept}");
    }
}

#[test]
fn values_under_secret_names_go_and_numbers_stay() {
    assert_eq!(
        body(
            r#"{"params":{"Password":"x","a.b.Api-Key":"y","input_tokens":5,"token":7,"tokens":{"token":1},"cred":{"u":"v","n":[1,"w",true,null]},"secret":"","mypassword":"z"}}"#
        ),
        r#"{"params":{"Password":"<REDACTED>","a.b.Api-Key":"<REDACTED>","cred":{"n":[1,"<REDACTED>",true,null],"u":"<REDACTED>"},"input_tokens":5,"mypassword":"z","secret":"","token":7,"tokens":{"token":1}},"redactions":{"count":4,"patterns":["field"]}}"#
    );
}

#[test]
fn json_within_text_is_looked_through() {
    let inner = r#"{"q":1,"credentials":{"user":"u"},"arguments":"{\"api_key\":\"k\"}"}"#;
    let sent = canonical::to_vec(&Value::object([("t", Value::from(inner))]));
    assert_eq!(
        body(std::str::from_utf8(&sent).unwrap()),
        r#"{"redactions":{"count":2,"patterns":["field"]},"t":"{\"arguments\":\"{\\\"api_key\\\":\\\"<REDACTED>\\\"}\",\"credentials\":{\"user\":\"<REDACTED>\"},\"q\":1}"}"#
    );
    // Cut off, amid prose, and as Python prints it.
    for (sent, stored) in [
        (r#"{"a":1,"password":"hunt"#, r#"{"a":1,"password":"<REDACTED>"#),
        (
            r#"so: {"x.token" : "abc"} ok"#,
            r#"so: {"x.token" : "<REDACTED>"} ok"#,
        ),
        (r"{'pwd': 'abc', 'n': 1}", r"{'pwd': '<REDACTED>', 'n': 1}"),
        (
            r#"{\"secret\": \"a\\\"b\"} x"#,
            r#"{\"secret\": \"<REDACTED>\"} x"#,
        ),
    ] {
        assert_eq!(text(sent), stored);
    }
    // Arrays and objects under a secret name, to where they close.
    for (sent, stored) in [
        (
            r#"got {"credentials":["hunter2"]} back"#,
            r#"got {"credentials":["<REDACTED>"]} back"#,
        ),
        (
            r#"so: {"cred": {"user" : "u", "n": [1, "w]", null, ""], "k": "v"}, "plain": "p"} ok"#,
            r#"so: {"cred": {"user" : "<REDACTED>", "n": [1, "<REDACTED>", null, ""], "k": "<REDACTED>"}, "plain": "p"} ok"#,
        ),
        (
            r#"{'token': ['a', "it's", b'c'], 'n': "don't"} x"#,
            r#"{'token': ['<REDACTED>', "<REDACTED>", b'<REDACTED>'], 'n': "don't"} x"#,
        ),
        (
            r#"x {\"secret\": [\"a\\\"b\", {\"c\": \"d\"}]} y \"e\""#,
            r#"x {\"secret\": [\"<REDACTED>\", {\"c\": \"<REDACTED>\"}]} y \"e\""#,
        ),
        (
            r#"cut {"token":["a","b"#,
            r#"cut {"token":["<REDACTED>","<REDACTED>"#,
        ),
    ] {
        assert_eq!(text(sent), stored);
        assert_eq!(Redactor::standard().text(stored), None, "{stored}");
    }
    // Escapes that hide.
    assert_eq!(
        text(r#"{"m":"ada\u0040example.com"}"#),
        r#"{"m":"<REDACTED_EMAIL>"}"#
    );
}

#[test]
fn names_are_looked_through_and_none_is_lost() {
    assert_eq!(
        body(r#"{"m":{"a@b.example":1,"c@d.example":2,"z":3}}"#),
        r#"{"m":{"<REDACTED_EMAIL>":1,"<REDACTED_EMAIL> 2":2,"z":3},"redactions":{"count":2,"patterns":["email"]}}"#
    );
}

#[test]
fn what_identifies_is_left_alone_where_it_is_ours() {
    let mail = "a@b.example";
    assert_eq!(
        body(&format!(
            r#"{{"actor_id":"{mail}","input_row_ids":["{mail}"],"params":{{"actor_id":"{mail}"}},"step":{{"agent":"{mail}"}},"uri":"{mail}"}}"#
        )),
        format!(
            r#"{{"actor_id":"{mail}","input_row_ids":["{mail}"],"params":{{"actor_id":"<REDACTED_EMAIL>"}},"redactions":{{"count":1,"patterns":["email"]}},"step":{{"agent":"{mail}"}},"uri":"{mail}"}}"#
        )
    );
}

#[test]
fn a_state_of_an_audit_event_names_its_runs_as_they_are() {
    let mail = "bob@example.com";
    let state = |deep: &str, note: &str| {
        format!(
            r#"{{"deep":{{"run_id":"{deep}"}},"note":"{note}","run_id":"{mail}","source_run_id":"{mail}"}}"#
        )
    };
    let event =
        |state: &str| format!(r#"{{"after_state":{state},"before_state":{state},"entity_id":"{mail}""#);
    let sent = event(&state(mail, mail)) + "}";
    let kept = event(&state("<REDACTED_EMAIL>", "<REDACTED_EMAIL>"));
    let body = |kind| {
        let stored = Redactor::standard().body(kind, sent.as_bytes()).unwrap().unwrap();
        String::from_utf8(stored).unwrap()
    };
    let tally = r#","redactions":{"count":4,"patterns":["email"]}}"#;
    assert_eq!(body(Kind::AuditEvent), format!("{kept}{tally}"));
    // The request that it is made of is redacted before.
    let request = Redactor::standard().request(sent.as_bytes()).unwrap().unwrap();
    assert_eq!(String::from_utf8(request).unwrap(), kept + "}");
    // Elsewhere these are anybody's names.
    assert!(!body(Kind::TraceStep).contains(r#""run_id":"bob"#));
    // A tenant's pattern renames neither.
    let words = rules(r#"{"patterns":[{"name":"words","pattern":"[a-z_]{5,}"}]}"#);
    let named = br#"{"after_state":{"run_id":"nightly"}}"#;
    assert_eq!(words.body(Kind::AuditEvent, named).unwrap(), None);
    // What is no identifier names no run.
    let long = format!(r#"{{"after_state":{{"run_id":"{mail} {}"}}}}"#, "x".repeat(256));
    assert!(
        Redactor::standard()
            .body(Kind::AuditEvent, long.as_bytes())
            .unwrap()
            .is_some()
    );
}

fn line(kind: Kind, json: &str) -> Value {
    let canonical = canonical::canonicalize(json.as_bytes(), Limits::default()).unwrap();
    let done = Redactor::standard()
        .body(kind, &canonical)
        .unwrap()
        .unwrap_or(canonical);
    canonical::parse(&done, Limits::default()).unwrap()
}

#[test]
fn row_ids_of_lineage_stay_in_evidence_and_in_deterministic_lines_alike() {
    let ids = r#"["ada@example.com","123-45-6789"]"#;
    let evidence = line(
        Kind::LineageEvidence,
        &format!(r#"{{"id":"ev-1","input_row_ids":{ids}}}"#),
    );
    let deterministic = line(
        Kind::LineageDeterministic,
        &format!(r#"{{"fn":"f","row_ids":{ids}}}"#),
    );
    for (line, name) in [(evidence, "input_row_ids"), (deterministic, "row_ids")] {
        assert_eq!(canonical::to_vec(line.get(name).unwrap()), ids.as_bytes());
        assert_eq!(line.get(MEMBER), None);
    }
    // A request that carries them is no stricter.
    let request = format!(r#"{{"row_ids":{ids}}}"#);
    assert_eq!(Redactor::standard().request(request.as_bytes()).unwrap(), None);
}

#[test]
fn names_that_look_like_deponents_own_hide_nothing_in_a_line() {
    let names = [
        "agent",
        "agent_id",
        "reviewed_at",
        "mail_hash",
        "owner_id",
        "timestamp",
        "ts",
        "x_digest",
    ];
    for kind in [
        Kind::LineageEvidence,
        Kind::LineageDeterministic,
        Kind::LineageAiOutput,
        Kind::LineageAiMetrics,
    ] {
        for name in names {
            let line = line(
                kind,
                &format!(r#"{{"{name}":"ada@example.com","fn":"f","run_id":"r"}}"#),
            );
            assert_eq!(
                line.get(name).unwrap().as_str(),
                Some("<REDACTED_EMAIL>"),
                "{kind:?} {name}"
            );
        }
        // Sections are those of Deponent's bodies.
        let line = line(
            kind,
            r#"{"step":{"agent_id":"ada@example.com"},"steps":[{"uri":"ada@example.com"}]}"#,
        );
        assert!(
            !String::from_utf8(canonical::to_vec(&line)).unwrap().contains('@'),
            "{kind:?}"
        );
    }
    for name in ["hash", "id", "uri", "input_row_ids", "row_ids"] {
        let line = line(
            Kind::LineageAiOutput,
            &format!(r#"{{"{name}":"ada@example.com"}}"#),
        );
        assert_eq!(
            line.get(name).unwrap().as_str(),
            Some("<REDACTED_EMAIL>"),
            "{name}"
        );
    }
}

#[test]
fn times_of_a_line_stay_whatever_a_tenants_patterns_are() {
    let settings = br#"{"fields":[],"off":[],"patterns":[{"name":"year","pattern":"20[0-9]{2}"}]}"#;
    let settings = canonical::parse(settings, Limits::default()).unwrap();
    let rules = Redactor::new(&RedactionSettings::read(&settings).unwrap()).unwrap();
    let sent = br#"{"note":"of 2026","timestamp":"2026-01-01T00:00:00Z","ts":"in 2026"}"#;
    let stored = rules.body(Kind::LineageAiOutput, sent).unwrap().unwrap();
    assert_eq!(
        String::from_utf8(stored).unwrap(),
        r#"{"note":"of <REDACTED_YEAR>","redactions":{"count":2,"patterns":["year"]},"timestamp":"2026-01-01T00:00:00Z","ts":"in <REDACTED_YEAR>"}"#
    );
}

fn rules(json: &str) -> Redactor {
    let settings = canonical::parse(json.as_bytes(), Limits::default()).unwrap();
    Redactor::new(&RedactionSettings::read(&settings).unwrap()).unwrap()
}

/// What would take for ever if anything here looked twice at what it has seen.
#[test]
fn hostile_texts_take_linear_time() {
    let off: Vec<_> = Pattern::ALL.iter().map(|pattern| pattern.as_str()).collect();
    let off = rules(&format!(r#"{{"off":["{}"]}}"#, off.join("\",\"")));
    for unit in [
        "a@",
        "xoxb-",
        "xoxb-0",
        "AKIA",
        "bearer+",
        "github_pat",
        "-----BEGIN PRIVATE KEY-----",
        "\"token\":[",
        "\"token\":[\"",
        "\"token\":{'",
        "@a.",
        "1 ",
        "1-",
        "ghp_",
        "\"token\"",
        "\\\"",
        "'",
        "bearer ",
        "-----BEGIN ",
        "{\"a\":",
        "<REDACTED",
        "1",
        "3fa9",
        "\\u201c",
        "\\u00e9a",
    ] {
        let long = unit.repeat(400_000 / unit.len());
        let started = std::time::Instant::now();
        let _ = Redactor::standard().text(&long);
        let _ = off.text(&long);
        let sent = canonical::to_vec(&Value::object([("t", Value::from(long.as_str()))]));
        Redactor::standard().body(Kind::TraceStep, &sent).unwrap();
        let took = started.elapsed();
        assert!(took.as_secs() < 60, "{unit:?} took {took:?}");
    }
}

/// Pieces of which texts are made that are near to patterns.
fn near() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "ada@example.com",
        "a@",
        ".co",
        "4111 1111",
        " 1111-1111",
        "4111111111111111",
        "123-45-",
        "6789",
        "Bearer ",
        "abc123",
        "AKIA",
        "IOSFODNN7EXAMPLE",
        "ghp_",
        "0123456789",
        "xoxb-",
        "-----BEGIN ",
        "PRIVATE KEY-----",
        "-----END ",
        "\"",
        "'",
        "password",
        ":",
        " ",
        "\\",
        "n",
        "{",
        "}",
        "[",
        "]",
        ",",
        "<REDACTED",
        ">",
        "_EMAIL",
        "ä",
        "\u{0}",
        "token",
        ".",
        "-",
    ]);
    prop::collection::vec(pieces, 0..14).prop_map(|pieces| pieces.concat())
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        near().prop_map(Value::String),
        (-5_i64..5).prop_map(Value::Int),
        Just(Value::Null)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((near(), inner.clone()), 0..4).prop_map(Value::object),
            inner.prop_map(|inner| {
                Value::String(String::from_utf8(canonical::to_vec(&inner)).unwrap_or_default())
            }),
        ]
    })
}

#[test]
fn a_writers_own_member_of_the_tallys_name_is_not_counted() {
    let rules = Redactor::standard();
    let body = |text: &str| {
        let kept = rules.body(Kind::LineageAiOutput, text.as_bytes()).unwrap();
        String::from_utf8(kept.unwrap()).unwrap()
    };
    let kept = body(r#"{"note":"mail c@d.com","redactions":["a@b.com"]}"#);
    assert_eq!(
        kept,
        r#"{"note":"mail <REDACTED_EMAIL>","redactions":{"count":1,"patterns":["email"]}}"#
    );
    assert_eq!(body(&kept), kept);
    let alone = body(r#"{"note":"none","redactions":["a@b.com"]}"#);
    assert_eq!(alone, r#"{"note":"none","redactions":["<REDACTED_EMAIL>"]}"#);
    assert_eq!(rules.body(Kind::LineageAiOutput, alone.as_bytes()).unwrap(), None);
}

proptest! {
    #[test]
    fn twice_is_once(value in values(), other in values()) {
        let rules = Redactor::standard();
        // A writer may have a member of the tally's name.
        let sent = canonical::to_vec(&Value::object([(MEMBER, other), ("v", value)]));
        let once = rules.body(Kind::TraceStep, &sent).unwrap().unwrap_or(sent);
        let twice = rules.body(Kind::TraceStep, &once).unwrap();
        prop_assert!(twice.as_deref().is_none_or(|twice| twice == once),
            "{}\n{}", String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice.unwrap_or_default()));
    }

    #[test]
    fn what_the_scan_lets_through_has_nothing_to_replace(value in values()) {
        let rules = Redactor::standard();
        let mut value = Value::object([("v", value)]);
        let sent = canonical::to_vec(&value);
        if !rules.suspects(&sent) {
            prop_assert!(!rules.value(&mut value));
            prop_assert_eq!(canonical::to_vec(&value), sent);
        }
    }

    #[test]
    fn text_without_a_pattern_is_never_altered(text in "[a-zA-Z ,.;:!?äöü\n(){}\\[\\]/0-9]{0,200}") {
        // No address, no token, no quote; digits only in short words.
        let plain = text.split(|c: char| !c.is_ascii_digit() && c != ' ' && c != '-').all(|run| run.len() < 11)
            && !text.to_ascii_lowercase().contains("bearer") && !text.contains("AKIA") && !text.contains("ASIA");
        if plain {
            prop_assert_eq!(Redactor::standard().text(&text), None);
        }
    }

    #[test]
    fn a_secret_anywhere_is_gone(before in "[a-z {}\":,]{0,20}", after in "[a-z {}\":,]{0,20}", depth in 0_usize..60) {
        let secrets = ["ada@example.com", "4111-1111-1111-1111", "123-45-6789", "AKIAIOSFODNN7EXAMPLE"];
        for secret in secrets {
            let mut value = Value::String(format!("{before} {secret} {after}"));
            for level in 0..depth {
                value = if level % 2 == 0 { Value::Array(vec![value]) } else { Value::object([("k", value)]) };
            }
            let sent = canonical::to_vec(&Value::object([("v", value)]));
            let stored = Redactor::standard().body(Kind::TraceStep, &sent).unwrap().unwrap();
            prop_assert!(!String::from_utf8_lossy(&stored).contains(secret));
            prop_assert!(canonical::is_canonical(&stored));
        }
    }
}

#[test]
fn a_request_id_that_is_made_here_is_taken_for_nothing_else() {
    // Its end is sixteen digits with the sum of a card's.
    let id = "019b2bfe-95bf-7585-8161-443830434726";
    assert!(text(id).ends_with("<REDACTED_CARD_NUMBER>"));
    let named = format!(r#"{{"request_id":"{id}"}}"#);
    assert_eq!(body(&named), named);
    let of_caller = format!(r#"{{"params":{{"request_id":"{id}"}}}}"#);
    assert_ne!(body(&of_caller), of_caller);
    assert!(body(r#"{"request_id":"8161-443830434726"}"#).contains("<REDACTED_CARD_NUMBER>"));
}
