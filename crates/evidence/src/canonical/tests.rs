//! Golden vectors of RFC 8785, one claim per rule, and the laws.

use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<Value, JsonError> {
    parse(text.as_bytes(), Limits::default())
}

fn refusal(text: &str) -> JsonErrorKind {
    read(text).expect_err(text).kind()
}

fn canonical(text: &str) -> String {
    String::from_utf8(canonicalize(text.as_bytes(), Limits::default()).expect(text)).unwrap()
}

fn number_text(number: f64) -> String {
    String::from_utf8(to_vec(&Value::from(Finite::new(number).unwrap()))).unwrap()
}

/// RFC 8785, appendix B. Where the RFC writes an integer beyond 2^53−1, the text here is quoted.
#[test]
fn numbers_are_written_as_the_table_of_the_rfc_says() {
    for (bits, text) in [
        (0x0000_0000_0000_0000, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "\"9007199254740992\""),
        (0xc340_0000_0000_0000, "\"-9007199254740992\""),
        (0x4430_0000_0000_0000, "\"295147905179352830000\""),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
        (0x444b_1ae4_d6e2_ef4e, "\"999999999999999700000\""),
        (0x444b_1ae4_d6e2_ef4f, "\"999999999999999900000\""),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0x41b3_de43_5555_5554, "333333333.33333325"),
        (0x41b3_de43_5555_5555, "333333333.3333333"),
        (0x41b3_de43_5555_5556, "333333333.3333334"),
        (0x41b3_de43_5555_5557, "333333333.33333343"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ] {
        assert_eq!(number_text(f64::from_bits(bits)), text, "{bits:016x}");
    }
    for bits in [
        0x7fff_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
    ] {
        assert_eq!(Finite::new(f64::from_bits(bits)), None);
    }
}

/// RFC 8785, sections 3.2.2 to 3.2.4.
#[test]
fn the_example_of_the_rfc_has_the_bytes_of_the_rfc() {
    let text = r#"{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"#;
    let expected = [
        "7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72",
        "75 65 2c 66 61 6c 73 65 5d 2c 22 6e 75 6d 62 65 72 73 22 3a",
        "5b 33 33 33 33 33 33 33 33 33 2e 33 33 33 33 33 33 33 2c 31",
        "65 2b 33 30 2c 34 2e 35 2c 30 2e 30 30 32 2c 31 65 2d 32 37",
        "5d 2c 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30",
        "30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d",
    ];
    let hex: Vec<String> = canonical(text)
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex.join(" "), expected.join(" "));
}

/// RFC 8785, section 3.2.3.
#[test]
fn keys_are_ordered_by_utf16_code_units() {
    let text = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh",
        "1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let value = read(text).unwrap();
    let names: Vec<_> = value
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(_, name)| name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "Carriage Return",
            "One",
            "Control",
            "Latin Small Letter O With Diaeresis",
            "Euro Sign",
            "Emoji: Grinning Face",
            "Hebrew Letter Dalet With Dagesh",
        ]
    );
    assert!(to_vec(&value).starts_with(b"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\xc2\x80\":"));
}

/// The test data published with RFC 8785.
#[test]
fn the_french_words_keep_the_order_of_code_units_not_of_the_language() {
    assert_eq!(
        canonical(
            r#"{"peach":"This sorting order","péché":"is wrong according to French","pêche":"but canonicalization MUST","sin":"ignore locale"}"#
        ),
        r#"{"peach":"This sorting order","péché":"is wrong according to French","pêche":"but canonicalization MUST","sin":"ignore locale"}"#
    );
}

/// The test data published with RFC 8785: arrays, structures, unicode, weird.
#[test]
fn the_published_vectors_come_out_as_published() {
    for (text, expected) in [
        (
            "[56,{\"d\":true,\"10\":null,\"1\":[]}]",
            "[56,{\"1\":[],\"10\":null,\"d\":true}]",
        ),
        (
            "{\"1\":{\"f\":{\"f\":\"hi\",\"F\":5},\"\\n\":56.0},\"10\":{},\"\":\"empty\",\"a\":{},\"111\":[{\"e\":\"yes\",\"E\":\"no\"}],\"A\":{}}",
            "{\"\":\"empty\",\"1\":{\"\\n\":56,\"f\":{\"F\":5,\"f\":\"hi\"}},\"10\":{},\"111\":[{\"E\":\"no\",\"e\":\"yes\"}],\"A\":{},\"a\":{}}",
        ),
        (
            "{\"Unnormalized Unicode\":\"A\\u030a\"}",
            "{\"Unnormalized Unicode\":\"A\u{30a}\"}",
        ),
        (
            "{\"\\u20ac\":1,\"\\r\":2,\"\\u000a\":3,\"1\":4,\"\\u0080\":5,\"\\ud83d\\ude02\":6,\"\\u00f6\":7,\"\\ufb33\":8,\"</script>\":9}",
            "{\"\\n\":3,\"\\r\":2,\"1\":4,\"</script>\":9,\"\u{80}\":5,\"ö\":7,\"€\":1,\"😂\":6,\"\u{fb33}\":8}",
        ),
    ] {
        assert_eq!(canonical(text), expected);
    }
}

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
    let long = format!("{{\"{}\":x}}", "k".repeat(1000));
    assert_eq!(read(&long).unwrap_err().path().len(), 65);
}

