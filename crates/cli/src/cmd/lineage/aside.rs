//! A file that is there whole or not at all: written aside in its folder, and named when it is on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file under a name of its own, which nobody takes for a log. It is taken away when it is dropped.
pub(super) struct Aside {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Aside {
    /// Begins what will be `target`; makes its folder if need be.
    pub(super) fn create(target: &Path) -> Result<Self> {
        let folder = folder_of(target);
        fs::create_dir_all(folder).with_context(|| format!("cannot write into {}", folder.display()))?;
        // A name that no other process takes, so that two exports do not write into one file.
        let mut random = [0; 8];
        getrandom::fill(&mut random).context("no random numbers")?;
        let path = folder.join(format!(".export-{}.new", evidence::hex_string(&random)));
        let file =
            File::create_new(&path).with_context(|| format!("cannot write into {}", folder.display()))?;
        Ok(Self {
            path,
            file: BufWriter::with_capacity(256 * 1024, file),
        })
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.file.write_all(b"\n")
    }

    /// Gives it its name once it is on disk. Whether another was replaced.
    ///
    /// # Errors
    /// It cannot be written, or is there already and not to be replaced.
    pub(super) fn publish(mut self, target: &Path, replace: bool) -> io::Result<bool> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let replaced = replace && target.symlink_metadata().is_ok();
        if replace {
            fs::rename(&self.path, target)?;
        } else {
            // A second name is refused where there is a file, a rename is not.
            match fs::hard_link(&self.path, target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                // A file system without links.
                Err(_) if target.symlink_metadata().is_ok() => {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                Err(_) => fs::rename(&self.path, target)?,
                Ok(()) => fs::remove_file(&self.path)?,
            }
        }
        File::open(folder_of(target))?.sync_all()?;
        Ok(replaced)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Of one that has its name nothing is left here.
        let _ = fs::remove_file(&self.path);
    }
}

fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all_and_none_is_written_over_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/b");
        let target = out.join("audit_r.jsonl");
        let write = |text: &str| {
            let mut aside = Aside::create(&target).unwrap();
            aside.line(text.as_bytes()).unwrap();
            aside
        };
        drop(write("broken off"));
        assert_eq!(names(&out), Vec::<String>::new());
        assert!(!write("first").publish(&target, false).unwrap());
        let refused = write("second").publish(&target, false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&target).unwrap(), "first\n");
        assert!(write("third").publish(&target, true).unwrap());
        assert_eq!(fs::read_to_string(&target).unwrap(), "third\n");
        assert_eq!(names(&out), ["audit_r.jsonl"]);
        fs::remove_file(&target).unwrap();
        assert!(!write("fourth").publish(&target, true).unwrap());
        // Of a link the link is replaced, not what it leads to.
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        fs::remove_file(&target).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &target).unwrap();
        assert!(write("fifth").publish(&target, false).is_err());
        assert!(write("fifth").publish(&target, true).unwrap());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "kept");
        assert_eq!(fs::read_to_string(&target).unwrap(), "fifth\n");
        assert_eq!(names(&out), ["audit_r.jsonl"]);
    }
}
