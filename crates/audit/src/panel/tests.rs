use super::*;

fn checked(json: &str) -> Result<PanelReport, String> {
    let panel = Panel::parse(json.as_bytes()).map_err(|error| error.to_string())?;
    check(&panel).map_err(|error| error.to_string())
}

fn ruled(signals: &str, condition: &str) -> Result<bool, String> {
    let condition = serde_json::to_string(condition).unwrap();
    checked(&format!(
        r#"{{"panel_id":"p","slots":[{{"slot_id":"s","signals":{signals}}}],
        "rules":[{{"id":"R","name":"r","signal_a":"a","signal_b":"b","condition":{condition}}}]}}"#
    ))
    .map(|report| report.is_consistent())
}

#[test]
fn the_built_in_rules_compile() {
    assert_eq!(Rule::defaults().len(), 4);
}

#[test]
fn attention_is_exactly_true() {
    let attention = |value: &str| {
        checked(&format!(
            r#"{{"slots":[{{"slot_id":"s","signals":{{"active_incidents":2,"attention_required":{value}}}}}]}}"#
        ))
        .unwrap()
        .is_consistent()
    };
    assert!(attention("true"));
    assert!(!attention("1"));
    assert!(!attention("\"true\""));
    assert!(attention("null"), "a null signal skips the rule");
}

#[test]
fn a_signal_with_two_values_is_found_before_the_rules() {
    let report = checked(
        r#"{"slots":[{"slot_id":"A","signals":{"active_incidents":1,"x":1}},
        {"slot_id":"B","signals":{"x":true,"active_incidents":1.0,"attention_required":false}}]}"#,
    )
    .unwrap();
    let ids: Vec<&str> = report
        .violations
        .iter()
        .map(|found| found.rule_id.as_str())
        .collect();
    assert_eq!(ids, ["CONS-DUP", "CONS-001"]);
    assert_eq!(report.violations[0].slots, ["A", "B"]);
    assert_eq!(report.violations[0].expected, "x = 1");
}

