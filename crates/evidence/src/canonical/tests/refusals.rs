//! What is read, what is refused, and how the refusal reads.

use super::*;

#[test]
fn every_control_character_has_its_canonical_escape() {
    for code in 0_u8..=0x1f {
        let text = char::from(code).to_string();
        let expected = match code {
            8 => "\\b".to_owned(),
            9 => "\\t".to_owned(),
            10 => "\\n".to_owned(),
            12 => "\\f".to_owned(),
            13 => "\\r".to_owned(),
            _ => format!("\\u{code:04x}"),
        };
        assert_eq!(
            to_vec(&text.as_str().into()),
            format!("\"{expected}\"").into_bytes()
        );
    }
    assert_eq!(
        to_vec(&"\u{7f}/\u{2028}".into()),
        "\"\u{7f}/\u{2028}\"".as_bytes()
    );
}

#[test]
fn integers_up_to_2_53_minus_1_are_kept() {
    assert_eq!(read("9007199254740991"), Ok(Value::Int(INTEGER_MAX)));
    assert_eq!(read("-9007199254740991.0"), Ok(Value::Int(-INTEGER_MAX)));
    assert_eq!(read("9.007199254740991e15"), Ok(Value::Int(INTEGER_MAX)));
}

#[test]
fn integers_beyond_2_53_minus_1_are_refused_however_written() {
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "9007199254740993.0",
        "1e20",
        "-9.99e20",
        "18446744073709551616",
    ] {
        assert_eq!(refusal(text), JsonErrorKind::UnsafeInteger, "{text}");
    }
    assert_eq!(refusal(&"9".repeat(400)), JsonErrorKind::UnsafeInteger);
}

#[test]
fn integers_beyond_2_53_minus_1_are_written_as_strings() {
    assert_eq!(to_vec(&Value::Int(i64::MIN)), b"\"-9223372036854775808\"");
    assert_eq!(to_vec(&Value::from(u64::MAX)), b"\"18446744073709551615\"");
    assert_eq!(Value::from(1_u64 << 53), Value::from("9007199254740992"));
}

#[test]
fn doubles_from_1e21_stay_numbers() {
    assert_eq!(canonical("1e21"), "1e+21");
    assert_eq!(canonical("-1.50E300"), "-1.5e+300");
}

#[test]
fn a_number_too_large_for_a_double_is_refused() {
    for text in ["1e400", "-1e309", "1e99999999999999999999"] {
        assert_eq!(refusal(text), JsonErrorKind::NumberOverflow, "{text}");
    }
}

#[test]
fn one_number_has_one_form() {
    for text in ["-0", "0", "-0.0", "0e5", "1e-400", "-1e-99999999999"] {
        assert_eq!(canonical(text), "0", "{text}");
    }
    for text in ["1", "1.0", "1e0", "0.1e1", "10E-1", "1.000"] {
        assert_eq!(read(text), Ok(Value::Int(1)), "{text}");
    }
}

#[test]
fn duplicate_keys_are_refused_after_unescaping() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"b":1,"a":1,"b":2}"#,
        r#"{"":0,"":0}"#,
    ] {
        assert_eq!(refusal(text), JsonErrorKind::DuplicateKey, "{text}");
    }
    let error = read(r#"{"x":[{"a":1,"a":2}]}"#).unwrap_err();
    assert_eq!((error.offset(), error.path().as_str()), (13, "/x/0/a"));
    assert_eq!(error.class(), JsonErrorClass::IJson);
}

