//! Where the file that a log names is now.
//!
//! A log names files as they were on the machine that wrote it. Here a name becomes a file: as it stands, with its
//! separators turned, or moved by a mapping. A file is opened only beneath a root: those given, else the working
//! folder, the log's folder, the folder around it, and the one that holds `out`; a mapping's target is a root of its
//! own. Symbolic links are resolved before that is asked, and the file itself may be none.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::{OpenError, SourceFile, shown};

/// Where files are looked for.
#[derive(Debug)]
pub struct Places {
    /// Relative names are joined to these, in this order.
    homes: Vec<PathBuf>,
    /// Canonical; nothing outside is opened.
    roots: Vec<PathBuf>,
    maps: Vec<Map>,
}

/// Names that begin with `from` stand under `to`.
#[derive(Debug)]
struct Map {
    from: String,
    to: PathBuf,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The log names none.
    #[error("the evidence names no file (uri is null or empty); --map =FILE says which it was")]
    NoUri,
    /// It is somewhere in a network.
    #[error("{0} is no file here; --map {0}=FILE names a copy of it")]
    Url(String),
    /// It is a path of another kind of machine.
    #[error("{0} is a path of another machine; --map FROM=TO says where it is here")]
    Foreign(String),
    /// It is not there.
    #[error("{0} is missing; --map FROM=TO says where it is now")]
    Missing(String),
    /// It may not be opened.
    #[error("{0} lies outside of the roots and is not opened; --root DIR makes a folder one")]
    Outside(String),
    /// It is there and is no file.
    #[error("{0} {1}")]
    NoFile(String, OpenError),
}

impl PlaceError {
    /// A file may have been moved or renamed.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoUri | Self::Foreign(_) | Self::Missing(_))
    }
}

impl Places {
    /// For a log in `log_folder`, asked for in `working`. Without roots the folders named above are.
    ///
    /// # Errors
    /// A given root is not there.
    pub fn new(
        working: &Path,
        log_folder: Option<&Path>,
        roots: &[PathBuf],
        maps: &[(String, PathBuf)],
    ) -> io::Result<Self> {
        let mut homes = vec![working.canonicalize()?];
        // The root of the file system is nobody's folder of data.
        let near = |path: &PathBuf| path.parent().is_some();
        if let Some(folder) = log_folder.and_then(|folder| folder.canonicalize().ok()) {
            let above = folder.ancestors().find(|part| part.ends_with("out"));
            let above = above.and_then(Path::parent).map(Path::to_owned);
            let around = folder.parent().map(Path::to_owned);
            for home in [Some(folder.clone()), around, above].into_iter().flatten() {
                if near(&home) && !homes.contains(&home) {
                    homes.push(home);
                }
            }
        }
        let roots = if roots.is_empty() {
            homes.iter().filter(|home| near(home)).cloned().collect()
        } else {
            let roots: io::Result<Vec<PathBuf>> = roots.iter().map(|root| root.canonicalize()).collect();
            let roots = roots?;
            for root in &roots {
                if !homes.contains(root) {
                    homes.push(root.clone());
                }
            }
            roots
        };
        let mut maps: Vec<Map> = maps
            .iter()
            .map(|(from, to)| Map {
                from: turned(from).trim_end_matches('/').to_owned(),
                to: working.join(to),
            })
            .collect();
        // The longest beginning says most.
        maps.sort_by_key(|map| std::cmp::Reverse(map.from.len()));
        Ok(Self { homes, roots, maps })
    }

    /// The folders beneath which files are opened.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Opens the file that a log names so.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn open(&self, uri: Option<&str>) -> Result<SourceFile, PlaceError> {
        // Writers that had no name wrote an empty one.
        let Some(uri) = uri.filter(|uri| !uri.is_empty()) else {
            let given = self
                .maps
                .iter()
                .find(|map| map.from.is_empty() || map.from == "null");
            return match given {
                Some(map) => open_mapped(&map.to.display().to_string(), &map.to, ""),
                None => Err(PlaceError::NoUri),
            };
        };
        let name = shown(uri);
        let plain = without_scheme(uri);
        let path = plain.as_deref().map(turned);
        // A name in a network has no path here, but a mapping may say where a copy of it is.
        let given = turned(uri);
        for map in self.maps.iter().filter(|map| !map.from.is_empty()) {
            for known in path.iter().chain([&given]) {
                match known.strip_prefix(map.from.as_str()) {
                    Some("") => return open_mapped(&name, &map.to, ""),
                    Some(rest) if rest.starts_with('/') => return open_mapped(&name, &map.to, rest),
                    _ => {}
                }
            }
        }
        let (Some(plain), Some(path)) = (plain, path) else {
            return Err(PlaceError::Url(name));
        };
        if is_foreign(&path) {
            return Err(PlaceError::Foreign(name));
        }
        let mut outside = false;
        for spelling in [plain.as_str(), path.as_str()] {
            for candidate in self.candidates(Path::new(spelling)) {
                match open_beneath(&candidate, &self.roots) {
                    Ok(Some(file)) => return Ok(file),
                    Ok(None) => outside = true,
                    Err(OpenError::NotFound) => {}
                    Err(error) => return Err(PlaceError::NoFile(name, error)),
                }
            }
        }
        Err(if outside {
            PlaceError::Outside(name)
        } else {
            PlaceError::Missing(name)
        })
    }

    fn candidates(&self, path: &Path) -> Vec<PathBuf> {
        if path.is_absolute() {
            return vec![path.to_owned()];
        }
        self.homes.iter().map(|home| home.join(path)).collect()
    }
}

