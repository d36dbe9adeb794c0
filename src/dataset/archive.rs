//! Unpacks the files that are wanted of an uploaded zip, tar or tar.gz, never outside of the target
//! folder, and within limits. The first violation refuses the whole archive. Sizes are
//! counted as bytes are written, since headers of zip bombs lie.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{EntryType, PaxExtensions};
use zip::{CompressionMethod, ZipArchive};

use super::{
    is_image,
    listing::{Ignored, is_table},
};
use crate::{
    quota::{QuotaError, Reservation, on_disk},
    text::excerpt,
};

/// The longest path of an entry, in bytes, and the deepest folder.
const MAX_PATH: usize = 1024;
const MAX_DEPTH: usize = 16;
/// The largest extended header of a tar: it holds a path and a few numbers.
const MAX_EXTENSION: u64 = 64 << 10;
/// Unpacked bytes per packed byte; compressed photos have about 1, and plain bitmaps stay below the
/// limit.
const MAX_RATIO: u64 = 200;
/// Bytes that may be unpacked whatever the ratio.
const FREE_BYTES: u64 = 32 << 20;

/// Limits of an archive.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveLimits {
    /// Of the archive, and of its unpacked files.
    pub max_bytes: u64,
    /// Entries of any type.
    pub max_files: usize,
    /// Uploaded data sets at any time.
    pub max_sets: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("this is no archive; send a zip, a tar or a tar.gz")]
    Unknown,
    #[error("the archive cannot be read: {reason}")]
    Broken { reason: String },
    #[error("entry {entry:?} {reason}")]
    Entry { entry: String, reason: &'static str },
    #[error("the archive has more than {limit} entries")]
    TooManyFiles { limit: usize },
    #[error("the archive is larger than {limit} bytes, packed or unpacked")]
    TooLarge { limit: u64 },
    #[error("the archive unpacks to more than {MAX_RATIO} times its size")]
    Ratio,
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error("the server's storage of data sets failed: {}", source.kind())]
    Write { path: PathBuf, source: io::Error },
}

/// Unpacks the files of `archive` whose names are wanted into the empty folder `into`, reserving
/// quota as bytes are written; returns the files that were skipped.
pub fn unpack(
    archive: &mut File,
    into: &Path,
    is_wanted: fn(&str) -> bool,
    limits: ArchiveLimits,
    reserved: &mut Reservation,
) -> Result<Ignored, ArchiveError> {
    let packed = archive.seek(SeekFrom::End(0)).map_err(broken)?;
    if packed > limits.max_bytes {
        return Err(ArchiveError::TooLarge {
            limit: limits.max_bytes,
        });
    }
    let mut start = [0; 512];
    archive.rewind().map_err(broken)?;
    let length = read_up_to(archive, &mut start).map_err(broken)?;
    archive.rewind().map_err(broken)?;
    let budget = (packed.saturating_mul(MAX_RATIO) + FREE_BYTES).min(limits.max_bytes);
    let mut unpacking = Unpacking {
        into,
        is_wanted,
        limits,
        reserved,
        budget,
        left: budget,
        entries: 0,
        ignored: Ignored::default(),
        seen: HashSet::new(),
    };
    match &start[..length] {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => unpacking.zip(archive)?,
        [0x1f, 0x8b, ..] => unpacking.tar(MultiGzDecoder::new(BufReader::new(archive)))?,
        block if block.get(257..262) == Some(b"ustar") => unpacking.tar(BufReader::new(archive))?,
        _ => return Err(ArchiveError::Unknown),
    }
    Ok(unpacking.ignored)
}

fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

fn broken(reason: impl ToString) -> ArchiveError {
    ArchiveError::Broken {
        reason: excerpt(&reason.to_string()).into_owned(),
    }
}

fn refuse(entry: &str, reason: &'static str) -> ArchiveError {
    ArchiveError::Entry {
        entry: excerpt(entry).into_owned(),
        reason,
    }
}

struct Unpacking<'a> {
    into: &'a Path,
    is_wanted: fn(&str) -> bool,
    limits: ArchiveLimits,
    reserved: &'a mut Reservation,
    /// The bytes that may be unpacked, and how many are left.
    budget: u64,
    left: u64,
    entries: usize,
    ignored: Ignored,
    seen: HashSet<PathBuf>,
}

