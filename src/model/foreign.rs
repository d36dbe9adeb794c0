//! Recognises files that are not ONNX models, by their first bytes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use onnx_autodiff::onnx::LFS_POINTER;

pub(super) const POINTER: &str = "a Git LFS pointer, not the file itself: run `git lfs pull`";

/// Offset, bytes, the file type, and advice.
const STARTS: &[(usize, &[u8], &str)] = &[
    (0, LFS_POINTER, POINTER),
    (0, b"\x1f\x8b", "a gzip archive: unpack it"),
    (
        0,
        b"PK\x03\x04",
        "a zip archive, as PyTorch and Keras save models: export the model to ONNX, or unpack it",
    ),
    (
        0,
        b"\x89HDF",
        "an HDF5 file, as Keras saves models: export the model to ONNX",
    ),
    (
        4,
        b"TFL3",
        "a TensorFlow Lite model: export the model to ONNX",
    ),
    (
        0,
        b"\x80\x02",
        "a Python pickle, as old PyTorch saves models: export the model to ONNX",
    ),
    (
        4,
        b"ORTM",
        "a model in ONNX Runtime's own format: use the .onnx file that it was made of",
    ),
    (
        0,
        b"<",
        "an HTML or XML page, not a model: the download went wrong",
    ),
    (0, b"{", "a JSON file, not a model"),
];

/// None for an unknown type.
pub(super) fn what(path: &Path) -> Option<&'static str> {
    let start = start(path).ok()?;
    if start.is_empty() {
        return Some("empty: copy it again");
    }
    let found = STARTS
        .iter()
        .find(|(at, bytes, _)| start.get(*at..).is_some_and(|rest| rest.starts_with(bytes)));
    found.map(|(.., what)| *what)
}

/// Whether a file is a Git LFS pointer.
pub(super) fn is_pointer(path: &Path) -> bool {
    start(path).is_ok_and(|start| start.starts_with(LFS_POINTER))
}

fn start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    open_regular(path)?.take(64).read_to_end(&mut start)?;
    Ok(start)
}

/// Opens a regular file only: opening a pipe would block, and a device can be read without end.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    File::open(path)
}
