//! Which crate may import which: ARCHITECTURE.md's table, held against the manifests.

use std::collections::BTreeSet;
use std::path::Path;

const TABLE: [(&str, &[&str]); 8] = [
    ("tlog", &[]),
    ("evidence", &["tlog"]),
    ("audit", &["evidence"]),
    ("store", &["tlog", "evidence"]),
    ("lineage", &["evidence"]),
    ("ledger", &["tlog", "evidence", "audit", "store"]),
    ("server", &["tlog", "evidence", "audit", "store", "ledger"]),
    (
        "cli",
        &[
            "tlog", "evidence", "audit", "store", "lineage", "ledger", "server",
        ],
    ),
];

#[test]
fn crates_import_only_what_the_table_allows() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let names: BTreeSet<String> = std::fs::read_dir(crates)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names, known, "a crate without a row in the table");
    for (name, allowed) in TABLE {
        let manifest: toml::Table = std::fs::read_to_string(crates.join(name).join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some(name));
        let dependencies = manifest["dependencies"].as_table().unwrap();
        for dependency in dependencies
            .keys()
            .filter(|dependency| known.contains(*dependency))
        {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not import {dependency}"
            );
        }
        for heavy in ["tokio", "axum", "rusqlite"] {
            let free = matches!(name, "tlog" | "evidence" | "audit");
            assert!(
                !(free && dependencies.contains_key(heavy)),
                "{name} must not depend on {heavy}"
            );
        }
    }
}

#[test]
fn sql_stays_in_the_store() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, _) in TABLE.iter().filter(|(name, _)| *name != "store") {
        let manifest: toml::Table = std::fs::read_to_string(crates.join(name).join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        assert!(
            !manifest["dependencies"]
                .as_table()
                .unwrap()
                .contains_key("rusqlite"),
            "{name} depends on rusqlite"
        );
    }
}
