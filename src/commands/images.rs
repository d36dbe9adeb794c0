//! The files that a command reads and writes: files, folders with their sub-folders, standard input
//! and output. No output overwrites an input or another output.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    io::{Read, Write, stdin, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use explaind::picture::types::{extensions, is_image_extension};

use super::{tell, write_file};

const STANDARD: &str = "-";

/// One image or array.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// None for standard input.
    path: Option<PathBuf>,
    /// Relative path below the output folder, with the input's extension.
    name: PathBuf,
}

impl Source {
    pub(super) fn read(&self) -> anyhow::Result<Vec<u8>> {
        let Some(path) = &self.path else {
            let mut bytes = Vec::new();
            stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("standard input")?;
            return Ok(bytes);
        };
        fs::read(path).with_context(|| path.display().to_string())
    }

    /// The name in messages.
    pub(super) fn shown(&self) -> String {
        self.path.as_ref().map_or_else(
            || "standard input".to_owned(),
            |path| path.display().to_string(),
        )
    }
}

/// Reports why one of several images failed.
pub(super) fn tell_failed(source: &Source, error: &anyhow::Error) {
    crate::cli::tell(error)
        .iter()
        .for_each(|line| tell(format_args!("error: {}: {line}", source.shown())));
}

/// The images named on the command line.
#[derive(Debug)]
pub(super) struct Sources {
    pub all: Vec<Source>,
    /// Whether there are several, or a folder (which may hold several another time).
    pub are_many: bool,
}

impl Sources {
    /// Files, the images and arrays in folders and their sub-folders, and `-` for standard input.
    pub(super) fn of(given: &[PathBuf]) -> anyhow::Result<Self> {
        let mut sources = Self {
            all: Vec::new(),
            are_many: given.len() > 1,
        };
        for path in given {
            if path.as_os_str() == STANDARD {
                if sources.all.iter().any(|source| source.path.is_none()) {
                    bail!("standard input (-) can be read once");
                }
                sources.all.push(Source {
                    path: None,
                    name: "stdin".into(),
                });
            } else if path.is_dir() {
                let before = sources.all.len();
                add_folder(path, Path::new(""), &mut sources.all)?;
                sources.are_many = true;
                if sources.all.len() == before {
                    bail!(
                        "{} holds no images ({})",
                        path.display(),
                        extensions().collect::<Vec<_>>().join(", ")
                    );
                }
            } else {
                // A missing file is reported before work on others begins.
                fs::metadata(path).with_context(|| path.display().to_string())?;
                let name = path.file_name().unwrap_or_default().into();
                sources.all.push(Source {
                    path: Some(path.clone()),
                    name,
                });
            }
        }
        Ok(sources)
    }
}

fn add_folder(folder: &Path, below: &Path, all: &mut Vec<Source>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut entries = entries.with_context(|| folder.display().to_string())?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let extension = path
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        // Links to folders are not followed: they may form a loop.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_folder(&path, &below.join(name), all)?;
        } else if (is_image_extension(&extension) || extension == "npy") && path.is_file() {
            all.push(Source {
                path: Some(path),
                name: below.join(name),
            });
        }
    }
    Ok(())
}

/// Where results are written.
pub(super) struct Outputs {
    place: Place,
    extension: String,
    taken: HashSet<PathBuf>,
}

enum Place {
    Standard,
    File(PathBuf),
    Folder(PathBuf),
}

/// The formats that results may have, and the requested one.
pub(super) struct Formats<'a> {
    pub allowed: &'a [&'a str],
    pub asked: Option<&'a str>,
}

impl Formats<'_> {
    fn list(&self) -> String {
        self.allowed
            .iter()
            .map(|format| format!(".{}", extension(format)))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The format by a file's extension.
    fn of(&self, path: &Path) -> Option<String> {
        let format = canonical(&path.extension()?.to_string_lossy());
        self.allowed.contains(&format.as_str()).then_some(format)
    }
}

/// The name of a format that is written in any letter case, or as files end.
fn canonical(format: &str) -> String {
    match format.to_lowercase().as_str() {
        "jpg" => "jpeg".to_owned(),
        "zip" => "bundle".to_owned(),
        format => format.to_owned(),
    }
}

/// How files of a format end.
fn extension(format: &str) -> &str {
    match format {
        "bundle" => "zip",
        format => format,
    }
}

impl Outputs {
    /// The destinations of the results for `sources`, and the format.
    pub(super) fn new(
        output: &Path,
        sources: &Sources,
        formats: &Formats<'_>,
    ) -> anyhow::Result<(Self, String)> {
        let asked = formats.asked.map(canonical);
        let fallback = || {
            asked
                .clone()
                .unwrap_or_else(|| formats.allowed[0].to_owned())
        };
        let named = formats.of(output);
        let (place, format) = if output.as_os_str() == STANDARD {
            (Place::Standard, fallback())
        } else if output.is_dir() || output.to_string_lossy().ends_with('/') {
            (Place::Folder(output.to_owned()), fallback())
        } else if sources.are_many {
            if named.is_some() || output.is_file() {
                bail!(
                    "{}: several images need a folder to write to: -o FOLDER",
                    output.display()
                );
            }
            (Place::Folder(output.to_owned()), fallback())
        } else {
            match (named, &asked) {
                (Some(named), Some(asked)) if named != *asked => {
                    bail!(
                        "{}: the name says {named}, and --format {asked}",
                        output.display()
                    )
                }
                (Some(format), _) => (Place::File(output.to_owned()), format),
                (None, Some(asked)) => (Place::File(output.to_owned()), asked.clone()),
                (None, None) => bail!(
                    "{}: the output's name must end in {}, or in / for a folder",
                    output.display(),
                    formats.list()
                ),
            }
        };
        let inputs = sources
            .all
            .iter()
            .filter_map(|source| source.path.as_ref()?.canonicalize().ok())
            .collect();
        if let Place::File(path) = &place
            && path
                .canonicalize()
                .is_ok_and(|path| HashSet::contains(&inputs, &path))
        {
            bail!("{} is the input: name another output", path.display());
        }
        let extension = match format.as_str() {
            "jpeg" => "jpg",
            format => extension(format),
        };
        Ok((
            Self {
                place,
                extension: extension.to_owned(),
                taken: inputs,
            },
            format,
        ))
    }

