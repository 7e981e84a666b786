//! The files of real life: each case is told, none crashes.

use lineage::source::Encoding;
use lineage::{RowFormat, SourceFile};
use proptest::prelude::*;

use crate::fixture::{Folder, Rows, cites};

fn accruals(bytes: &[u8], ids: &[&str]) -> Result<Rows, String> {
    let folder = Folder::new();
    folder.write("a.csv", bytes);
    folder
        .drill("accruals_check", &cites("a.csv", ids), RowFormat::Csv)
        .map_err(|error| error.to_string())
}

#[test]
fn duplicate_columns_are_refused_as_keys_and_told_apart_as_cells() {
    let twice = accruals(b"entity,accrual_id,entity\nE1,A1,E2\n", &["E1|A1"])
        .err()
        .unwrap();
    assert_eq!(twice, "it has the column entity more than once");
    let folder = Folder::new();
    folder.write("a.csv", "entity,accrual_id,n,n\nE1,A1,1,2\n");
    let rows = folder
        .drill("accruals_check", &cites("a.csv", &["E1|A1"]), RowFormat::Json)
        .unwrap();
    assert_eq!(
        rows.text,
        "[\n{\"entity\": \"E1\", \"accrual_id\": \"A1\", \"n\": \"1\", \"n (2)\": \"2\"}\n]\n"
    );
}

#[test]
fn duplicate_ids_find_their_rows_once() {
    let rows = accruals(b"entity,accrual_id\nE1,A1\nE1,A1\n", &["E1|A1", "E1|A1"]).unwrap();
    assert_eq!((rows.numbers, rows.drilled.ids), (vec![0, 1], 1));
}

#[test]
fn a_bar_inside_a_value_is_noted() {
    let rows = accruals(
        b"entity,accrual_id\nE1|A,1\nE1,A|1\nE2,A|1\n",
        &["E1|A|1", "E2|A|1"],
    )
    .unwrap();
    assert_eq!(rows.numbers, [0, 1, 2]);
    assert_eq!(rows.drilled.notes.len(), 1);
    assert!(
        rows.drilled.notes[0].contains("\"E1|A|1\""),
        "{}",
        rows.drilled.notes[0]
    );
}

#[test]
fn an_ambiguous_id_is_noted_once_however_many_rows_and_ids_there_are() {
    // Ids of three parts for two columns: a hundred and fifty that name one row, then one that names many.
    let mut text = "entity,accrual_id\n".to_owned();
    let mut ids: Vec<String> = (0..150).map(|n| format!("A|{n}|x")).collect();
    text.extend((0..150).map(|n| format!("A|{n},x\n")));
    ids.push("B|1|x".to_owned());
    text.push_str("B|1,x\n");
    text.push_str(&"B,1|x\n".repeat(1_000));
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let rows = accruals(text.as_bytes(), &ids).unwrap();
    assert_eq!(rows.drilled.notes.len(), 1, "{:?}", rows.drilled.notes);
    assert!(rows.drilled.notes[0].contains("B|1|x"));
    // Where every id is ambiguous, so many are noted, and the rest is counted.
    text.extend((0..150).map(|n| format!("A,{n}|x\n")));
    let rows = accruals(text.as_bytes(), &ids).unwrap();
    assert_eq!(rows.drilled.notes.len(), 101);
    assert_eq!(rows.drilled.notes[100], "51 more such ids");
}

#[test]
fn words_that_look_missing_are_texts() {
    let rows = accruals(
        b"entity,accrual_id\nNA,null\nNaN,None\n,\nnan,#N/A\n",
        &["NA|null", "NaN|None", "|", "nan|#N/A", "|nan"],
    )
    .unwrap();
    assert_eq!(rows.numbers, [0, 1, 2, 3]);
    assert_eq!(rows.drilled.unmatched, ["|nan"]);
}

#[test]
fn marks_line_ends_quotes_and_short_rows_are_read() {
    let text =
        b"\xef\xbb\xbfentity,accrual_id,note\r\n\"E,1\",A1,\"two\r\nlines\"\r\nE2,A2\r\n\r\n\"E\"\"3\",A3,x";
    let rows = accruals(text, &["E,1|A1", "E2|A2", "E\"3|A3"]).unwrap();
    assert_eq!(
        (&*rows.numbers, rows.drilled.remarks.bad_rows),
        (&[0, 1, 2][..], 0)
    );
    assert!(
        rows.text
            .starts_with("entity,accrual_id,note\n\"E,1\",A1,\"two\r\nlines\"\nE2,A2\n"),
        "{}",
        rows.text
    );
    let long = accruals(b"entity,accrual_id\nE1,A1,x\nE2,A2\n", &["E1|A1", "E2|A2"]).unwrap();
    assert_eq!(
        (long.numbers, long.drilled.unmatched),
        (vec![1], vec!["E1|A1".to_owned()])
    );
    assert_eq!(
        long.drilled.remarks.kept,
        ["line 2 has 3 cells, the header has 2: not looked at"]
    );
}

