//! The high-water file: what was last signed, kept outside the database.
//!
//! A database that was rolled back to an older copy is behind this mark, and
//! then nothing is signed any more: no fork is ever signed under one key. The
//! file is written before a checkpoint is signed, through a rename, so that it
//! is whole at any time and never behind a signature.
//!
//! Source: SPEC 2.4.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tlog::{Hash, TreeSize};

use crate::files;

/// Longest file that is read: 100,000 ledgers of 200 bytes.
const FILE_BYTES_MAX: u64 = 20 * 1024 * 1024;

/// The last size and root of one ledger that may have been signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Leaves.
    pub size: TreeSize,
    /// Root over them.
    pub root: Hash,
}

/// The marks of all ledgers, by origin.
#[derive(Debug)]
pub struct HighWater {
    path: PathBuf,
    marks: BTreeMap<String, Mark>,
}

#[derive(Serialize, Deserialize)]
struct WireFile {
    v: u32,
    ledgers: BTreeMap<String, WireMark>,
}

#[derive(Serialize, Deserialize)]
struct WireMark {
    tree_size: u64,
    tree_root: String,
}

impl HighWater {
    /// Reads the file; absent is empty.
    ///
    /// # Errors
    /// Unreadable or malformed, which is told apart from absent: a broken mark must not look like none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut marks = BTreeMap::new();
        match files::open(path).and_then(|file| files::read(file, FILE_BYTES_MAX)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(files::named(path, &error)),
            Ok(bytes) => {
                let bad = |why: String| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
                };
                let file: WireFile =
                    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
                if file.v != 1 {
                    return Err(bad(format!("version {} is not known", file.v)));
                }
                for (origin, mark) in file.ledgers {
                    let root = Hash::from_base64(&mark.tree_root).map_err(|error| bad(error.to_string()))?;
                    marks.insert(
                        origin,
                        Mark {
                            size: TreeSize::new(mark.tree_size),
                            root,
                        },
                    );
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            marks,
        })
    }

    /// What the file says now.
    pub(crate) fn reread(&self) -> io::Result<Self> {
        Self::open(&self.path)
    }

    /// Whether a ledger that is there has a mark: one that was made after these were read has it in the file by now. A
    /// file that cannot be read any more does not show that it is missing; the next to open it says so.
    pub(crate) fn has(&self, origin: &str) -> bool {
        let is_here = |marks: &Self| marks.marks.contains_key(origin);
        is_here(self) || self.reread().ok().is_none_or(|now| is_here(&now))
    }

    /// The mark of a ledger.
    pub fn get(&self, origin: &str) -> Option<Mark> {
        self.marks.get(origin).copied()
    }

    /// Every mark.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Mark)> {
        self.marks.iter().map(|(origin, mark)| (origin.as_str(), *mark))
    }

    /// Raises marks and writes the file; it is on disk when this returns.
    ///
    /// Crash before the rename: the old file stands, and nothing was signed yet. Crash after it: the mark
    /// is ahead of the last signature, never behind, and the database holds at least that much already.
    pub fn raise(&mut self, marks: &[(String, Mark)]) -> io::Result<()> {
        for (origin, mark) in marks {
            self.marks.insert(origin.clone(), *mark);
        }
        let ledgers = self
            .marks
            .iter()
            .map(|(origin, mark)| {
                let wire = WireMark {
                    tree_size: mark.size.as_u64(),
                    tree_root: mark.root.to_base64(),
                };
                (origin.clone(), wire)
            })
            .collect();
        let bytes = serde_json::to_vec(&WireFile { v: 1, ledgers }).map_err(io::Error::other)?;
        let fresh = self.path.with_extension("json.new");
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        match self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_and_a_broken_file_is_no_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("high-water.json");
        let mut marks = HighWater::open(&path).unwrap();
        let mark = Mark {
            size: TreeSize::new(3),
            root: tlog::leaf_hash(b"x"),
        };
        marks.raise(&[("log.example/a".into(), mark)]).unwrap();
        assert_eq!(HighWater::open(&path).unwrap().get("log.example/a"), Some(mark));
        fs::write(&path, b"{\"v\":1,\"ledgers\":{\"a\"").unwrap();
        assert!(HighWater::open(&path).is_err());
    }

    #[test]
    fn a_device_in_the_place_of_the_file_is_no_mark_and_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("high-water.json");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let error = HighWater::open(&path).unwrap_err().to_string();
        assert_eq!(error, format!("{}: it is no regular file", path.display()));
    }
}