impl Unpacking<'_> {
    fn zip(&mut self, archive: &mut File) -> Result<(), ArchiveError> {
        if zip_entries(archive).map_err(broken)? > self.limits.max_files as u64 {
            return Err(ArchiveError::TooManyFiles {
                limit: self.limits.max_files,
            });
        }
        let mut archive = ZipArchive::new(BufReader::new(archive))
            .map_err(|_| broken("its list of files is cut off or damaged"))?;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(broken)?;
            let name = entry.name().map_err(broken)?.into_owned();
            self.count()?;
            if entry.is_dir() {
                check_path(&name)?;
                continue;
            }
            if entry.is_symlink()
                || entry
                    .unix_mode()
                    .is_some_and(|mode| !matches!(mode & 0o170_000, 0 | 0o100_000))
            {
                return Err(refuse(&name, "is no plain file"));
            }
            if !matches!(
                entry.compression(),
                CompressionMethod::Stored | CompressionMethod::Deflated
            ) {
                return Err(refuse(
                    &name,
                    "is packed in another way than stored or deflated",
                ));
            }
            if let Some(path) = self.place(&name)? {
                self.write(&name, &path, &mut entry)?;
            }
        }
        Ok(())
    }

    /// Extended headers are parsed here: the library would trust their sizes.
    fn tar(&mut self, stream: impl Read) -> Result<(), ArchiveError> {
        // Skipped entries are read too, so the stream is bounded. Headers and padding come on top
        // of the files: valid archives stay below twice the budget.
        let mut archive = tar::Archive::new(stream.take(self.budget.saturating_mul(2)));
        let mut long_name: Option<String> = None;
        for entry in archive.entries().map_err(broken)?.raw(true) {
            let mut entry = entry.map_err(broken)?;
            self.count()?;
            let kind = entry.header().entry_type();
            if matches!(kind, EntryType::GNULongName | EntryType::XHeader) {
                let text = extension(&mut entry)?;
                match kind {
                    EntryType::GNULongName => {
                        long_name = Some(
                            String::from_utf8_lossy(&text)
                                .trim_end_matches('\0')
                                .to_owned(),
                        );
                    }
                    _ => long_name = pax_path(&text)?.or(long_name),
                }
                continue;
            }
            let name = match long_name.take() {
                Some(name) => name,
                None => String::from_utf8(entry.path_bytes().into_owned()).map_err(broken)?,
            };
            match kind {
                EntryType::XGlobalHeader => {}
                EntryType::Directory => drop(check_path(&name)?),
                EntryType::Regular | EntryType::Continuous => {
                    if let Some(path) = self.place(&name)? {
                        self.write(&name, &path, &mut entry)?;
                    }
                }
                _ => return Err(refuse(&name, "is no plain file")),
            }
        }
        // Reads to the end of the stream, where compressed data has its checksum.
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
        if rest.limit() == 0 {
            Err(over(self.budget, self.limits.max_bytes))
        } else {
            Ok(())
        }
    }

    fn count(&mut self) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries > self.limits.max_files {
            return Err(ArchiveError::TooManyFiles {
                limit: self.limits.max_files,
            });
        }
        Ok(())
    }

    /// The destination of a file; `None` for a file that is not wanted. Checks every path, also
    /// of ignored files.
    fn place(&mut self, name: &str) -> Result<Option<PathBuf>, ArchiveError> {
        let path = check_path(name)?;
        if path
            .iter()
            .any(|part| part.as_encoded_bytes().starts_with(b".") || part == "__MACOSX")
        {
            return Ok(None);
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if !(self.is_wanted)(&file) {
            self.ignored.add(&file);
            return Ok(None);
        }
        if !self.seen.insert(path.clone()) {
            return Err(refuse(name, TWICE));
        }
        Ok(Some(self.into.join(path)))
    }

    fn write(
        &mut self,
        name: &str,
        path: &Path,
        content: &mut impl Read,
    ) -> Result<(), ArchiveError> {
        let failed = |source| failed(name, path, source);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .map_err(failed)?;
        let mut file = File::create_new(path).map_err(failed)?;
        let (mut piece, mut length, mut reserved) = ([0; 64 << 10], 0, 0);
        loop {
            let read = content.read(&mut piece).map_err(broken)?;
            if read == 0 {
                return Ok(());
            }
            self.left = self
                .left
                .checked_sub(read as u64)
                .ok_or_else(|| over(self.budget, self.limits.max_bytes))?;
            length += read as u64;
            if on_disk(length) > reserved {
                self.reserved.grow(on_disk(length) - reserved)?;
                reserved = on_disk(length);
            }
            io::Write::write_all(&mut file, &piece[..read]).map_err(failed)?;
        }
    }
}

