//! Rules that tenants set for themselves.

use super::*;

#[test]
fn a_tenant_adds_names_and_patterns_and_takes_patterns_away() {
    let settings = canonical::parse(
        br#"{"fields":["Kundennummer"],"off":["email"],"patterns":[{"name":"order","pattern":"[A-Z]{4,}"}]}"#,
        Limits::default(),
    )
    .unwrap();
    let settings = RedactionSettings::read(&settings).unwrap();
    assert_eq!(RedactionSettings::read(&settings.to_value()).unwrap(), settings);
    let rules = Redactor::new(&settings).unwrap();
    let sent = br#"{"m":{"kundennummer":"7","t":"ABCD a@b.example 123-45-6789 EFGH"}}"#;
    let stored = rules.body(Kind::TraceStep, sent).unwrap().unwrap();
    assert_eq!(
        String::from_utf8(stored).unwrap(),
        r#"{"m":{"kundennummer":"<REDACTED>","t":"<REDACTED_ORDER> a@b.example <REDACTED_US_SSN> <REDACTED_ORDER>"},"redactions":{"count":4,"patterns":["field","order","us_ssn"]}}"#
    );
}

#[test]
fn times_as_given_stay_whatever_a_tenants_rules_are() {
    let rules = rules(
        r#"{"fields":["times_given"],"patterns":[{"name":"year","pattern":"20[0-9]{2}"},{"name":"window","pattern":"activation_[a-z_]+"}]}"#,
    );
    let stored = |sent: &str| {
        let stored = rules.body(Kind::TraceStep, sent.as_bytes()).unwrap();
        stored.map(|stored| String::from_utf8(stored).unwrap())
    };
    let times = r#""times_given":{"activation_window_start":"2026-01-01T00:00:00.4111111111111111Z","at":"2026-01-01T00:00:00.123456789+01:00"}"#;
    assert_eq!(
        stored(&format!(r#"{{"note":"of 2026",{times}}}"#)),
        Some(format!(
            r#"{{"note":"of <REDACTED_YEAR>","redactions":{{"count":1,"patterns":["year"]}},{times}}}"#
        ))
    );
    assert_eq!(stored(&format!("{{{times}}}")), None);
    // What is no time is none, and what a caller calls so is the caller's.
    for other in [
        r#"{"times_given":{"at":"in 2026"}}"#,
        r#"{"params":{"times_given":{"at":"2026-01-01T00:00:00.1234567Z"}}}"#,
    ] {
        assert!(
            stored(other).unwrap().contains(r#"{"at":"<REDACTED>"}"#),
            "{other}"
        );
    }
}

#[test]
fn a_tenants_pattern_leaves_what_deponent_compares_and_names() {
    let rules = rules(
        r#"{"patterns":[{"name":"hex","pattern":"[0-9a-f]{16,}"},{"name":"words","pattern":"[a-z_]{5,}"}]}"#,
    );
    let mac = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let sent = format!(
        r#"{{"content_mac":"{mac}","otel":{{"attributes":{{"secrets":"{mac}"}},"events":[{{"name":"words","time_unix_nano":"1763717400123456789"}}],"links":[{{"span_id":"eee19b7ec3c1b174","trace_id":"5b8efff798038103d269b633813fc60c"}}]}},"records_digest":"{mac}"}}"#
    );
    let stored = rules.body(Kind::TraceStep, sent.as_bytes()).unwrap().unwrap();
    assert_eq!(
        String::from_utf8(stored).unwrap(),
        format!(
            r#"{{"content_mac":"{mac}","otel":{{"attributes":{{"<REDACTED_WORDS>":"<REDACTED_HEX>"}},"events":[{{"name":"<REDACTED_WORDS>","time_unix_nano":"1763717400123456789"}}],"links":[{{"span_id":"eee19b7ec3c1b174","trace_id":"5b8efff798038103d269b633813fc60c"}}]}},"records_digest":"{mac}","redactions":{{"count":3,"patterns":["hex","words"]}}}}"#
        )
    );
    // What nobody but a client can have called so is still looked through.
    let odd = Redactor::standard().request(br#"{"ada@example.com":1}"#).unwrap();
    assert_eq!(odd.unwrap(), br#"{"<REDACTED_EMAIL>":1}"#);
}

#[test]
fn a_tenants_pattern_is_not_looked_for_any_number_of_times() {
    // Each match but the last is known only when the end of the text is seen: so many looks, so many times its length.
    let rules = rules(r#"{"patterns":[{"name":"far","pattern":".*[^A-Z]|[A-Z]"}]}"#);
    let stored = rules.text(&"A".repeat(20_000)).unwrap();
    // A marker for each look; the rest is gone as a whole, and nothing of it is left.
    assert_eq!(stored, "<REDACTED_FAR>".repeat(501));
    assert_eq!(rules.text(&stored), None);
    // One whose matches are short finds any number of them.
    let ids = "K123 k\n".repeat(20_000);
    let rules = self::rules(r#"{"patterns":[{"name":"id","pattern":"K[0-9]{3}"}]}"#);
    assert_eq!(rules.text(&ids).unwrap(), "<REDACTED_ID> k\n".repeat(20_000));
}

#[test]
fn no_rule_of_a_tenant_touches_the_words_of_its_access_trail() {
    let settings = canonical::parse(
        br#"{"fields":["count","decision","event_type","filters","key_hash","name","operation","principal","resource","role","subject_id"],
            "patterns":[{"name":"any","pattern":"[a-z_]+"}]}"#,
        Limits::default(),
    )
    .unwrap();
    let rules = Redactor::new(&RedactionSettings::read(&settings).unwrap()).unwrap();
    let stored = |kind, sent: &str| {
        let sent = canonical::canonicalize(sent.as_bytes(), Limits::default()).unwrap();
        let stored = rules.body(kind, &sent).unwrap().unwrap_or(sent);
        String::from_utf8(stored).unwrap()
    };
    for (kind, sent, expected) in [
        (
            Kind::AuthorizationDecision,
            r#"{"action":"read","count":1,"decision":"DENY","policy_ids":["reader"],"principal":"ada@example.com","resource":"acme/audit","role":"reader"}"#,
            None,
        ),
        (
            Kind::IdentityEvent,
            r#"{"event_type":"key.revoked","principal":"ada@example.com","subject_id":"k3y"}"#,
            None,
        ),
        (
            Kind::IdentityEvent,
            r#"{"event_type":"key.created","name":"for ada","principal":"local","role":"reader","subject_id":"k3y"}"#,
            Some(
                r#"{"event_type":"key.created","name":"<REDACTED>","principal":"local","redactions":{"count":1,"patterns":["field"]},"role":"reader","subject_id":"k3y"}"#,
            ),
        ),
        (
            Kind::AccessEvent,
            r#"{"count":1,"event_type":"evidence.read","filters":{"1":"ada"},"operation":"get_record","principal":"ada@example.com","resource":"/ada","row_count":1}"#,
            Some(
                r#"{"count":1,"event_type":"evidence.read","filters":{"1":"<REDACTED>"},"operation":"get_record","principal":"ada@example.com","redactions":{"count":2,"patterns":["field"]},"resource":"<REDACTED>","row_count":1}"#,
            ),
        ),
    ] {
        assert_eq!(stored(kind, sent), expected.unwrap_or(sent), "{kind:?}");
    }
}

#[test]
fn times_of_contracts_and_signals_stay_where_they_are_times() {
    let rules =
        rules(r#"{"fields":["at"],"patterns":[{"name":"dob","pattern":"[0-9]{4}-[0-9]{2}-[0-9]{2}"}]}"#);
    let stored = |kind, sent: &str| {
        let stored = rules.body(kind, sent.as_bytes()).unwrap();
        stored.map(|stored| String::from_utf8(stored).unwrap())
    };
    let signal = r#"{"at":"2026-01-02T03:04:05Z","scope":"search"}"#;
    assert_eq!(stored(Kind::GovernanceSignal, signal), None);
    let contract = r#"{"activation_window_end":"2030-01-01T00:00:00Z","activation_window_start":"2020-01-01T00:00:00Z"}"#;
    assert_eq!(stored(Kind::GovernanceContract, contract), None);
    assert_eq!(rules.request(contract.as_bytes()).unwrap(), None);
    let born = r#"{"activation_window_start":"born 1970-01-01","at":"1970-01-01"}"#;
    assert_eq!(
        stored(Kind::GovernanceSignal, born).unwrap(),
        r#"{"activation_window_start":"born <REDACTED_DOB>","at":"<REDACTED>","redactions":{"count":2,"patterns":["dob","field"]}}"#
    );
    let of_caller = r#"{"params":{"at":"2026-01-02T03:04:05Z"}}"#;
    assert!(stored(Kind::TraceStep, of_caller).unwrap().contains("<REDACTED>"));
}

#[test]
fn no_rule_of_a_tenant_touches_what_a_capture_failure_is_about() {
    let rules = rules(
        r#"{"fields":["about","evidence_class","resolution"],"patterns":[{"name":"hex","pattern":"[0-9a-f]{12,}"}]}"#,
    );
    let sent = r#"{"about":"span 00000000000000a1","error_message":"of 00000000000000a1","evidence_class":"trace_steps","failure_reason":"capture_failed","request_id":"REQUEST","resolution":"transient"}"#;
    let stored = |request_id: &str| {
        let sent = sent.replace("REQUEST", request_id);
        let stored = rules.body(Kind::EvidenceCaptureFailure, sent.as_bytes()).unwrap();
        String::from_utf8(stored.unwrap()).unwrap()
    };
    let expected = |request_id: &str, count: u8| {
        format!(
            r#"{{"about":"span 00000000000000a1","error_message":"of <REDACTED_HEX>","evidence_class":"trace_steps","failure_reason":"capture_failed","redactions":{{"count":{count},"patterns":["hex"]}},"request_id":"{request_id}","resolution":"transient"}}"#
        )
    };
    // What a client calls its request is his text; what was made here is not.
    let made = "019b2bfe-95bf-7585-8161-443830434726";
    assert_eq!(stored(made), expected(made, 1));
    assert_eq!(stored("of 0123456789abcdef"), expected("of <REDACTED_HEX>", 2));
}

#[test]
fn what_somebody_decides_and_the_id_of_a_signal_stay_and_reasons_do_not() {
    let rules = rules(
        r#"{"fields":["decision","event"],"patterns":[{"name":"hex","pattern":"[0-9a-f]{8,}"},{"name":"words","pattern":"[a-z]{5,}"}]}"#,
    );
    let stored = |kind, sent: &str| {
        let stored = rules.body(kind, sent.as_bytes()).unwrap();
        stored.map_or_else(|| sent.to_owned(), |stored| String::from_utf8(stored).unwrap())
    };
    let tally = r#""redactions":{"count":1,"patterns":["words"]}"#;
    for (kind, sent, kept) in [
        (
            Kind::GovernanceResolution,
            r#"{"actor_id":"alice","audit_id":"019b2bfe-95bf","decision":"proceed","job_id":"deploy","reason":"asked bob"}"#.to_owned(),
            format!(
                r#"{{"actor_id":"alice","audit_id":"019b2bfe-95bf","decision":"proceed","job_id":"deploy","reason":"<REDACTED_WORDS> bob",{tally}}}"#
            ),
        ),
        (
            Kind::IncidentEvent,
            r#"{"actor_id":"alice","event":"acknowledged","incident_id":"019b2bfe-95bf","reason":"asked bob"}"#.to_owned(),
            format!(
                r#"{{"actor_id":"alice","event":"acknowledged","incident_id":"019b2bfe-95bf","reason":"<REDACTED_WORDS> bob",{tally}}}"#
            ),
        ),
        (
            Kind::IncidentEvent,
            r#"{"event":"opened","incident_id":"019b2bfe-95bf","severity":"HIGH","summary":"of alice"}"#.to_owned(),
            format!(
                r#"{{"event":"opened","incident_id":"019b2bfe-95bf",{tally},"severity":"HIGH","summary":"of <REDACTED_WORDS>"}}"#
            ),
        ),
        (
            Kind::GovernanceSignal,
            r#"{"scope":"a","signal_id":"019b2bfe-95bf-7585-8161-443830434726"}"#.to_owned(),
            r#"{"scope":"a","signal_id":"019b2bfe-95bf-7585-8161-443830434726"}"#.to_owned(),
        ),
    ] {
        assert_eq!(stored(kind, &sent), kept, "{kind:?}");
    }
}

#[test]
fn a_text_is_redacted_as_it_would_be_under_its_name() {
    let rules = rules(r#"{"fields":["reason"],"patterns":[{"name":"words","pattern":"[a-z]{5,}"}]}"#);
    assert_eq!(rules.text_under("reason", "asked bob"), FIELD_MARKER);
    assert_eq!(rules.text_under("reason", ""), "");
    assert_eq!(
        rules.text_under("action_reason", "asked bob"),
        "<REDACTED_WORDS> bob"
    );
    assert_eq!(rules.text_under("action_reason", "bob"), "bob");
    let body = br#"{"a":"<REDACTED_WORDS> bob"}"#.to_vec();
    let once = counted(body);
    assert_eq!(
        String::from_utf8(once.clone()).unwrap(),
        r#"{"a":"<REDACTED_WORDS> bob","redactions":{"count":1,"patterns":["words"]}}"#
    );
    assert_eq!(counted(once.clone()), once);
    assert_eq!(counted(b"{}".to_vec()), b"{}");
}

#[test]
fn settings_that_cannot_hold_are_refused() {
    let long = "x".repeat(PATTERN_BYTES_MAX + 1);
    for (json, part) in [
        ("[]".to_owned(), "object"),
        (r#"{"more":1}"#.to_owned(), "unknown field"),
        (r#"{"fields":["a b"]}"#.to_owned(), "without spaces"),
        (r#"{"fields":[""]}"#.to_owned(), "1 to 64"),
        (r#"{"off":["mail"]}"#.to_owned(), "email"),
        (r#"{"patterns":[{"name":"x"}]}"#.to_owned(), "name and pattern"),
        (r#"{"patterns":[{"name":"X","pattern":"x"}]}"#.to_owned(), "a-z"),
        (
            r#"{"patterns":[{"name":"field","pattern":"x"}]}"#.to_owned(),
            "field",
        ),
        (
            r#"{"patterns":[{"name":"x","pattern":"("}]}"#.to_owned(),
            "unclosed",
        ),
        (
            r#"{"patterns":[{"name":"x","pattern":"(?=a)"}]}"#.to_owned(),
            "look-around",
        ),
        (
            r#"{"patterns":[{"name":"x","pattern":"a*"}]}"#.to_owned(),
            "empty text",
        ),
        (
            r#"{"patterns":[{"name":"x","pattern":"((a{1,99}){1,99}){1,99}"}]}"#.to_owned(),
            "too large",
        ),
        (
            format!(r#"{{"patterns":[{{"name":"x","pattern":"{long}"}}]}}"#),
            "500",
        ),
    ] {
        let value = canonical::parse(json.as_bytes(), Limits::default()).unwrap();
        let error = RedactionSettings::read(&value).unwrap_err().to_string();
        assert!(error.contains(part), "{json}: {error}");
    }
}
