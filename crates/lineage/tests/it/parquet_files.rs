//! Parquet files, those that were made to hurt included.

use std::sync::Arc;

use lineage::{Evidence, RowFormat};
use parquet::basic::{Compression, Encoding};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::fixture::{Folder, Rows, cites};

fn file(entities: &[Option<&str>], accounts: &[i64], properties: WriterProperties) -> Vec<u8> {
    let schema = "message m { optional binary entity (UTF8); required int64 account; required double x; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = entities
        .iter()
        .flatten()
        .map(|text| ByteArray::from(*text))
        .collect();
    let levels: Vec<i16> = entities.iter().map(|text| i16::from(text.is_some())).collect();
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, Some(&levels), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<Int64Type>()
        .write_batch(accounts, None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let doubles: Vec<f64> = accounts.iter().map(|_| -0.5).collect();
    column
        .typed::<DoubleType>()
        .write_batch(&doubles, None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

fn drill(bytes: &[u8], ids: &[&str], format: RowFormat) -> Result<Rows, String> {
    let folder = Folder::new();
    folder.write("a.parquet", bytes);
    let cited = Evidence {
        evidence_type: Some("parquet".into()),
        ..cites("a.parquet", ids)
    };
    folder
        .drill("f", &cited, format)
        .map_err(|error| error.to_string())
}

#[test]
fn values_are_found_by_their_text() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(parquet::basic::ZstdLevel::default()),
        Compression::GZIP(parquet::basic::GzipLevel::default()),
    ] {
        let properties = WriterProperties::builder().set_compression(compression).build();
        let bytes = file(&[Some("E1"), None, Some("E,2")], &[1000, 2000, 1000], properties);
        let rows = drill(&bytes, &["E1|1000", "E,2|1000", "E1|2000"], RowFormat::Json).unwrap();
        assert_eq!(rows.key.columns(), ["entity", "account"], "{compression}");
        assert_eq!(rows.numbers, [0, 2]);
        assert_eq!(
            rows.text,
            "[\n{\"entity\": \"E1\", \"account\": 1000, \"x\": -0.5},\n{\"entity\": \"E,2\", \"account\": 1000, \"x\": -0.5}\n]\n"
        );
        assert_eq!(rows.drilled.unmatched, ["E1|2000"]);
        let rows = drill(&bytes, &["2000"], RowFormat::Csv).unwrap();
        assert_eq!(rows.text, "entity,account,x\n,2000,-0.5\n");
    }
}

#[test]
fn a_page_that_grows_without_measure_is_refused() {
    // One text of 100 MiB of the same letter, a few kilobytes when packed.
    let text = "x".repeat(100 * 1024 * 1024);
    let level = parquet::basic::ZstdLevel::default();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let bytes = file(&[Some(&text)], &[1], properties);
    assert!(bytes.len() < 100_000);
    let error = drill(&bytes, &["1"], RowFormat::Json).err().unwrap();
    assert!(error.contains("would become 1048576"), "{error}");
}

#[test]
fn lengths_of_their_own_are_not_read() {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::DELTA_BYTE_ARRAY);
    let schema = "message m { required binary entity (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = [ByteArray::from("aa"), ByteArray::from("ab")];
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let error = drill(&bytes, &["aa"], RowFormat::Json).err().unwrap();
    assert!(error.contains("DELTA_BYTE_ARRAY"), "{error}");
}

/// Every single byte of a file changed in turn: rows or a reason, and never a panic that gets out.
#[test]
fn damaged_files_are_told() {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let good = file(&[Some("E1"), Some("E2")], &[1000, 2000], properties);
    let mut refused = 0;
    for place in 0..good.len() {
        for change in [0xff, 0x01, 0x80] {
            let mut bytes = good.clone();
            bytes[place] ^= change;
            refused += usize::from(drill(&bytes, &["E1"], RowFormat::Json).is_err());
        }
    }
    assert!(refused > good.len(), "{refused}");
}

