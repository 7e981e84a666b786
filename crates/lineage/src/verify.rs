//! Whether a log shows, for each function, which rows it read; and whether the files are those of then.
//!
//! A finding says what is missing or wrong in the log. The states of artifacts and sources are reported beside; they
//! are findings only when asked for strictly, as files move for many reasons.
//!
//! Source: SPEC 9.2.

mod artifact;

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Serialize;

use self::artifact::canonical_matches;
use crate::index::{DeterministicSeen, Evidence, EvidenceSeen};
use crate::{Index, LogError, Places, RowIds, SourceFile, hash_file, scan, shown};

/// The functions that a log must show when nothing else is said.
pub const VERIFY_REQUIRED: [&str; 3] = ["tb_diagnostics", "accruals_check", "email_evidence"];

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The log has no line at all.
    EmptyLog,
    /// A required function has no record that names evidence.
    MissingDeterministic,
    /// The named evidence is not in the log.
    MissingEvidence,
    /// A required function's ids are not a list of non-empty texts.
    InvalidOrEmptyRowIds,
    /// Another function's ids are neither null nor a list of texts.
    InvalidRowIds,
    /// The evidence stands after the record that names it.
    EvidenceAfterDeterministic,
    /// A line cannot be read.
    MalformedLine,
    /// Strictly: the evidence names no file.
    NoUri,
    /// Strictly: the source file is not there.
    SourceMissing,
    /// Strictly: the source file is another than then.
    SourceChanged,
    /// Strictly: the artifact is not there.
    ArtifactMissing,
    /// Strictly: the artifact is another than then.
    ArtifactChanged,
    /// Strictly: records behind the one that counts are gone, and the newest may be among them.
    NewestMayBeGone,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// Of which function; none for the log as a whole.
    #[serde(rename = "fn", skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// In which line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Which evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_id: Option<String>,
    /// In words.
    pub message: String,
}

/// What `output_hash` is the hash of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactStatus {
    /// The artifact's bytes.
    Bytes,
    /// The artifact's canonical JSON: RFC 8785, or with keys sorted as older writers did.
    CanonicalJson,
    /// Something else.
    SomethingElse,
    /// There is no artifact to compare.
    Missing,
}

impl ArtifactStatus {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "artifact bytes",
            Self::CanonicalJson => "canonical JSON of the artifact",
            Self::SomethingElse => "something else",
            Self::Missing => "missing",
        }
    }
}

/// How the source file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceStatus {
    /// As then.
    Same,
    /// Another.
    Changed,
    /// Not there.
    Missing,
    /// There, and nobody said how it was.
    WithoutHash,
}

impl SourceStatus {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::WithoutHash => "without hash",
        }
    }
}

/// How the files of a function are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashStatus {
    /// Which.
    #[serde(rename = "fn")]
    pub function: String,
    /// What it wrote.
    pub artifact: ArtifactStatus,
    /// What it read.
    pub source: SourceStatus,
    /// Why not more can be said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// No finding.
    pub passed: bool,
    /// Lines of the log.
    pub lines: u64,
    /// Functions that had to be there.
    pub required: Vec<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// All malformed lines; not more than a thousand are findings.
    pub malformed_lines: u64,
    /// One a function, required ones first.
    pub hashes: Vec<HashStatus>,
    /// Earlier records that do not count, and the like.
    pub notes: Vec<String>,
}

impl Verification {
    /// The first line of its text.
    pub fn headline(&self) -> String {
        if self.passed {
            let required = and_list(&self.required);
            format!("[DET] Provenance verification PASSED: input_row_ids present for {required}")
        } else {
            "[DET] Provenance verification FAILED".to_owned()
        }
    }

    /// Its text.
    pub fn text(&self) -> String {
        let mut text = self.headline();
        text.push('\n');
        for finding in &self.findings {
            let function = finding.function.as_deref().unwrap_or("audit log");
            let _ = writeln!(text, " - {}: {}", shown(function), shown(&finding.message));
        }
        let is_line = |finding: &&Finding| finding.kind == FindingKind::MalformedLine;
        let named = u64::try_from(self.findings.iter().filter(is_line).count()).unwrap_or(0);
        if self.malformed_lines > named {
            let more = self.malformed_lines - named;
            let _ = writeln!(text, " - audit log: {more} more lines are malformed");
        }
        for status in &self.hashes {
            let _ = write!(
                text,
                "[HASH] {}: output_hash: {}; source file: {}",
                shown(&status.function),
                status.artifact.as_str(),
                status.source.as_str(),
            );
            for remark in &status.remarks {
                let _ = write!(text, " ({})", shown(remark));
            }
            text.push('\n');
        }
        text
    }
}

/// `a`; `a and b`; `a, b, and c`.
pub fn and_list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [most @ .., last] => format!("{}, and {last}", most.join(", ")),
    }
}

struct Judge<'a> {
    index: &'a Index,
    strict: bool,
    findings: Vec<Finding>,
    notes: Vec<String>,
}

