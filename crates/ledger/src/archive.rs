//! Archives: bodies as files, before they are pruned, and read again by verification and rebuild.
//!
//! JSON Lines, one record a line, by ascending leaf: `{"body":…,"header":…,"leaf_index":n,"salt":"<hex>"}`, header and
//! body being the canonical bytes. The record that prunes names the file by its SHA-256.
//!
//! Source: SPEC 11.6; docs/formats.md, "Archives".

use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use evidence::record::RetentionArchived;
use evidence::{Finding, FindingCode, Salt, hex_string, unhex};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use store::LeafKey;

use crate::files;

/// Longest line: a body of 16 MiB, a leaf, and what stands around them.
pub(crate) const LINE_BYTES_MAX: u64 = 17 * 1024 * 1024;

/// What is being written.
pub(crate) const ASIDE: &str = "archive.new";

/// Read of a file at once.
const READ_BYTES: usize = 256 * 1024;

/// Archives that are read at once: neighbours in the ledger are in few, and a process may open about 1,000 files.
const OPEN_MAX: usize = 16;

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct ArchiveWriter {
    folder: PathBuf,
    aside: PathBuf,
    file: io::BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

/// An archive that is on disk under its name.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: u64,
}

impl ArchiveWriter {
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        if !folder.is_dir() {
            DirBuilder::new().mode(0o700).create(folder)?;
            sync_parent(folder)?;
        }
        let aside = folder.join(ASIDE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        Ok(Self {
            folder: folder.to_owned(),
            aside,
            file: io::BufWriter::new(file),
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    /// Adds a record: leaf and body as they are hashed.
    pub(crate) fn push(&mut self, leaf: LeafKey, header: &[u8], salt: &Salt, body: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(body.len() + header.len() + 128);
        line.extend_from_slice(b"{\"body\":");
        line.extend_from_slice(body);
        line.extend_from_slice(b",\"header\":");
        line.extend_from_slice(header);
        writeln!(
            line,
            ",\"leaf_index\":{},\"salt\":\"{}\"}}",
            leaf.leaf_index(),
            hex_string(salt)
        )?;
        self.hash.update(&line);
        self.bytes += line.len() as u64;
        self.file.write_all(&line)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nothing went into it.
    pub(crate) fn discard(self) -> io::Result<()> {
        std::fs::remove_file(&self.aside)
    }

    /// Gives it its name, durably. Crash before: `archive.new` stays. Crash after: a file that no record names. Both
    /// are swept ([`crate::sweep`]).
    pub(crate) fn finish(self, name: String) -> io::Result<Written> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let path = self.folder.join(&name);
        std::fs::rename(&self.aside, &path)?;
        sync_parent(&path)?;
        Ok(Written {
            name,
            path,
            sha256: self.hash.finalize().into(),
            bytes: self.bytes,
        })
    }
}

impl Written {
    /// Takes it away: no record names it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)?;
        sync_parent(&self.path)
    }
}

/// Makes what was made or taken away in a folder durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Why an archive is not at hand.
#[derive(Debug)]
pub(crate) enum ArchiveError {
    /// It is not where it should be.
    Missing(Box<Finding>),
    /// It is another than was archived.
    Wrong(Box<Finding>),
    /// It cannot be read now, and what it is cannot be said.
    Unread(String),
}

/// Archives that can be read.
#[derive(Debug, Default)]
pub(crate) struct Archives {
    /// By the number under which they were added.
    files: HashMap<usize, PathBuf>,
    open: Mutex<VecDeque<(usize, Arc<Opened>)>>,
    /// The first that could not be read any more after it was added.
    unread: Mutex<Option<String>>,
}

/// An archive that is being read.
#[derive(Debug)]
struct Opened {
    file: File,
    /// Where each line begins, and where the last one ends.
    starts: Vec<u64>,
}

impl Archives {
    /// Looks at one as its record names it.
    ///
    /// # Errors
    /// It is not at hand.
    pub(crate) fn add(
        &mut self,
        number: usize,
        folder: &Path,
        archived: &RetentionArchived,
    ) -> Result<(), ArchiveError> {
        let place = format!("archive/{}", archived.archive);
        let finding =
            |detail: String| Box::new(Finding::new(FindingCode::ArchiveMismatch, place.clone(), detail));
        // Names are ours, and a record is not to reach outside the folder.
        if archived.archive.contains('/') || archived.archive.starts_with('.') {
            return Err(ArchiveError::Wrong(finding(
                "the name of the archive is none".into(),
            )));
        }
        let path = folder.join(&archived.archive);
        let mut hash = Sha256::new();
        let found = files::open(&path).and_then(|file| lines(&file, |bytes| hash.update(bytes)));
        let starts = found.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ArchiveError::Missing(finding("the archive is not there".into())),
            // Ours: no archive that we wrote looks so.
            io::ErrorKind::InvalidData => ArchiveError::Wrong(finding(error.to_string())),
            _ => ArchiveError::Unread(format!("{place}: {error}")),
        })?;
        let sha256: [u8; 32] = hash.finalize().into();
        if sha256 != archived.sha256 {
            return Err(ArchiveError::Wrong(finding(format!(
                "its SHA-256 is {}, the record says {}",
                hex_string(&sha256),
                hex_string(&archived.sha256)
            ))));
        }
        let (lines, count) = (starts.len() as u64 - 1, records_of(&archived.leaves));
        if lines != count {
            let detail = format!("it has {lines} lines, the record names {count} leaves");
            return Err(ArchiveError::Wrong(finding(detail)));
        }
        self.files.insert(number, path);
        Ok(())
    }

