//! Golden vectors of RFC 8785. They are never edited.

use super::*;

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