impl Judge<'_> {
    fn find(&mut self, kind: FindingKind, of: &DeterministicSeen, message: String) {
        self.findings.push(Finding {
            kind,
            function: Some(of.function.clone()),
            line: Some(of.line),
            evidence_id: of.evidence_id.clone(),
            message,
        });
    }

    /// What counts may not be the newest: noted, and strictly a finding.
    fn gone(&mut self, gone: Option<String>, of: &DeterministicSeen) {
        let Some(gone) = gone else { return };
        self.notes.push(format!("{}: {gone}", of.function));
        if self.strict {
            self.find(FindingKind::NewestMayBeGone, of, gone);
        }
    }

    /// Looks at a function's record; its evidence, if it is there.
    fn function(&mut self, of: &DeterministicSeen, required: bool) -> Option<EvidenceSeen> {
        if of.count > 1 {
            self.notes.push(format!(
                "{}: {} deterministic records, that of line {} counts",
                of.function, of.count, of.line
            ));
        }
        self.gone(self.index.gone_behind_function(&of.function), of);
        let Some(id) = &of.evidence_id else {
            let message = format!("deterministic record of line {} names no evidence", of.line);
            if required {
                self.find(FindingKind::MissingDeterministic, of, message);
            } else {
                self.notes.push(format!("{}: {message}", of.function));
            }
            return None;
        };
        let Some(evidence) = self.index.evidence(id).copied() else {
            let message = format!("evidence {id}, named in line {}, is not in the log", of.line);
            self.find(FindingKind::MissingEvidence, of, message);
            let gone = self.index.gone_behind_evidence(id);
            self.notes
                .extend(gone.map(|gone| format!("{}: {gone}", of.function)));
            return None;
        };
        self.gone(self.index.gone_behind_evidence(id), of);
        if evidence.count > 1 {
            self.notes.push(format!(
                "{}: evidence {id} was written {} times, that of line {} counts",
                of.function, evidence.count, evidence.line
            ));
        }
        let rows = evidence.rows;
        let described = format!(
            "input_row_ids of evidence {id} (line {}) {}",
            evidence.line,
            rows.describe()
        );
        if required && !matches!(rows, RowIds::Texts(_)) {
            self.find(FindingKind::InvalidOrEmptyRowIds, of, described);
        } else if !required && matches!(rows, RowIds::NotTexts | RowIds::NoList) {
            self.find(FindingKind::InvalidRowIds, of, described);
        }
        if evidence.line > of.line {
            let message = format!(
                "evidence {id} (line {}) stands after the deterministic record that names it (line {})",
                evidence.line, of.line
            );
            self.find(FindingKind::EvidenceAfterDeterministic, of, message);
        }
        Some(evidence)
    }
}

/// Verifies a log against itself and the files it names.
///
/// # Errors
/// The log cannot be read.
pub fn verify(
    log: &SourceFile,
    places: &Places,
    required: &[String],
    strict: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Verification, LogError> {
    let index = scan(log, progress)?;
    let mut judge = Judge {
        index: &index,
        strict,
        findings: Vec::new(),
        notes: Vec::new(),
    };
    let mut hashes = Vec::new();
    let mut sources = Sources::default();
    if index.lines == 0 {
        judge.findings.push(Finding {
            kind: FindingKind::EmptyLog,
            function: None,
            line: None,
            evidence_id: None,
            message: "it holds no record".to_owned(),
        });
    }
    let mut statuses = |judge: &mut Judge<'_>, of: &DeterministicSeen, required: bool| {
        let evidence = judge.function(of, required);
        let (status, findings) = sources.status(log, places, of, evidence.as_ref())?;
        if strict {
            for (kind, message) in findings {
                judge.find(kind, of, message);
            }
        }
        hashes.push(status);
        Ok::<(), LogError>(())
    };
    for name in required.iter().filter(|_| index.lines > 0) {
        if let Some(of) = index.function(name) {
            statuses(&mut judge, of, true)?;
        } else {
            let gone = index.gone_behind_function(name);
            judge.notes.extend(gone.map(|gone| format!("{name}: {gone}")));
            judge.findings.push(Finding {
                kind: FindingKind::MissingDeterministic,
                function: Some(name.clone()),
                line: None,
                evidence_id: None,
                message: "no deterministic record".to_owned(),
            });
        }
    }
    for of in index
        .functions
        .iter()
        .filter(|of| !required.contains(&of.function))
    {
        statuses(&mut judge, of, false)?;
    }
    judge.findings.extend(index.malformed.iter().map(|line| Finding {
        kind: FindingKind::MalformedLine,
        function: None,
        line: Some(line.number),
        evidence_id: None,
        message: format!("line {} {}", line.number, line.reason),
    }));
    if index.other > 0 {
        judge
            .notes
            .push(format!("{} lines of other types were passed over", index.other));
    }
    let gone = index.gone_deterministic.count + index.gone_evidence.count + index.gone_other;
    if gone > 0 {
        judge
            .notes
            .push(format!("{gone} lines stand for records whose bodies are gone"));
    }
    if !log.is_unchanged() {
        return Err(LogError::Changed);
    }
    let (findings, notes) = (judge.findings, judge.notes);
    Ok(Verification {
        passed: findings.is_empty(),
        lines: index.lines,
        required: required.to_vec(),
        findings,
        malformed_lines: index.malformed_count,
        hashes,
        notes,
    })
}