#[test]
fn latin_1_is_read_when_it_is_said() {
    let folder = Folder::new();
    folder.write("a.csv", b"entity,accrual_id\nM\xfcller,1\n");
    let cited = cites("a.csv", &["M\u{fc}ller|1"]);
    let plain = folder.drill("accruals_check", &cited, RowFormat::Csv).unwrap();
    assert_eq!(plain.drilled.unmatched.len(), 1);
    let said = folder
        .drill_as(
            "accruals_check",
            &cited,
            RowFormat::Json,
            (Encoding::Latin1, b','),
            None,
        )
        .unwrap();
    assert!(said.text.contains("M\u{fc}ller"));
    // A cell that is no text cannot stand in JSON; as CSV it is handed on byte by byte.
    folder.write("b.csv", b"entity,accrual_id,x\nE,1,\xfc\n");
    let cited = cites("b.csv", &["E|1"]);
    let error = folder
        .drill("accruals_check", &cited, RowFormat::Json)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("--encoding latin-1"), "{error}");
    assert!(folder.drill("accruals_check", &cited, RowFormat::Csv).is_ok());
    folder.write("c.csv", b"entit\xe9,accrual_id\n");
    assert!(
        folder
            .drill("accruals_check", &cites("c.csv", &["E|1"]), RowFormat::Csv)
            .is_err()
    );
    folder.write("d.csv", b"\xff\xfee\0n\0");
    let utf16 = folder
        .drill("accruals_check", &cites("d.csv", &["E|1"]), RowFormat::Csv)
        .err()
        .unwrap()
        .to_string();
    assert!(utf16.contains("UTF-16"), "{utf16}");
}

#[test]
fn other_separators_are_read_when_they_are_said() {
    let folder = Folder::new();
    folder.write("a.csv", "entity;accrual_id;x\nE1;A1;\"1;2\"\n");
    let cited = cites("a.csv", &["E1|A1"]);
    let error = folder
        .drill("accruals_check", &cited, RowFormat::Csv)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("--delimiter"), "{error}");
    let rows = folder
        .drill_as(
            "accruals_check",
            &cited,
            RowFormat::Csv,
            (Encoding::Utf8, b';'),
            None,
        )
        .unwrap();
    assert_eq!(rows.text, "entity;accrual_id;x\nE1;A1;\"1;2\"\n");
}

#[test]
fn broken_files_are_errors_with_a_reason() {
    for (name, bytes, reason) in [
        ("a.csv", &b""[..], "it is empty"),
        ("a.json", b"", "it is no JSON"),
        ("a.json", b"{\"a\":188", "it is no JSON"),
        ("a.json", b"[{\"email_id\":\"E\"}] x", "it is no JSON"),
        ("a.json", b"[{\"email_id\":\"E\"},", "it is no JSON"),
        ("a.json", b"5", "it is no JSON"),
        ("a.json", b"{\"rows\":[]}", "it is an object without items"),
        (
            "a.json",
            b"{\"items\":[],\"items\":[]}",
            "it is no JSON: items is there twice",
        ),
        ("a.parquet", b"PAR1", "it cannot be read as Parquet"),
        (
            "a.parquet",
            b"PAR1\xff\xff\xff\xffPAR1",
            "it cannot be read as Parquet",
        ),
        ("a.txt", b"x", "nothing says whether"),
    ] {
        let folder = Folder::new();
        folder.write(name, bytes);
        let error = folder
            .drill("email_evidence", &cites(name, &["E"]), RowFormat::Json)
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with(reason), "{name}: {error}");
    }
    let folder = Folder::new();
    folder.write(
        "a.jsonl",
        b"{\"email_id\":\"E\"}\n[\n5\n\xff\n{\"email_id\":\"F\",\"email_id\":\"F\"}\n",
    );
    let rows = folder
        .drill("email_evidence", &cites("a.jsonl", &["E", "F"]), RowFormat::Json)
        .unwrap();
    assert_eq!((rows.numbers, rows.drilled.remarks.bad_rows), (vec![0], 3));
    assert_eq!(
        rows.drilled.unmatched,
        ["F"],
        "which of two members counts is not known"
    );
    folder.write("deep.json", format!("[{}]", "[".repeat(200_000)));
    assert!(
        folder
            .drill("email_evidence", &cites("deep.json", &["E"]), RowFormat::Json)
            .is_err()
    );
}

