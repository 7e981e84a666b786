//! What is written, by values and by the writer, and what converts.

use super::*;

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
