//! Audit logs: whatever a log says, it passes or has findings, in words that cannot write to a terminal, and no file
//! outside of its folder is opened.

use lineage::{Evidence, Places, SourceFile};

pub(crate) fn run(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for the log");
    let path = folder.path().join("audit_t.jsonl");
    std::fs::write(&path, data).expect("the log is written");
    let log = SourceFile::open(&path).expect("it was just written");
    let places =
        Places::new(folder.path(), None, &[folder.path().to_owned()], &[]).expect("the folder is there");
    let required = ["tb_diagnostics".to_owned()];
    for strict in [false, true] {
        let Ok(found) = lineage::verify(&log, &places, &required, strict, &mut |_| {}) else {
            continue;
        };
        assert_eq!(found.passed, found.findings.is_empty());
        let text = found.text();
        assert!(text.starts_with(if found.passed {
            "[DET] Provenance verification PASSED: "
        } else {
            "[DET] Provenance verification FAILED\n"
        }));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    }
    let Ok(index) = lineage::scan(&log, &mut |_| {}) else {
        return;
    };
    for of in &index.functions {
        let cited = of.evidence_id.as_deref().and_then(|id| index.evidence(id));
        let Some(evidence) = cited.and_then(|seen| Evidence::load(&log, seen).ok()) else {
            continue;
        };
        if let Ok(file) = places.open(evidence.uri.as_deref()) {
            let root = folder.path().canonicalize().expect("it is there");
            assert!(file.path().starts_with(root));
        }
    }
    let _ = lineage::ai::list_ai(&log);
}
