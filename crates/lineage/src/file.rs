//! Opening what a log names: regular files only, and noticing when one changes while it is read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

/// Read at once when a file is hashed.
const HASH_CHUNK_BYTES: usize = 256 * 1024;

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error("there is no such file")]
    NotFound,
    /// A link may lead anywhere.
    #[error("is a symbolic link, which is not followed")]
    Symlink,
    /// A folder.
    #[error("is a directory")]
    Directory,
    /// A pipe, socket or device.
    #[error("is a {0}, not a file")]
    Special(&'static str),
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Self::Symlink,
            _ => Self::Io(error),
        }
    }
}

/// A regular file, and how it was when it was opened.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    path: PathBuf,
    state: State,
}

/// What a write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn regular(metadata: &Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    Err(if kind.is_symlink() {
        OpenError::Symlink
    } else if kind.is_dir() {
        OpenError::Directory
    } else if kind.is_fifo() {
        OpenError::Special("pipe")
    } else if kind.is_socket() {
        OpenError::Special("socket")
    } else {
        OpenError::Special("device")
    })
}

impl SourceFile {
    /// Opens a regular file; neither a link nor anything that may block.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        regular(&std::fs::symlink_metadata(path)?)?;
        // Between the look and the opening it may have become something else: a pipe must not block, a link
        // must not be followed, and what was opened is looked at again.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        Self::opened(file, path)
    }

    /// Opens a regular file of which no folder is a link either. The path is absolute and without `..`, as
    /// canonical paths are: what was asked of it beforehand, where it lies, is true of what is opened, even when
    /// somebody puts a link in the place of a folder meanwhile.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open_without_links(path: &Path) -> Result<Self, OpenError> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut folder = fs::open("/", step, Mode::empty()).map_err(io::Error::from)?;
        let mut names = path.components().peekable();
        if names.next() != Some(Component::RootDir) {
            return Err(OpenError::NotFound);
        }
        while let Some(component) = names.next() {
            let Component::Normal(name) = component else {
                return Err(OpenError::NotFound);
            };
            if names.peek().is_some() {
                folder = fs::openat(&folder, name, step, Mode::empty()).map_err(io::Error::from)?;
                continue;
            }
            // As in `open`: first what it is, since to open a device may do something.
            let found = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
                return Err(regular(&std::fs::symlink_metadata(path)?)
                    .err()
                    .unwrap_or(OpenError::NotFound));
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = fs::openat(&folder, name, flags, Mode::empty()).map_err(io::Error::from)?;
            return Self::opened(file.into(), path);
        }
        Err(OpenError::Directory)
    }

    fn opened(file: File, path: &Path) -> Result<Self, OpenError> {
        let metadata = file.metadata()?;
        regular(&metadata)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            state: State::of(&metadata),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// Another handle, at the file's beginning.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn rewound(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// The bytes from `offset` on, `bytes` of them.
    ///
    /// # Errors
    /// They are not there.
    pub fn part(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(offset))?;
        let mut part = vec![0; bytes];
        file.read_exact(&mut part)?;
        Ok(part)
    }

    /// Whether it is as it was when it was opened, and still the file of that name.
    pub fn is_unchanged(&self) -> bool {
        let same = |metadata: io::Result<Metadata>| {
            metadata.is_ok_and(|metadata| State::of(&metadata) == self.state)
        };
        same(self.file.metadata()) && same(std::fs::symlink_metadata(&self.path))
    }
}

/// SHA-256 of a file's bytes, hex.
///
/// # Errors
/// It cannot be read, or changes meanwhile.
pub fn hash_file(file: &SourceFile, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut reader = file.rewound()?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; HASH_CHUNK_BYTES];
    let mut done = 0;
    loop {
        let read = reader.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hash.update(chunk.get(..read).unwrap_or_default());
        done += u64::try_from(read).unwrap_or(0);
        progress(done);
    }
    if !file.is_unchanged() {
        return Err(io::Error::other("it changed while it was read"));
    }
    Ok(hex(hash))
}

/// A finished hash, hex.
pub(crate) fn hex(hash: Sha256) -> String {
    evidence::hex_string(&hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_becomes_a_link_leads_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for folder in ["in/data", "out/data"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
            std::fs::write(root.join(folder).join("a.csv"), folder).unwrap();
        }
        let path = root.join("in/data/a.csv");
        let file = SourceFile::open_without_links(&path).unwrap();
        assert_eq!(file.part(0, 7).unwrap(), b"in/data");
        // As by somebody who waited until the path was looked at.
        std::fs::rename(root.join("in/data"), root.join("in/moved")).unwrap();
        std::os::unix::fs::symlink(root.join("out/data"), root.join("in/data")).unwrap();
        assert!(SourceFile::open(&path).is_ok(), "which is why it is not enough");
        assert!(SourceFile::open_without_links(&path).is_err());
        for name in ["in/data", "in/moved", "in/../out/data/a.csv", "in/none"] {
            assert!(
                SourceFile::open_without_links(&root.join(name)).is_err(),
                "{name}"
            );
        }
        assert!(matches!(
            SourceFile::open_without_links(&root.join("in/moved")),
            Err(OpenError::Directory)
        ));
        assert!(SourceFile::open_without_links(Path::new("a.csv")).is_err());
        assert!(SourceFile::open_without_links(Path::new("/")).is_err());
    }
}