#[test]
fn a_quote_that_is_never_closed_takes_no_rows_with_it_unsaid() {
    let rows = accruals(
        b"entity,accrual_id,note\nE0,A0,\"said \"\"x\"\"\"\nE1,A1,\"x\nE2,A2,2\nE3,A3,3\n",
        &["E0|A0", "E1|A1", "E3|A3"],
    )
    .unwrap();
    assert_eq!((&*rows.numbers, rows.drilled.remarks.bad_rows), (&[0][..], 1));
    assert_eq!(rows.drilled.unmatched, ["E1|A1", "E3|A3"]);
    assert_eq!(
        rows.drilled.remarks.kept,
        ["the row of line 3 has a quote that is never closed: neither it nor what follows is looked at"]
    );
    // A quote that begins no cell, a mark before the header, and another delimiter.
    let folder = Folder::new();
    folder.write("a.csv", b"\xef\xbb\xbf\"entity\";accrual_id\nE,\"1;A\"1\nE2;A2");
    let rows = folder
        .drill_as(
            "accruals_check",
            &cites("a.csv", &["E,\"1|A\"1", "E2|A2"]),
            RowFormat::Json,
            (Encoding::Utf8, b';'),
            None,
        )
        .unwrap();
    assert_eq!((&*rows.numbers, rows.drilled.remarks.bad_rows), (&[0, 1][..], 0));
    // Nor do marks hide a quote, however many there are.
    for text in [
        &b"entity,\"accrual_id\nE1,A1\n"[..],
        b"\xef\xbb\xbf\xef\xbb\xbf\"entity,accrual_id\nE1,A1\n",
        b"\xef\xbb\xbf\xef\xbb\xbf\xef\xbb\xbf\"entity,accrual_id\nE1,A1\n",
    ] {
        let header = accruals(text, &["E1|A1"]).err().unwrap();
        assert_eq!(header, "its header has a quote that is never closed");
    }
}

#[test]
fn a_quote_that_is_never_closed_takes_no_memory() {
    let mut text = b"entity,accrual_id\nE1,\"".to_vec();
    text.resize(40 * 1024 * 1024, b'x');
    let error = accruals(&text, &["E1|A1"]).err().unwrap();
    assert!(error.contains("longer than 16 MiB"), "{error}");
    let folder = Folder::new();
    let mut text = b"[{\"email_id\":\"".to_vec();
    text.resize(40 * 1024 * 1024, b'x');
    folder.write("a.json", text);
    let error = folder
        .drill("email_evidence", &cites("a.json", &["E"]), RowFormat::Json)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("longer than 16 MiB"), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let folder = Folder::new();
    let path = folder.write("a.csv", "entity,accrual_id\nE1,A1\n");
    let file = SourceFile::open(&path).unwrap();
    assert!(file.is_unchanged());
    let error = change_while_reading(&folder, &file, &path);
    assert!(error.contains("changed while it was read"), "{error}");
}

fn change_while_reading(folder: &Folder, file: &SourceFile, path: &std::path::Path) -> String {
    use lineage::drill::{drill, find_key};
    use lineage::source::{Reading, Source, SourceType};
    let mut progress = |_| {};
    let mut reading = Reading {
        encoding: Encoding::Utf8,
        delimiter: b',',
        hashed: false,
        progress: &mut progress,
    };
    let source = Source::open(file, SourceType::Csv, &reading).unwrap();
    let cited = cites("a.csv", &["E1|A1"]);
    let key = find_key(&source, "accruals_check", &cited, None, &mut reading).unwrap();
    let result = drill(&source, &cited, &key, &mut reading, &mut |_, _| {
        // Replaced by another of the same length: only its identity tells.
        folder.write("b.csv", "entity,accrual_id\nE2,A2\n");
        std::fs::rename(folder.path("b.csv"), path)
    });
    result.err().unwrap().to_string()
}

#[test]
fn what_a_log_says_does_not_reach_the_terminal_as_it_is() {
    assert_eq!(lineage::shown("a\u{1b}[2Jb\n\u{9b}"), "a\\u{1b}[2Jb\\n\\u{9b}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Cells of any text, written by the csv crate, are found by their ids and printed as they were.
    #[test]
    fn any_cells_are_found_and_come_out_as_they_went_in(
        cells in prop::collection::vec(("[^\u{0}]{0,6}", "[^\u{0}]{0,6}", "[^\u{0}]{0,6}"), 1..8),
    ) {
        let mut text = Vec::new();
        let mut writer = csv::WriterBuilder::new().from_writer(&mut text);
        writer.write_record(["entity", "accrual_id", "note"]).unwrap();
        for (a, b, c) in &cells {
            writer.write_record([a, b, c]).unwrap();
        }
        drop(writer);
        let ids: Vec<String> = cells.iter().map(|(a, b, _)| format!("{a}|{b}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let rows = accruals(&text, &ids).unwrap();
        prop_assert_eq!(rows.numbers.len(), cells.len());
        prop_assert!(rows.drilled.unmatched.is_empty());
        prop_assert_eq!(rows.text.into_bytes(), text);
    }

    /// Any bytes as any type give rows or a reason.
    #[test]
    fn any_bytes_are_told(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4_usize) {
        let name = ["a.csv", "a.json", "a.jsonl", "a.parquet"][kind];
        let folder = Folder::new();
        folder.write(name, &bytes);
        let _ = folder.drill("f", &cites(name, &["a|b", "c"]), RowFormat::Json);
        let log = folder.write("out/audit_t.jsonl", &bytes);
        prop_assert!(!folder.verify(&log, &["f"], true).passed);
    }
}
