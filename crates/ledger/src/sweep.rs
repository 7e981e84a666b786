//! Archives that no record names are taken away.
//!
//! A crash, or a batch that was refused, leaves a file behind whose bodies were not pruned. What is erased of them
//! afterwards would live on in it. So such files go before a pass of retention, and before an erasure answers. A file
//! that holds what is nowhere else is left and told of: then the records are damaged, or the archive that they name is
//! away, or the file is of another ledger.
//!
//! Source: SPEC 11.6.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use store::{LeafKey, Store, StoreError};

use crate::archive::{ASIDE, LINE_BYTES_MAX, sync_parent};
use crate::tree::{StoredTree, TreeError};
use crate::verify::{Erasures, Gone};
use crate::{Ledger, files};

/// Lines looked at with one question to the store.
const LINES_ASKED: usize = 1_000;

impl Ledger {
    /// Takes away what no record names. Waits for an archive that is being written.
    ///
    /// # Errors
    /// It cannot be said which are named, or one cannot be taken away.
    pub(crate) fn sweep_archives(&self) -> Result<(), StoreError> {
        let folder = self.options().archive();
        let failed = |error: io::Error| StoreError::Unavailable(format!("archives: {error}"));
        let mut named = self.inner.archives.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        // By tenant, so that its records are read once.
        let mut strange: Vec<(String, u32, String)> = Vec::new();
        let mut swept = false;
        for entry in entries {
            // Names that are not ours are nothing of ours.
            let Ok(name) = entry.map_err(failed)?.file_name().into_string() else {
                continue;
            };
            if name == ASIDE {
                fs::remove_file(folder.join(&name)).map_err(failed)?;
                swept = true;
            } else if !named.contains(&name)
                && let Some((tenant_id, epoch)) = origin(&name)
            {
                strange.push((tenant_id, epoch, name));
            }
        }
        strange.sort_unstable();
        for files in strange.chunk_by(|a, b| a.0 == b.0) {
            let Some(tenant) = self.tenant(&files[0].0) else {
                continue;
            };
            let (mut erasures, damage) = Erasures::load(self.store(), tenant.tenant_no)?;
            if let Some(finding) = damage.first() {
                // What cannot be read may name them.
                return Err(StoreError::Damaged {
                    place: "facets",
                    reason: finding.to_string(),
                });
            }
            named.extend(erasures.archive_names());
            for (_, epoch, name) in files.iter().filter(|(.., name)| !named.contains(name)) {
                let path = folder.join(name);
                if is_elsewhere(self.store(), &mut erasures, *epoch, &path)? {
                    fs::remove_file(&path).map_err(failed)?;
                    swept = true;
                    tracing::info!(name, "an archive that no record names is taken away");
                } else {
                    tracing::warn!(
                        name,
                        "no record names this archive, and what it holds is nowhere else"
                    );
                }
            }
        }
        if swept {
            sync_parent(&folder.join(ASIDE)).map_err(failed)?;
        }
        Ok(())
    }
}

/// Tenant and epoch of an archive's name.
fn origin(name: &str) -> Option<(String, u32)> {
    let mut parts = name.strip_suffix(".jsonl")?.rsplitn(4, '.');
    let (first, last) = parts.next()?.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok();
    number(first).zip(number(last))?;
    let _class = parts.next()?;
    let epoch = parts.next()?.parse().ok()?;
    let tenant_id = parts.next()?;
    Some((tenant_id.to_owned(), epoch))
}

/// Whether every record in a file is of the ledger, and has its body in the database, or in the archive that a record
/// names, which is beside the file and as it was written, or was erased.
fn is_elsewhere(
    store: &dyn Store,
    erasures: &mut Erasures<'_>,
    epoch: u32,
    path: &Path,
) -> Result<bool, StoreError> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(rename = "body")]
        _body: IgnoredAny,
        #[serde(borrow)]
        header: &'a RawValue,
        leaf_index: u64,
    }
    let Some(folder) = path.parent() else {
        return Ok(false);
    };
    let Some(&(_, ledger_no)) = erasures.ledgers().iter().find(|(no, _)| *no == epoch) else {
        return Ok(false);
    };
    let failed = |error: io::Error| StoreError::Unavailable(format!("archives: {error}"));
    let mut reader = BufReader::new(files::open(path).map_err(|error| failed(files::named(path, &error)))?);
    let size = store.head_read(ledger_no)?.size.as_u64();
    let tree = StoredTree::new(store, ledger_no);
    let (mut line, mut asked) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let ended = read.map_err(failed)? == 0;
        if !ended {
            let Ok(line) = serde_json::from_slice::<Line<'_>>(&line) else {
                return Ok(false);
            };
            // Of a ledger of the same name in another data folder it may be the only copy.
            if line.leaf_index >= size {
                return Ok(false);
            }
            match tree.leaf(line.leaf_index) {
                Ok(leaf) if leaf == line.header.get().as_bytes() => {}
                Err(TreeError::Store(error)) => return Err(error),
                // Verification says what a leaf is that cannot be read.
                _ => return Ok(false),
            }
            let leaf = LeafKey::new(ledger_no, line.leaf_index);
            match erasures.known(leaf) {
                Some(Gone::Erased(_)) => {}
                Some(Gone::Pruned) if erasures.open_archive_of(leaf, folder) => {}
                // It may be the archive itself under another name.
                Some(Gone::Pruned) => return Ok(false),
                None => asked.push(leaf),
            }
        }
        if asked.len() >= LINES_ASKED || ended {
            if store.bodies_there(&asked)?.len() != asked.len() {
                return Ok(false);
            }
            asked.clear();
        }
        if ended {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_archives_are_ours() {
        assert_eq!(origin("acme.0.runs.3-9.jsonl"), Some(("acme".into(), 0)));
        assert_eq!(origin("a.b.12.system.0-0.jsonl"), Some(("a.b".into(), 12)));
        assert_eq!(
            origin("_instance.0.system.0-7.jsonl"),
            Some(("_instance".into(), 0))
        );
        for other in [
            "notes.txt",
            "acme.0.runs.3-9.jsonl.gz",
            "acme.0.runs.3.jsonl",
            "acme.x.runs.3-9.jsonl",
            "0.runs.3-9.jsonl",
        ] {
            assert_eq!(origin(other), None, "{other}");
        }
    }
}
