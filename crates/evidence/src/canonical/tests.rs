//! Claims about canonical JSON, by kind.

use super::*;

mod laws;
mod output;
mod refusals;
mod vectors;

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