fn open_mapped(name: &str, to: &Path, rest: &str) -> Result<SourceFile, PlaceError> {
    let rest = rest.trim_start_matches('/');
    let path = if rest.is_empty() {
        to.to_owned()
    } else {
        to.join(rest)
    };
    // A folder that was named is a root; of a file that was named, only itself is.
    let root = if rest.is_empty() { to.parent() } else { Some(to) };
    let root = root.and_then(|root| root.canonicalize().ok());
    let roots: Vec<PathBuf> = root.into_iter().collect();
    match open_beneath(&path, &roots) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(PlaceError::Outside(name.to_owned())),
        Err(OpenError::NotFound) => Err(PlaceError::Missing(shown(&path.display().to_string()))),
        Err(error) => Err(PlaceError::NoFile(shown(&path.display().to_string()), error)),
    }
}

/// `None`: it is not beneath any of them, and whether it is there is not said.
fn open_beneath(path: &Path, roots: &[PathBuf]) -> Result<Option<SourceFile>, OpenError> {
    let Some(Component::Normal(name)) = path.components().next_back() else {
        return Err(OpenError::Directory);
    };
    let folder = match path.parent().map(Path::canonicalize) {
        Some(Ok(folder)) => folder,
        Some(Err(error)) => return Err(error.into()),
        None => return Err(OpenError::Directory),
    };
    let path = folder.join(name);
    if !roots.iter().any(|root| path.starts_with(root)) {
        return Ok(None);
    }
    SourceFile::open_without_links(&path).map(Some)
}

/// With this machine's separators.
fn turned(path: &str) -> String {
    path.replace('\\', "/")
}

/// `C:/…` or `//server/…`.
fn is_foreign(path: &str) -> bool {
    let mut bytes = path.bytes();
    let drive = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic()) && bytes.next() == Some(b':');
    drive || path.starts_with("//")
}