/// A file of nothing but a footer that says it has these columns.
fn footer_only(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut metadata = vec![0x15, 0x02, 0x19, 0xfc];
    let count = elements.len();
    for shift in [0, 7, 14] {
        let more = if shift == 14 { 0 } else { 0x80 };
        metadata.push(u8::try_from(count >> shift & 0x7f).unwrap() | more);
    }
    metadata.extend(elements.concat());
    metadata.extend([0x16, 0x00, 0x19, 0x0c, 0x00]);
    let mut bytes = b"PAR1".to_vec();
    bytes.extend(&metadata);
    bytes.extend(u32::try_from(metadata.len()).unwrap().to_le_bytes());
    bytes.extend(b"PAR1");
    bytes
}

fn group(children: &[u8]) -> Vec<u8> {
    [&[0x35, 0x00, 0x18, 0x01, b'g', 0x15][..], children, &[0x00]].concat()
}

/// A column of 32-bit numbers, required.
fn numbers() -> Vec<u8> {
    vec![0x15, 0x02, 0x25, 0x00, 0x18, 0x01, b'a', 0x00]
}

#[test]
fn a_footer_that_asks_for_too_much_is_refused_before_it_is_believed() {
    let one = footer_only(&[group(&[0x02]), numbers()]);
    let fine = drill(&one, &["1"], RowFormat::Json).err().unwrap();
    assert!(fine.contains("no columns of it hold the ids"), "{fine}");
    // A hundred thousand groups, each in the one before: the stack would not hold them.
    let mut deep = vec![group(&[0x02]); 100_000];
    deep.push(numbers());
    let error = drill(&footer_only(&deep), &["1"], RowFormat::Json).err().unwrap();
    assert!(error.contains("100001 columns and groups"), "{error}");
    let mut deep = vec![group(&[0x02]); 10_000];
    deep.push(numbers());
    let deep = footer_only(&deep);
    let error = drill(&deep, &["1"], RowFormat::Json).err().unwrap();
    assert!(error.contains("64 deep"), "{error}");
    // Two thousand million columns in some forty bytes.
    let wide = footer_only(&[group(&[0x02]), group(&[0xfe, 0xff, 0xff, 0xff, 0x0f])]);
    let error = drill(&wide, &["1"], RowFormat::Json).err().unwrap();
    assert!(error.contains("a group of 2147483647 columns"), "{error}");
    // Files that are only looked at because another is missing.
    let folder = Folder::new();
    folder.write("data/deep.parquet", deep);
    folder.write("data/wide.parquet", wide);
    let good = file(&[Some("E1")], &[1000], WriterProperties::builder().build());
    folder.write("data/good.parquet", good);
    let cited = Evidence {
        evidence_type: Some("parquet".into()),
        ..cites("data/gone.parquet", &["E1|1000"])
    };
    let found = lineage::suggest(&folder.places(), "f", &cited);
    assert_eq!(found.len(), 1);
    assert!(found[0].path.ends_with("good.parquet"));
}

#[test]
fn columns_of_lists_are_refused() {
    let schema = "message m { required int32 a; repeated int32 e; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    let typed = column.typed::<parquet::data_type::Int32Type>();
    typed.write_batch(&[7], None, None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    let typed = column.typed::<parquet::data_type::Int32Type>();
    // One row of a million values takes a few hundred bytes here, and tens of megabytes when it is read.
    let (defined, mut repeated) = (vec![1; 1_000_000], vec![1; 1_000_000]);
    repeated[0] = 0;
    typed
        .write_batch(&vec![9; 1_000_000], Some(&defined), Some(&repeated))
        .unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    writer.close().unwrap();
    assert!(bytes.len() < 10_000, "{}", bytes.len());
    let error = drill(&bytes, &["7"], RowFormat::Json).err().unwrap();
    assert!(error.contains("\"e\" holds lists"), "{error}");
}