#[test]
fn an_object_keeps_its_order_under_insert_and_remove() {
    let mut value = Value::object([("b", 1), ("😀", 2), ("a", 3), ("\u{fb33}", 4), ("a", 5)]);
    assert_eq!(
        to_vec(&value),
        "{\"a\":5,\"b\":1,\"😀\":2,\"\u{fb33}\":4}".as_bytes()
    );
    assert_eq!(value.insert("aa", "x"), None);
    assert_eq!(value.insert("b", Value::Null), Some(Value::Int(1)));
    assert_eq!(value.remove("😀"), Some(Value::Int(2)));
    assert_eq!(value.remove("😀"), None);
    assert_eq!(value.get("aa").and_then(Value::as_str), Some("x"));
    assert!(value.get("b").is_some_and(Value::is_null));
    assert_eq!(
        to_vec(&value),
        "{\"a\":5,\"aa\":\"x\",\"b\":null,\"\u{fb33}\":4}".as_bytes()
    );
}

#[test]
fn members_out_of_order_are_ordered_while_writing() {
    let member = |key: &str, number: i64| (key.to_owned(), Value::Int(number));
    let value = Value::Object(vec![member("b", 1), member("a", 2), member("b", 3)]);
    assert_eq!(to_vec(&value), br#"{"a":2,"b":3}"#);
}

#[test]
fn only_the_canonical_form_is_canonical() {
    assert!(is_canonical(br#"{"a":[1,2.5,"x"],"b":null}"#));
    for text in [
        r#"{"b":0,"a":0}"#,
        "1.0",
        " 1",
        "-0",
        r#""\u0041""#,
        r#""\/""#,
        "1E+21",
        "{",
        r#"{"a":0,"a":0}"#,
    ] {
        assert!(!is_canonical(text.as_bytes()), "{text}");
    }
}

#[test]
fn a_hash_is_lower_case_hexadecimal() {
    assert_eq!(
        sha256_hex(b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn the_writer_places_commas() {
    let mut out = b"kept".to_vec();
    Writer::new(&mut out)
        .open_object()
        .key("a")
        .open_array()
        .close_array()
        .key("b")
        .open_array()
        .i64(-1)
        .u64(u64::MAX)
        .f64(Finite::new(0.5).unwrap())
        .f64(Finite::new(1e20).unwrap())
        .open_object()
        .close_object()
        .bool(true)
        .null()
        .close_array()
        .string_opt("c", None)
        .string_opt("d", Some("\"\n\u{1}é"))
        .key_any("e\"")
        .raw(b"[1]")
        .key("f")
        .value(&Value::object([("x", 1)]))
        .key("g")
        .hex(&[0, 0xff])
        .key("h")
        .time(crate::time::Timestamp::UNIX_EPOCH)
        .close_object();
    let text = String::from_utf8(out).unwrap();
    let json = text.strip_prefix("kept").unwrap();
    assert_eq!(
        json,
        "{\"a\":[],\"b\":[-1,\"18446744073709551615\",0.5,\"100000000000000000000\",{},true,null],\"d\":\"\\\"\\n\\u0001é\",\
         \"e\\\"\":[1],\"f\":{\"x\":1},\"g\":\"00ff\",\"h\":\"1970-01-01T00:00:00.000000Z\"}"
    );
    assert!(is_canonical(json.as_bytes()));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "must not follow")]
fn the_writer_asserts_ascending_keys() {
    Writer::new(&mut Vec::new())
        .open_object()
        .key("b")
        .null()
        .key("a");
}

#[test]
fn serde_json_values_go_both_ways() {
    let json = serde_json::json!({"b": [1, -2.5, null], "a": {"ö": "x", "n": 1.0, "big": 1e30}});
    let value = from_serde(&json).unwrap();
    assert_eq!(
        to_vec(&value),
        r#"{"a":{"big":1e+30,"n":1,"ö":"x"},"b":[1,-2.5,null]}"#.as_bytes()
    );
    assert_eq!(from_serde(&to_serde(&value)), Ok(value.clone()));
    assert_eq!(serde_json::to_value(&value).unwrap(), to_serde(&value));
    let error = from_serde(&serde_json::json!({"a": [u64::MAX]})).unwrap_err();
    assert_eq!(
        (error.kind(), error.path().as_str()),
        (JsonErrorKind::UnsafeInteger, "/a/0")
    );
    assert!(from_serde(&serde_json::json!(1e20)).is_err());
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[\"\\\\\u{0}-\u{20}a/é\u{e000}-\u{10ffff}]{0,12}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-INTEGER_MAX..=INTEGER_MAX).prop_map(Value::Int),
        any::<f64>().prop_filter_map("finite", |number| Finite::new(number).map(Value::from)),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..8).prop_map(Value::object),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same_value(value in any_value()) {
        let bytes = to_vec(&value);
        prop_assert_eq!(parse(&bytes, Limits::default()), Ok(value.clone()));
        prop_assert!(is_canonical(&bytes));
        prop_assert_eq!(from_serde(&to_serde(&value)), Ok(value));
    }

    #[test]
    fn any_spelling_of_a_value_has_the_same_canonical_form(value in any_value()) {
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        prop_assert_eq!(parse(&pretty, Limits::default()), Ok(value));
    }

    #[test]
    fn a_double_survives_its_text(number in any::<f64>()) {
        if let Some(finite) = Finite::new(number) {
            let text = number_text(number);
            let read = text.trim_matches('"').parse().ok().and_then(Finite::new);
            prop_assert_eq!(read, Some(finite));
        }
    }

    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}\",:\\\\u0-9a-fdD8eE+.\\- tnl]{0,40}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Ok(value) = parse(bytes, Limits::default()) {
                let written = to_vec(&value);
                prop_assert_eq!(parse(&written, Limits::default()), Ok(value));
            }
        }
    }
}