#[test]
fn cel_compares_numbers_of_both_kinds_and_texts_with_anything() {
    assert_eq!(
        ruled(r#"{"a":3,"b":3.0}"#, "signal_a >= 3 && signal_b < 3.5"),
        Ok(true)
    );
    assert_eq!(
        ruled(r#"{"a":3,"b":"x"}"#, "signal_b == 'x' && signals['a'] == 3"),
        Ok(true)
    );
    assert_eq!(
        ruled(r#"{"a":3,"b":"x"}"#, "signal_a == signal_b || a == 4"),
        Ok(false)
    );
    assert_eq!(
        ruled(r#"{"a":0.5,"b":true}"#, "signal_a > 0 implies signal_b == True"),
        Ok(true)
    );
    assert_eq!(
        ruled(
            r#"{"a":11,"b":"C"}"#,
            "signal_a > 10 implies signal_b == 'A implies B'"
        ),
        Ok(false)
    );
}

#[test]
fn what_cannot_be_evaluated_is_an_error_and_no_pass() {
    let signals = r#"{"a":"0","b":true}"#;
    for condition in [
        "signal_a > 0 implies signal_b == True",
        "signal_a > 0",
        "unknown == 1",
        "signals['absent'] == 1",
        "signal_b + 1 == 2",
        "size(signal_a)",
        "signal_a >",
        "",
        "[1, 2].exists(x, x == 2)",
        "[1, 2].all(x, x > 0)",
        "signal_b == True implies signal_b == True implies signal_b == True",
        "nothing(signal_a)",
        // What is not reached is looked at all the same.
        "signal_a == 'x' implies unknown == 1",
        "signal_a == 'x' implies nothing(signal_b) == 1",
        "signal_b == true || nothing(signal_a)",
        "signal_b == true || unknown > 0",
        "signal_b == false && signal_a.nothing()",
        // One side of an operator does not hide what is wrong with the other.
        "signal_a > 0 || signal_b == true",
        "!(signal_a > 0 && signal_b == false)",
        // Nor below the top.
        "(signal_a > 0 || signal_b) == true",
        "(signal_a > 0 || true) ? true : false",
        "[signal_a > 0 || true][0]",
        "{'k': signal_a > 0 || true}['k']",
        "string(signal_a > 0 || true) == 'true'",
        "(signal_a > 0 || signal_b) == true implies signal_b == true",
        "(signal_a > 0 && !signal_b) == false",
        "(signal_b && (signal_a > 0 && false)) == false",
        // What stands beside an operator must be a truth value.
        "(signal_b && 'x') == 'x'",
        "(false || 3) == 3",
    ] {
        assert!(ruled(signals, condition).is_err(), "{condition}");
    }
}

#[test]
fn operators_and_guards_work_wherever_they_stand() {
    let signals = r#"{"a":"n/a","b":false}"#;
    for (condition, answer) in [
        // The right side is not reached.
        ("signal_a == 'n/a' || signal_a > 0", true),
        ("(signal_a == 'n/a' || signal_a > 0) == true", true),
        ("(signal_b && signal_a > 0) == false", true),
        ("signal_b ? signal_a > 0 : true", true),
        ("[signal_b || true, signal_b && true] == [true, false]", true),
        ("(signal_b || signal_b || signal_b) == signal_b", true),
        ("!(signal_b || false) && (true && true || false)", true),
        ("(signal_b || false) == true", false),
    ] {
        assert_eq!(ruled(signals, condition), Ok(answer), "{condition}");
    }
}

#[test]
fn truth_values_may_have_capitals_outside_of_quotes() {
    let signals = r#"{"a":"a True b","b":true}"#;
    for condition in [
        "signal_a != '' implies (signal_b == True)",
        "signal_a != '' implies signal_b==True",
        "signal_b == False implies signal_b == True",
        "signal_a != '' implies signal_a == 'a True b'",
        "signal_a == 'a True b' implies True",
        "signal_b == True && !False",
    ] {
        assert_eq!(ruled(signals, condition), Ok(true), "{condition}");
    }
    assert_eq!(ruled(signals, "signal_a == 'a true b'"), Ok(false));
    // A signal of that name is what its name says.
    let named = r#"{"a":1,"b":1,"True":false,"False":"x"}"#;
    assert_eq!(ruled(named, "True"), Ok(false));
    assert_eq!(ruled(named, "False == 'x' && !True"), Ok(true));
    assert_eq!(ruled(named, "signals['True'] == True"), Ok(true));
    assert_eq!(ruled(named, "signal_a == 1 implies True"), Ok(false));
}

#[test]
fn a_violation_of_a_rule_without_sides_says_what_its_condition_names() {
    let found = |condition: &str| {
        let report = checked(&format!(
            r#"{{"slots":[{{"slot_id":"A","signals":{{"x":1,"n.y":2,"z":3}}}},{{"slot_id":"B","signals":{{"t":4,"u":5,"v":6}}}}],
            "rules":[{{"id":"R","condition":"{condition}"}}]}}"#
        ))
        .unwrap();
        let violation = report.violations.into_iter().next().unwrap();
        (violation.slots.join(" "), violation.actual)
    };
    let said = |slots: &str, actual: &str| (slots.to_owned(), actual.to_owned());
    assert_eq!(found("x > 1 && t == 4"), said("B A", "t = 4, x = 1"));
    assert_eq!(found("signals['n.y'] == 1"), said("A", "n.y = 2"));
    assert_eq!(
        found("x + z + t + u + v + signals['n.y'] == 0"),
        said("A B", "n.y = 2, t = 4, u = 5, v = 6, x = 1, 1 more")
    );
}

#[test]
fn a_report_is_not_many_times_as_long_as_its_panel() {
    let long = "\\\\".repeat(2_040);
    let (condition, slot) = ("a + b + c + d + e == ''", "s".repeat(256));
    let of = |sides: &str, condition: &str, slot: &str| {
        let rules = format!(r#"{{"id":"R",{sides}"condition":"{condition}"}}"#);
        format!(
            r#"{{"slots":[{{"slot_id":"{slot}","signals":{{"a":"{long}","b":"{long}","c":"{long}","d":"{long}","e":"{long}"}}}},
            {{"slot_id":"B","signals":{{"a":"é"}}}}],"rules":[{}]}}"#,
            vec![rules.as_str(); 1_000].join(",")
        )
    };
    let sides = r#""signal_a":"a","signal_b":"b","#;
    for (sides, condition) in [("", condition), (sides, "signal_a + signal_b == ''")] {
        let report = checked(&of(sides, condition, &slot)).unwrap();
        assert_eq!(report.violations.len(), 1_001);
        let answer = to_vec(&report.to_value("p"));
        assert!(answer.len() < 3 << 20, "{} bytes", answer.len());
    }
    let report = checked(&of("", condition, &slot)).unwrap();
    let begin = &report.violations[0].expected;
    assert!(begin.starts_with("a = \"\\") && begin.ends_with("\\…"), "{begin}");
    assert_eq!(report.violations[0].actual, "a = \"é\"");
    assert!(checked(&of("", condition, &"s".repeat(257))).is_err());
    assert!(checked(&of("", condition, "\\n")).is_err());
}

#[test]
fn a_value_is_cut_between_two_letters() {
    for (letters, whole) in [(99, true), (100, false)] {
        let value = Value::from("é".repeat(letters));
        assert_eq!(!shown("x", &value).contains('…'), whole, "{letters}");
    }
}