/// The path of a `file:` URL, or the text as it is; `None` for other URLs.
fn without_scheme(uri: &str) -> Option<String> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Some(uri.to_owned());
    };
    if !scheme.eq_ignore_ascii_case("file") {
        return None;
    }
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    // file:///C:/x is C:/x.
    let path = rest
        .strip_prefix('/')
        .filter(|path| is_foreign(path))
        .unwrap_or(rest);
    Some(percent_decoded(path))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut place = 0;
    while let Some(byte) = bytes.get(place) {
        let pair = bytes
            .get(place + 1..place + 3)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let decoded = pair
            .filter(|pair| *byte == b'%' && pair.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        out.push(decoded.unwrap_or(*byte));
        place += if decoded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        make("close/data/supporting/a b.csv");
        make("close/out/run_1/audit_1.jsonl");
        make("elsewhere/secret.csv");
        make("work/here.csv");
        folder
    }

    fn places(folder: &Path, roots: &[PathBuf], maps: &[(&str, &str)]) -> Places {
        let maps: Vec<(String, PathBuf)> = maps
            .iter()
            .map(|(from, to)| ((*from).to_owned(), folder.join(to)))
            .collect();
        Places::new(
            &folder.join("work"),
            Some(&folder.join("close/out/run_1")),
            roots,
            &maps,
        )
        .unwrap()
    }

    #[test]
    fn names_of_other_machines_become_files_here() {
        let folder = fixture();
        let root = folder.path();
        let plain = places(root, &[], &[]);
        let absolute = root.join("close/data/supporting/a b.csv");
        for uri in [
            "data/supporting/a b.csv",
            r"data\supporting\a b.csv",
            r".\data/supporting\a b.csv",
            "here.csv",
            absolute.to_str().unwrap(),
            &format!("file://{}", absolute.to_str().unwrap().replace(' ', "%20")),
        ] {
            assert!(plain.open(Some(uri)).is_ok(), "{uri}");
        }
        let mapped = places(
            root,
            &[],
            &[
                (r"C:\Users\x\close", "close"),
                ("/old", "work"),
                ("/old/data/", "close/data"),
                ("", "work/here.csv"),
            ],
        );
        for uri in [
            Some(r"C:\Users\x\close\data\supporting\a b.csv"),
            Some("file:///C:/Users/x/close/data/supporting/a%20b.csv"),
            Some("/old/here.csv"),
            Some("/old/data/supporting/a b.csv"),
            None,
        ] {
            assert!(mapped.open(uri).is_ok(), "{uri:?}");
        }
        assert!(matches!(
            mapped.open(Some("/older/here.csv")),
            Err(PlaceError::Missing(_))
        ));
        assert!(matches!(
            plain.open(Some(r"D:\x.csv")),
            Err(PlaceError::Foreign(_))
        ));
        assert!(matches!(
            plain.open(Some("s3://b/x.csv")),
            Err(PlaceError::Url(_))
        ));
        for none in [None, Some("")] {
            assert!(matches!(plain.open(none), Err(PlaceError::NoUri)), "{none:?}");
            assert!(mapped.open(none).is_ok(), "{none:?}");
        }
        assert!(matches!(
            plain.open(Some("nowhere.csv")),
            Err(PlaceError::Missing(_))
        ));
    }

    #[test]
    fn a_name_in_a_network_is_where_a_map_says() {
        let folder = fixture();
        let root = folder.path();
        for (from, to) in [
            ("s3://b/old/x.csv", "work/here.csv"),
            ("s3://b/old/x.csv", "close/data/supporting/a b.csv"),
        ] {
            let mapped = places(root, &[], &[(from, to)]);
            assert!(mapped.open(Some("s3://b/old/x.csv")).is_ok(), "{to}");
            for other in ["s3://b/old/x.csv2", "s3://b/old", "https://b/old/x.csv"] {
                assert!(
                    matches!(mapped.open(Some(other)), Err(PlaceError::Url(_))),
                    "{other}"
                );
            }
        }
        for from in ["s3://b/old", "s3://b/old/", "s3://b"] {
            let mapped = places(root, &[], &[(from, "work")]);
            let uri = format!("{}/here.csv", from.trim_end_matches('/'));
            assert!(mapped.open(Some(&uri)).is_ok(), "{from}");
            assert!(matches!(
                mapped.open(Some("s3://b/old/../../../elsewhere/secret.csv")),
                Err(PlaceError::Outside(_) | PlaceError::Missing(_))
            ));
        }
    }

    #[test]
    fn nothing_outside_the_roots_is_opened() {
        let folder = fixture();
        let root = folder.path();
        let secret = root.join("elsewhere/secret.csv");
        let plain = places(root, &[], &[]);
        for uri in [secret.to_str().unwrap(), "/etc/passwd", "../elsewhere/secret.csv"] {
            assert!(
                matches!(plain.open(Some(uri)), Err(PlaceError::Outside(_))),
                "{uri}"
            );
        }
        let given = places(root, &[root.join("elsewhere")], &[]);
        assert!(given.open(secret.to_str()).is_ok());
        // A root that was given is instead of the others.
        assert!(matches!(
            given.open(Some("here.csv")),
            Err(PlaceError::Outside(_))
        ));
        let mapped = places(root, &[], &[("/old", "work")]);
        for uri in ["/old/../elsewhere/secret.csv", r"/old\..\..\..\..\etc\passwd"] {
            assert!(mapped.open(Some(uri)).is_err(), "{uri}");
        }
        // A link inside that leads outside.
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join("work/link")).unwrap();
        assert!(matches!(
            plain.open(Some("link/secret.csv")),
            Err(PlaceError::Outside(_))
        ));
        std::os::unix::fs::symlink(&secret, root.join("work/file.csv")).unwrap();
        assert!(matches!(
            plain.open(Some("file.csv")),
            Err(PlaceError::NoFile(_, OpenError::Symlink))
        ));
        assert!(matches!(
            plain.open(Some("data")),
            Err(PlaceError::NoFile(_, OpenError::Directory))
        ));
    }

    #[test]
    fn a_command_that_is_given_at_the_root_opens_not_everything() {
        let folder = fixture();
        let secret = folder.path().join("elsewhere/secret.csv");
        let log = folder.path().join("close/out/run_1");
        let places = Places::new(Path::new("/"), Some(&log), &[], &[]).unwrap();
        for uri in [secret.to_str().unwrap(), "etc/passwd", "/etc/passwd"] {
            assert!(
                matches!(places.open(Some(uri)), Err(PlaceError::Outside(_))),
                "{uri}"
            );
        }
        assert!(places.open(Some("data/supporting/a b.csv")).is_ok());
        let said = Places::new(Path::new("/"), Some(&log), &[PathBuf::from("/")], &[]).unwrap();
        assert!(said.open(secret.to_str()).is_ok());
    }

    #[test]
    fn a_pipe_does_not_block() {
        let folder = fixture();
        let pipe = folder.path().join("work/pipe.csv");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        assert!(matches!(
            places(folder.path(), &[], &[]).open(Some("pipe.csv")),
            Err(PlaceError::NoFile(_, OpenError::Special("pipe")))
        ));
    }
}