    /// Whether results go to standard output, which then carries no messages.
    pub(super) fn is_standard(&self) -> bool {
        matches!(self.place, Place::Standard)
    }

    /// Writes a result and returns the path of its file.
    pub(super) fn write(
        &mut self,
        source: &Source,
        answer: &[u8],
    ) -> anyhow::Result<Option<PathBuf>> {
        let path = match &self.place {
            Place::Standard => {
                let mut stdout = stdout().lock();
                stdout.write_all(answer)?;
                // Results of several images are one JSON line each.
                if self.extension == "json" {
                    stdout.write_all(b"\n")?;
                }
                stdout.flush()?;
                return Ok(None);
            }
            Place::File(path) => path.clone(),
            Place::Folder(folder) => {
                let wanted = folder.join(&source.name);
                self.claim(&wanted)?
            }
        };
        write_file(&path, answer)?;
        Ok(Some(path))
    }

    /// Claims a name that is neither an input's nor another output's: `a.png` for `a.jpg`, then
    /// `a.jpg.png`, `a-2.png` and so on.
    fn claim(&mut self, wanted: &Path) -> anyhow::Result<PathBuf> {
        let folder = wanted.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let folder = folder.canonicalize()?;
        let named = |stem: &std::ffi::OsStr, more: &str| {
            let mut name = OsString::from(stem);
            name.push(format!("{more}.{}", self.extension));
            name
        };
        let (stem, whole) = (
            wanted.file_stem().unwrap_or_default(),
            wanted.file_name().unwrap_or_default(),
        );
        let numbered = (2..).map(|n| named(stem, &format!("-{n}")));
        let mut names = [named(stem, ""), named(whole, "")]
            .into_iter()
            .chain(numbered);
        let name = names
            .find(|name| !self.taken.contains(&folder.join(name)))
            .unwrap_or_default();
        self.taken.insert(folder.join(&name));
        Ok(wanted.with_file_name(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_keep_sub_folders_and_take_no_name_that_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("in/sub")).unwrap();
        for name in [
            "in/a.jpg",
            "in/a.png",
            "in/sub/a.jpg",
            "in/.hidden.png",
            "in/notes.txt",
            "a.jpg",
        ] {
            fs::write(at(name), "x").unwrap();
        }
        let sources = Sources::of(&[at("in"), at("a.jpg")]).unwrap();
        let formats = Formats {
            allowed: &["png", "json"],
            asked: None,
        };
        let write = |to: PathBuf| {
            let (mut outputs, format) = Outputs::new(&to, &sources, &formats).unwrap();
            assert_eq!(format, "png");
            let paths = sources
                .all
                .iter()
                .map(|source| outputs.write(source, b"map").unwrap().unwrap());
            paths
                .map(|path| path.strip_prefix(&to).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            write(at("out")),
            ["a.png", "a.png.png", "sub/a.png", "a.jpg.png"]
        );
        assert_eq!(
            write(at("out")),
            ["a.png", "a.png.png", "sub/a.png", "a.jpg.png"],
            "again over the first ones"
        );
        std::os::unix::fs::symlink(at("out"), at("link")).unwrap();
        assert_eq!(
            write(at("link/new")),
            ["a.png", "a.png.png", "sub/a.png", "a.jpg.png"],
            "by another path"
        );
        // a.png is an input there.
        assert_eq!(
            write(at("in")),
            ["a.jpg.png", "a.png.png", "sub/a.png", "a-2.png"]
        );
        assert_eq!(fs::read(at("in/a.png")).unwrap(), b"x");
    }

    #[test]
    fn a_single_output_is_a_file_of_a_known_kind_and_not_the_input() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("a.png");
        fs::write(&input, "x").unwrap();
        let sources = Sources::of(std::slice::from_ref(&input)).unwrap();
        let format = |output: &Path, asked| {
            let formats = Formats {
                allowed: &["png", "jpeg", "json"],
                asked,
            };
            Outputs::new(output, &sources, &formats)
                .map(|(_, format)| format)
                .map_err(|error| error.to_string())
        };
        for (name, asked, expected) in [
            ("b.JPG", None, "jpeg"),
            ("b", Some("json"), "json"),
            ("-", None, "png"),
        ] {
            assert_eq!(format(Path::new(name), asked).unwrap(), expected);
        }
        for (name, asked, part) in [
            ("b.gif", None, ".png, .jpeg, .json"),
            ("b.png", Some("json"), "--format json"),
        ] {
            assert!(
                format(Path::new(name), asked).unwrap_err().contains(part),
                "{name}"
            );
        }
        assert!(format(&input, None).unwrap_err().contains("is the input"));
    }
}
