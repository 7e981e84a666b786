//! Where a secret could hide from the look that says whether there is any.

use super::*;

#[test]
fn nothing_hides_where_stretches_meet() {
    let secrets = [
        "ada@example.com",
        "Bearer abcdefghijklmnopqrst1",
        "4111111111111111",
        "4111-1111-1111-1111",
        "4222222222222",
        "123-45-6789",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "ABIAIOSFODNN7EXAMPLE",
        "ACCAIOSFODNN7EXAMPLE",
        "ghp_abcdefghij0123456789",
        "github_pat_abcdefghij0123456789",
        "xoxb-1234567890-abcdefghij",
        "xapp-1234567890-abcdefghij",
        "-----BEGIN RSA PRIVATE KEY-----",
        r#"{"password":"hunter2"}"#,
        "{\"password\"\n : {\"is\":\"hunter2\"}}",
        "{'password' : 'hunter2'}",
        "<REDACTED_EMAIL>",
        "\u{1}4111111111111111",
        "\n4111111111111111",
    ];
    let rules = Redactor::standard();
    for secret in secrets {
        for before in 0..100 {
            for after in [0, 1, 60] {
                let text = format!("{} {secret} {}", ". ".repeat(before), "- ".repeat(after));
                // One byte further than the pairs are.
                for text in [text.clone(), format!("x{text}")] {
                    let sent = canonical::to_vec(&Value::object([("v", Value::from(text))]));
                    assert!(rules.suspects(&sent), "{}", String::from_utf8_lossy(&sent));
                }
            }
        }
    }
}

#[test]
fn characters_written_by_their_number_hide_nothing() {
    // Of JSON within text, as others write it: Python's `json.dumps` writes all that is not ASCII so.
    for hidden in [
        r#"{"a":"SSN:\u00a0123-45-6789"}"#,
        r#"{"a":"card\u00a04111 1111 1111 1111"}"#,
        r#"{"a":"card\u20134111111111111111"}"#,
        r#"{"a":"\u201cAKIAIOSFODNN7EXAMPLE\u201d"}"#,
        r#"{"a":"\u201cghp_abcdefghij0123456789\u201d"}"#,
        r#"{"a":"\u201cBearer abcdefghijklmnopqrstuvwx1\u201d"}"#,
        r#"{"a":"ada@m\u00fcller.de"}"#,
        r#"{"a":"\u2019.4111111111111111"}"#,
    ] {
        for text in [hidden.to_owned(), format!("{}{hidden}", ". ".repeat(20))] {
            let sent = canonical::to_vec(&Value::object([("v", Value::from(text))]));
            assert!(
                Redactor::standard().suspects(&sent),
                "{}",
                String::from_utf8_lossy(&sent)
            );
        }
        // Amid prose and cut off it is no JSON, and looked through as it stands.
        for text in [
            hidden.to_owned(),
            format!("it said {}", &hidden[..hidden.len() - 1]),
        ] {
            let is_cut = !text.ends_with('}');
            let kept = body(&serde_json::json!({"v": text}).to_string());
            assert!(
                kept.contains("<REDACTED_") || is_cut && hidden.contains("ller.de"),
                "{kept}"
            );
        }
    }
}

#[test]
fn digits_before_it_in_its_word_hide_no_token() {
    for hidden in ["0ghp_abcdefghij0123456789", "token%3Dghp_abcdefghij0123456789"] {
        assert!(text(hidden).contains("<REDACTED_GITHUB_TOKEN>"), "{hidden}");
        assert!(body(&format!(r#"{{"v":"{hidden}"}}"#)).contains("<REDACTED_GITHUB_TOKEN>"));
    }
}

#[test]
fn a_domain_that_begins_with_a_hyphen_and_a_form_feed_behind_a_name_hide_nothing() {
    assert_eq!(
        body(r#"{"v":"ada@-example.com"}"#),
        r#"{"redactions":{"count":1,"patterns":["email"]},"v":"<REDACTED_EMAIL>"}"#
    );
    let kept = body(r#"{"v":"\"password\"\f: \"hunter2hunter2\""}"#);
    assert!(!kept.contains("hunter2"), "{kept}");
}

#[test]
fn what_ends_a_name_in_json_within_text_may_stand_on_the_next_line() {
    let kept = text("{\"password\"\n: {\"is\": [\"hunter2\", 5]}}");
    assert_eq!(
        kept, r#"{"password":{"is":["<REDACTED>",5]}}"#,
        "redacted as JSON, not as text"
    );
}

#[test]
fn json_within_text_of_more_values_than_are_read_is_looked_through_too() {
    for values in [1_000, 500_000] {
        let zeros = "0,".repeat(values);
        let sent = format!(r#"{{"n":[{zeros}0],"password":"hunter2","credentials":{{"user":["u"]}}}}"#);
        let stored = text(&sent);
        assert!(stored.starts_with('{') && stored.len() > 2 * values);
        assert!(
            !stored.contains("hunter2") && !stored.contains(r#""u""#),
            "{values}"
        );
    }
}