/// Hashes of source files, each made once: many functions read the same file.
#[derive(Default)]
struct Sources {
    hashes: HashMap<std::path::PathBuf, Result<String, String>>,
}

type Strict = Vec<(FindingKind, String)>;

impl Sources {
    fn status(
        &mut self,
        log: &SourceFile,
        places: &Places,
        of: &DeterministicSeen,
        evidence: Option<&EvidenceSeen>,
    ) -> Result<(HashStatus, Strict), LogError> {
        let mut remarks = Vec::new();
        let mut strict = Vec::new();
        let artifact = artifact_status(places, of, &mut remarks);
        match artifact {
            ArtifactStatus::Missing => {
                strict.push((FindingKind::ArtifactMissing, "artifact is missing".to_owned()));
            }
            ArtifactStatus::SomethingElse => strict.push((
                FindingKind::ArtifactChanged,
                "output_hash is not that of the artifact".to_owned(),
            )),
            ArtifactStatus::Bytes | ArtifactStatus::CanonicalJson => {}
        }
        let source = match evidence {
            None => {
                remarks.push("no evidence".to_owned());
                SourceStatus::Missing
            }
            Some(evidence) => {
                let (uri, hash) = Evidence::source(log, evidence)?;
                let status = self.source(places, uri.as_deref(), hash.as_deref(), &mut remarks);
                match status {
                    SourceStatus::Missing if uri.as_deref().is_none_or(str::is_empty) => {
                        strict.push((
                            FindingKind::NoUri,
                            "evidence names no file (uri is null or empty)".to_owned(),
                        ));
                    }
                    SourceStatus::Missing => {
                        strict.push((FindingKind::SourceMissing, "source file is missing".to_owned()));
                    }
                    SourceStatus::Changed => {
                        strict.push((FindingKind::SourceChanged, "source file has changed".to_owned()));
                    }
                    SourceStatus::Same | SourceStatus::WithoutHash => {}
                }
                status
            }
        };
        let status = HashStatus {
            function: of.function.clone(),
            artifact,
            source,
            remarks,
        };
        Ok((status, strict))
    }

    fn source(
        &mut self,
        places: &Places,
        uri: Option<&str>,
        hash: Option<&str>,
        remarks: &mut Vec<String>,
    ) -> SourceStatus {
        let file = match places.open(uri) {
            Ok(file) => file,
            Err(error) => {
                remarks.push(error.to_string());
                return SourceStatus::Missing;
            }
        };
        let Some(hash) = hash else {
            return SourceStatus::WithoutHash;
        };
        let path = file.path().to_owned();
        let found = self
            .hashes
            .entry(path)
            .or_insert_with(|| hash_file(&file, &mut |_| {}).map_err(|error| error.to_string()));
        match found {
            Ok(found) if found.eq_ignore_ascii_case(hash) => SourceStatus::Same,
            Ok(_) => SourceStatus::Changed,
            Err(error) => {
                remarks.push(format!(
                    "{uri} cannot be read: {error}",
                    uri = uri.unwrap_or_default()
                ));
                SourceStatus::Missing
            }
        }
    }
}

fn artifact_status(places: &Places, of: &DeterministicSeen, remarks: &mut Vec<String>) -> ArtifactStatus {
    let Some(name) = of.artifact.as_deref().filter(|name| !name.is_empty()) else {
        remarks.push("no artifact is named".to_owned());
        return ArtifactStatus::Missing;
    };
    let file = match places.open(Some(name)) {
        Ok(file) => file,
        Err(error) => {
            remarks.push(format!("artifact: {error}"));
            return ArtifactStatus::Missing;
        }
    };
    let Some(expected) = of.output_hash.as_deref() else {
        remarks.push("no output_hash".to_owned());
        return ArtifactStatus::SomethingElse;
    };
    match hash_file(&file, &mut |_| {}) {
        Ok(hash) if hash.eq_ignore_ascii_case(expected) => ArtifactStatus::Bytes,
        Ok(_) if canonical_matches(&file, expected) => ArtifactStatus::CanonicalJson,
        Ok(_) => ArtifactStatus::SomethingElse,
        Err(error) => {
            remarks.push(format!("artifact: {error}"));
            ArtifactStatus::Missing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_as_people_write_them() {
        let words =
            |words: &[&str]| and_list(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["a"]), "a");
        assert_eq!(words(&["a", "b"]), "a and b");
        assert_eq!(
            words(&VERIFY_REQUIRED),
            "tb_diagnostics, accruals_check, and email_evidence"
        );
    }
}