/// Descends into a single top-level folder of an archive, unless the folder holds images alone: its
/// name may be their label.
pub fn root_of(folder: &Path) -> io::Result<PathBuf> {
    let mut folder = folder.to_owned();
    loop {
        let entries = fs::read_dir(&folder)?.collect::<io::Result<Vec<_>>>()?;
        match entries.as_slice() {
            [only] if only.path().is_dir() && !holds_images_alone(&only.path())? => {
                folder = only.path()
            }
            _ => return Ok(folder),
        }
    }
}

fn holds_images_alone(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().is_dir() || entry.file_name().to_str().is_some_and(is_table) {
            return Ok(false);
        }
    }
    Ok(true)
}

const TWICE: &str = "is there twice, or as a file and as a folder";

/// The error for a failed write: names that the disk cannot store are faults of the archive.
fn failed(name: &str, path: &Path, source: io::Error) -> ArchiveError {
    match source.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            refuse(name, TWICE)
        }
        ErrorKind::InvalidFilename | ErrorKind::InvalidInput => refuse(
            name,
            "has a name that cannot be stored: shorten its parts, and leave out special characters",
        ),
        _ => {
            tracing::warn!("{}: {source}", path.display());
            ArchiveError::Write {
                path: path.to_owned(),
                source,
            }
        }
    }
}

fn over(budget: u64, limit: u64) -> ArchiveError {
    if budget < limit {
        ArchiveError::Ratio
    } else {
        ArchiveError::TooLarge { limit }
    }
}

/// What data sets are made of.
pub fn is_dataset_file(file: &str) -> bool {
    is_image(file) || is_table(file)
}

/// The path, if it is relative and stays inside of the folder that it is joined to. Backslashes are
/// separators, as old Windows tools write them.
fn check_path(name: &str) -> Result<PathBuf, ArchiveError> {
    let refuse = |reason| Err(refuse(name, reason));
    if name.len() > MAX_PATH {
        return refuse("has too long a path");
    }
    if name.chars().any(char::is_control) {
        return refuse("has a path with a control character");
    }
    let path = name.replace('\\', "/");
    if path.starts_with('/')
        || matches!(path.as_bytes(), [drive, b':', ..] if drive.is_ascii_alphabetic())
    {
        return refuse("has an absolute path");
    }
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return refuse("leaves its folder");
    }
    if parts.len() > MAX_DEPTH {
        return refuse("lies too deep");
    }
    Ok(parts.iter().collect())
}

fn extension(entry: &mut impl Read) -> Result<Vec<u8>, ArchiveError> {
    let mut text = Vec::new();
    entry
        .take(MAX_EXTENSION + 1)
        .read_to_end(&mut text)
        .map_err(broken)?;
    if text.len() as u64 > MAX_EXTENSION {
        Err(broken("an extended header is too long"))
    } else {
        Ok(text)
    }
}

fn pax_path(text: &[u8]) -> Result<Option<String>, ArchiveError> {
    let mut path = None;
    for field in PaxExtensions::new(text) {
        let field = field.map_err(broken)?;
        match field.key().map_err(broken)? {
            "path" => path = Some(field.value().map_err(broken)?.to_owned()),
            // Overrides the header's size, which only files of 8 GiB and more need.
            "size" => return Err(broken("a file is larger than a plain tar header can say")),
            _ => {}
        }
    }
    Ok(path)
}

/// The number of entries by the zip's end record, checked before the library reads as many headers
/// into memory.
fn zip_entries(archive: &mut File) -> io::Result<u64> {
    const RECORD: u64 = 22;
    let length = archive.seek(SeekFrom::End(0))?;
    let mut tail = vec![0; length.min(RECORD + u64::from(u16::MAX) + 20) as usize];
    archive.seek(SeekFrom::End(-(tail.len() as i64)))?;
    archive.read_exact(&mut tail)?;
    let at = tail.windows(4).rposition(|four| four == b"PK\x05\x06");
    let count = at
        .and_then(|at| tail.get(at + 10..at + 12))
        .map_or(0, |two| u64::from(u16::from_le_bytes([two[0], two[1]])));
    // Above 65534 entries, the count is in the zip64 record.
    let locator = at
        .and_then(|at| at.checked_sub(20))
        .and_then(|at| tail.get(at..at + 20));
    let mut entries = count;
    if let Some(locator) = locator.filter(|locator| locator.starts_with(b"PK\x06\x07")) {
        let mut offset = [0; 8];
        offset.copy_from_slice(&locator[8..16]);
        let mut record = [0; 40];
        archive.seek(SeekFrom::Start(u64::from_le_bytes(offset)))?;
        archive.read_exact(&mut record)?;
        let mut total = [0; 8];
        total.copy_from_slice(&record[32..40]);
        entries = entries.max(u64::from_le_bytes(total));
    }
    archive.rewind()?;
    Ok(entries)
}