#[test]
fn lone_surrogates_are_refused() {
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#""\ud800\ud800""#,
        r#"{"\udead":1}"#,
    ] {
        assert_eq!(refusal(text), JsonErrorKind::LoneSurrogate, "{text}");
    }
    assert_eq!(read(r#""\uD83D\uDE00\ud834\udd1e""#), Ok("😀𝄞".into()));
}

#[test]
fn what_is_no_json_is_a_syntax_error() {
    for text in [
        "",
        " ",
        "nul",
        "nulll",
        "True",
        "NaN",
        "Infinity",
        "-Infinity",
        "-",
        "+1",
        "01",
        "-01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "1 2",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[",
        "[1",
        "]",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{\"a\" 1}",
        "'a'",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\\u\"",
        "\"\n\"",
        "\"\u{0}\"",
        "\"\u{1f}\"",
        "\u{feff}1",
        "1\u{a0}",
        "/**/1",
        "{}x",
        "[}",
        "\u{b}1",
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.class(), JsonErrorClass::Syntax, "{text:?}: {error}");
        assert!(error.offset() <= text.len());
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"\"\xed\xa0\x80\"",
        b"\"\xc0\x80\"",
        b"\xef\xbb\xbf1",
        b"\"\xf4\x90\x80\x80\"",
    ] {
        assert_eq!(
            parse(bytes, Limits::default()).unwrap_err().class(),
            JsonErrorClass::Syntax
        );
    }
}

#[test]
fn space_around_tokens_means_nothing() {
    assert_eq!(
        canonical(" \t\r\n{ \"b\" : [ 1 , 2 ] , \"a\" : { } } \n"),
        r#"{"a":{},"b":[1,2]}"#
    );
}

#[test]
fn depth_is_limited() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(read(&nested(128)).is_ok());
    assert_eq!(refusal(&nested(129)), JsonErrorKind::TooDeep);
    assert_eq!(refusal(&"[".repeat(1_000_000)), JsonErrorKind::TooDeep);
    assert_eq!(refusal(&"{\"a\":".repeat(1_000_000)), JsonErrorKind::TooDeep);
    let greedy = Limits {
        depth_max: u16::MAX,
        ..Limits::default()
    };
    assert!(parse(nested(DEPTH_CEILING.into()).as_bytes(), greedy).is_ok());
    assert!(parse(nested(1 + usize::from(DEPTH_CEILING)).as_bytes(), greedy).is_err());
    let flat = Limits {
        depth_max: 0,
        ..Limits::default()
    };
    assert!(parse(b"1", flat).is_ok());
    assert_eq!(parse(b"[]", flat).unwrap_err().class(), JsonErrorClass::Limit);
    assert!(
        read(&format!("[{}]", vec!["[]"; 1000].join(","))).is_ok(),
        "siblings are not depth"
    );
}

#[test]
fn values_are_counted() {
    let limits = Limits {
        nodes_max: 4,
        ..Limits::default()
    };
    assert!(parse(b"[1,2,3]", limits).is_ok());
    assert!(parse(br#"{"a":{"b":[1]}}"#, limits).is_ok());
    assert_eq!(
        parse(b"[1,2,3,4]", limits).unwrap_err().kind(),
        JsonErrorKind::TooManyNodes
    );
    assert_eq!(
        parse(
            b"1",
            Limits {
                nodes_max: 0,
                ..limits
            }
        )
        .unwrap_err()
        .kind(),
        JsonErrorKind::TooManyNodes
    );
}

#[test]
fn an_error_is_one_line_that_names_the_place() {
    let error = read("{\"a/b~\":{\"c\\n\":[0,1e17]}}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "integer beyond ±(2^53-1) at byte 18 in /a~1b~0/c\\n/1"
    );
    assert_eq!(
        read("[1").unwrap_err().to_string(),
        "unexpected end of text at byte 2"
    );
    let text = "{\"ä\":\n [\"ä\", x]}";
    let error = read(text).unwrap_err();
    assert_eq!(error.line_and_column(text.as_bytes()), (2, 8));
    assert_eq!(error.reason(), "expected a value in /ä/1");
    let long = format!("{{\"{}\":x}}", "k".repeat(1000));
    assert_eq!(read(&long).unwrap_err().path().len(), 65);
}

#[test]
fn a_member_takes_the_56_bytes_that_the_limits_count_on() {
    assert_eq!(size_of::<(String, Value)>(), 56);
}