    /// Whether one is at hand.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.files.contains_key(&number)
    }

    /// Salt and body of a record that the archive of that number has. A line that says none opens no commitment.
    pub(crate) fn get(
        &self,
        number: usize,
        archived: &RetentionArchived,
        leaf_index: u64,
    ) -> Option<(Salt, Vec<u8>)> {
        let path = self.files.get(&number)?;
        let stretch = archived.leaves.partition_point(|&(_, last)| last < leaf_index);
        let &(first, _) = archived
            .leaves
            .get(stretch)
            .filter(|(first, _)| *first <= leaf_index)?;
        let place = records_of(&archived.leaves[..stretch]) + (leaf_index - first);
        let read = self.opened(number, path).and_then(|opened| {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let [start, end] = opened
                .starts
                .get(place..place.saturating_add(2))
                .unwrap_or_default()
            else {
                return Err(io::Error::other("it has fewer lines than before"));
            };
            let mut line = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
            opened.file.read_exact_at(&mut line, *start)?;
            Ok(line)
        });
        match read {
            Ok(line) => Some(said(&line).unwrap_or_default()),
            Err(error) => {
                let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
                unread.get_or_insert_with(|| format!("archive/{}: {error}", archived.archive));
                None
            }
        }
    }

    /// What could not be read any more of what was added.
    pub(crate) fn unread(&self) -> Option<String> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn opened(&self, number: usize, path: &Path) -> io::Result<Arc<Opened>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, opened)) = open.iter().find(|(there, _)| *there == number) {
            return Ok(Arc::clone(opened));
        }
        let file = files::open(path)?;
        let starts = lines(&file, |_| {})?;
        let opened = Arc::new(Opened { file, starts });
        if open.len() >= OPEN_MAX {
            open.pop_front();
        }
        open.push_back((number, Arc::clone(&opened)));
        Ok(opened)
    }
}

fn said(line: &[u8]) -> Option<(Salt, Vec<u8>)> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        body: &'a RawValue,
        salt: &'a str,
    }
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some((unhex(line.salt.as_bytes())?, line.body.get().as_bytes().to_vec()))
}

/// Leaves of some stretches.
fn records_of(stretches: &[(u64, u64)]) -> u64 {
    let len = |&(first, last): &(u64, u64)| (last - first).saturating_add(1);
    stretches.iter().map(len).fold(0, u64::saturating_add)
}

/// Where each line begins, and where the last one ends. What stands behind that is no line.
fn lines(mut file: &File, mut bytes_read: impl FnMut(&[u8])) -> io::Result<Vec<u64>> {
    let (mut starts, mut at) = (vec![0_u64], 0_u64);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(starts);
        }
        let bytes = &buffer[..read];
        bytes_read(bytes);
        for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            let next = at + place as u64 + 1;
            let begun = starts.last().copied().unwrap_or_default();
            if next - begun > LINE_BYTES_MAX || starts.len() > evidence::record::ARCHIVED_RECORDS_MAX {
                let detail = "longer than an archive can be";
                return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
            }
            starts.push(next);
        }
        at += read as u64;
    }
}