#[test]
fn every_function_that_may_be_called_is_there() {
    let calls = [
        "bool('true')",
        "bytes('x') == b'x'",
        "'xyz'.contains('y')",
        "double(1) == 1.0",
        "dyn(1) == 1",
        "'xyz'.endsWith('z')",
        "int('1') == 1",
        "size('xyz') == 3",
        "'xyz'.startsWith('x')",
        "string(1) == '1'",
        "type(1) == type(2)",
        "uint(1) == 1u",
    ];
    assert_eq!(calls.len(), rule::FUNCTIONS.len());
    for (call, name) in calls.iter().zip(rule::FUNCTIONS) {
        assert!(call.contains(&format!("{name}(")), "{call}");
        assert_eq!(ruled(r#"{"a":1,"b":1}"#, call), Ok(true), "{call}");
    }
}

#[test]
fn a_condition_is_bounded_in_length_nodes_and_depth() {
    let signals = r#"{"a":1,"b":1}"#;
    let deep = format!("{}signal_a == 1{}", "(".repeat(500), ")".repeat(500));
    assert!(ruled(signals, &deep).is_err());
    assert_eq!(
        ruled(signals, &format!("{}true", "!".repeat(1_500))),
        Ok(true),
        "no depth: pairs cancel"
    );
    assert!(ruled(signals, &format!("{}1 == 1", "true ? true : ".repeat(140))).is_err());
    assert!(ruled(signals, &format!("signals{} == 1", ".a".repeat(900))).is_err());
    assert!(ruled(signals, &vec!["signal_a == 1"; 120].join(" && ")).is_err());
    assert!(ruled(signals, &" ".repeat(3_000)).is_err());
    assert!(ruled(&format!(r#"{{"a":"{}","b":1}}"#, "x".repeat(5_000)), "true").is_err());
}

#[test]
fn a_warning_leaves_the_panel_consistent() {
    let report = checked(
        r#"{"slots":[{"slot_id":"s","signals":{"a":1}}],
        "rules":[{"id":"W","signal_a":"a","condition":"signal_a == 2","severity":"WARNING"}]}"#,
    )
    .unwrap();
    assert!(report.is_consistent());
    assert_eq!(report.warnings.len(), 1);
}

#[test]
fn rules_without_id_or_with_unknown_members_are_refused_and_no_rules_are_none() {
    let with = |rules: &str| {
        checked(&format!(
            r#"{{"slots":[{{"slot_id":"s","signals":{{"active_incidents":2,"attention_required":false}}}}],"rules":{rules}}}"#
        ))
    };
    assert!(with("[]").unwrap().is_consistent());
    assert!(!with("null").unwrap().is_consistent());
    assert!(with(r#"[{"condition":"true"}]"#).is_err());
    assert!(with(r#"[{"id":"x"}]"#).is_err());
    assert!(with(r#"[{"id":"x","condition":"true","severity":"FATAL"}]"#).is_err());
    assert!(with(r#"[{"id":"x","condition":"true","extra":1}]"#).is_err());
}

#[test]
fn two_implies_that_share_a_space_are_an_error() {
    assert!(ruled(r#"{"a":1}"#, "signal_a implies implies signal_a").is_err());
}

proptest::proptest! {
    /// Whatever is written as a condition, and whatever the signals are, there is an answer.
    #[test]
    fn no_condition_panics(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "signal_a", "signal_b", "signals", "a", "true", "null", "1", "-9223372036854775808", "0u", "1.5e300",
                "'x'", "\"é\"", "b'y'", "[", "]", "(", ")", "{", "}", ".", ",", "?", ":", "!", "-", "+", "*", "/", "%",
                "==", "!=", "<", ">=", "&&", "||", "in", "size", "has", "all", "implies", "True", "string", "int",
                "matches", "duration", "'\\", "0x", "//", "`",
            ]),
            0..24,
        ),
        glue in proptest::bool::ANY,
        text in "\\PC{0,40}",
    ) {
        let condition = words.join(if glue { " " } else { "" });
        let _ = ruled(r#"{"a":1,"b":["x",{"y":null}]}"#, &condition);
        let _ = ruled(r#"{"a":"x","b":-1.5}"#, &text);
    }
}

#[test]
fn signals_are_found_by_name_whatever_else_the_condition_does_with_them() {
    // The second form of each names the whole of `signals` beside.
    for (condition, answer) in [
        ("signals['a'] == 3", Ok(true)),
        ("'a' in signals && !('absent' in signals)", Ok(true)),
        ("'absent' in signals", Ok(false)),
        ("signals.a == 3 && signals['b'] == 'x'", Ok(true)),
        ("signals[signal_b] == 7", Ok(true)),
        ("signals['absent'] == 3", Err(())),
        ("signals.absent == 3", Err(())),
        ("signals['x']['y'] == 7", Err(())),
        ("{'k': signals['a']}['k'] == 3 && [signals.x][0] == 7", Ok(true)),
        ("size(signals) == 3", Ok(true)),
    ] {
        let signals = r#"{"a":3,"b":"x","x":7}"#;
        for condition in [
            condition.to_owned(),
            format!("size(signals) == 3 && ({condition})"),
        ] {
            assert_eq!(ruled(signals, &condition).map_err(|_| ()), answer, "{condition}");
        }
    }
}
