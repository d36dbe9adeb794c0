//! An explanation with what it was made of and by, in one zip: what was sent, the request with every
//! parameter resolved, the answer as JSON, npy and pictures, and the hashes and versions behind it.
//! `explaind rerun` makes it again and says what differs.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Seek, Write},
    time::SystemTime,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use zip::{
    CompressionMethod, DateTime, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions,
};

use super::{
    Answered, App, AppError, Explanation, Input, Uploads, answer,
    options::{Encoding, Include},
    plan::Plan,
};
use crate::{
    VERSION,
    engine::runtime_version,
    files::hex,
    model::Model,
    picture::types,
    tensor::{NPY_MAGIC, write_npy},
    text::excerpt,
};

/// The form of bundles that this version writes and reads.
const FORM: u32 = 1;
/// A bundle's own description.
const MANIFEST: &str = "manifest.json";
/// The answer, as JSON without maps and pictures.
pub const EXPLANATIONS: &str = "explanations.json";
/// The maps, as `format=npy` answers them.
pub const ATTRIBUTION: &str = "attribution.npy";
/// The most files of a bundle, and the most bytes of them unpacked, that are read.
const MOST_FILES: usize = 1 << 16;
const MOST_BYTES: u64 = 1 << 30;

/// `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the bundle.
    pub bundle: u32,
    /// RFC 3339.
    pub created: String,
    pub made_by: MadeBy,
    pub model: ModelRecord,
    /// Every parameter, resolved, and the options of the answer as they were asked for.
    pub request: Map<String, Value>,
    pub files: Vec<FileRecord>,
}

/// What may change the last bits of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeBy {
    pub explaind: String,
    pub onnxruntime: String,
    /// Execution providers, in the order of the setting.
    pub providers: Vec<String>,
    /// Architecture and the vector instructions that choose kernels.
    pub processor: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    pub id: String,
    /// Of `model.onnx`.
    pub sha256: String,
    /// The fit of the patterns, for a method that uses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patterns: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileRecord {
    pub name: String,
    pub role: Role,
    pub sha256: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// In the order of the request.
    Input,
    Baseline,
    Reference,
    Segments,
    /// Made from the others.
    Result,
}

/// What a request sent, kept for its bundle.
#[derive(Clone, Debug)]
pub struct Sent {
    request: Map<String, Value>,
    inputs: Vec<Input>,
    uploads: Uploads,
}

impl Sent {
    pub fn of(plan: &Plan, inputs: &[Input], uploads: &Uploads) -> Self {
        let mut request = plan.asked.clone();
        request.insert("model".to_owned(), plan.model.id.as_str().into());
        let resolved = plan.parameters.to_json();
        // Where each input has a target of its own, that of the parameters stands for none.
        let is_other = |name: &str| name == "target" && plan.targets.is_some();
        request.extend(resolved.into_iter().filter(|(name, _)| !is_other(name)));
        request.remove("format");
        Self {
            request,
            inputs: inputs.to_vec(),
            uploads: uploads.clone(),
        }
    }

    fn files(&self) -> Result<Vec<(String, Role, Bytes)>, AppError> {
        let inputs = self.inputs.iter().enumerate();
        let inputs = inputs.map(|(place, input)| (format!("input-{place}"), Role::Input, input));
        let baseline = self.uploads.baseline.iter();
        let baseline = baseline.map(|input| ("baseline".to_owned(), Role::Baseline, input));
        let reference = self.uploads.reference.iter();
        let reference = reference.map(|input| ("reference".to_owned(), Role::Reference, input));
        let mut files = Vec::new();
        for (name, role, input) in inputs.chain(baseline).chain(reference) {
            let bytes = match input {
                Input::Image(bytes) | Input::Npy(bytes) => bytes.clone(),
                Input::Tensor(tensor) => write_npy(tensor)?.into(),
            };
            files.push((named(&name, &bytes), role, bytes));
        }
        let segments = self.uploads.segments.iter();
        files.extend(
            segments.map(|bytes| (named("segments", bytes), Role::Segments, bytes.clone())),
        );
        Ok(files)
    }
}

/// With the extension of its type.
fn named(stem: &str, bytes: &[u8]) -> String {
    let extension = match types::Format::recognise(bytes) {
        _ if bytes.starts_with(NPY_MAGIC) => "npy",
        Some(format) => format.extension(),
        None => "bin",
    };
    format!("{stem}.{extension}")
}

/// The files that a request's answer is kept as; equal answers give equal files, but for the times
/// in `explanations.json`.
pub fn results(answered: &Answered<Explanation>) -> Result<Vec<(String, Bytes)>, AppError> {
    let bare = Answered {
        answers: answered
            .answers
            .iter()
            .map(|one| Explanation {
                picture: None,
                include: Include {
                    attribution: false,
                    ..one.include
                },
                ..one.clone()
            })
            .collect(),
        ..*answered
    };
    let explanations = answer::to_json(&bare, Encoding::Base64)?;
    let mut files = vec![
        (EXPLANATIONS.to_owned(), explanations.into()),
        (ATTRIBUTION.to_owned(), answer::to_npy(answered)?.into()),
    ];
    let pictures = answered.answers.iter().enumerate();
    let pictures = pictures.filter_map(|(place, one)| Some((place, one.picture.clone()?)));
    files.extend(pictures.map(|(place, picture)| (format!("heatmap-{place}.png"), picture)));
    Ok(files)
}

impl App {
    /// Where explanations are made.
    pub fn made_by(&self) -> MadeBy {
        let providers = self.engine().providers();
        MadeBy {
            explaind: VERSION.to_owned(),
            onnxruntime: runtime_version(),
            providers: providers.iter().map(ToString::to_string).collect(),
            processor: processor(),
        }
    }

    /// The zip of an answer.
    pub fn bundle(
        &self,
        sent: &Sent,
        answered: &Answered<Explanation>,
    ) -> Result<Vec<u8>, AppError> {
        let Some(first) = answered.answers.first() else {
            return Err(AppError::NoInput);
        };
        let mut files = sent.files()?;
        let results = results(answered)?.into_iter();
        files.extend(results.map(|(name, bytes)| (name, Role::Result, bytes)));
        let record = |(name, role, bytes): &(String, Role, Bytes)| FileRecord {
            name: name.clone(),
            role: *role,
            sha256: hash(bytes),
        };
        let manifest = Manifest {
            bundle: FORM,
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            made_by: self.made_by(),
            model: ModelRecord::of(&first.model, first.explained.parameters.needs_patterns()),
            request: sent.request.clone(),
            files: files.iter().map(record).collect(),
        };
        let unwritten = |error: &dyn std::error::Error| AppError::Encode {
            reason: error.to_string(),
        };
        let manifest = serde_json::to_vec_pretty(&manifest).map_err(|error| unwritten(&error))?;
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let entries = files
            .iter()
            .map(|(name, _, bytes)| (name.as_str(), &bytes[..]));
        for (name, bytes) in [(MANIFEST, &manifest[..])].into_iter().chain(entries) {
            add_entry(&mut archive, name, bytes).map_err(|error| unwritten(&error))?;
        }
        let written = archive.finish().map_err(|error| unwritten(&error))?;
        Ok(written.into_inner())
    }
}

impl ModelRecord {
    fn of(model: &Model, needs_patterns: bool) -> Self {
        let patterns = model.patterns.as_ref().filter(|_| needs_patterns);
        Self {
            id: model.id.clone(),
            sha256: model.hash.clone(),
            patterns: patterns.map(|patterns| patterns.id.clone()),
        }
    }
}

/// Adds a file to an archive. Entries carry no time: the same files give the same archive.
pub fn add_entry<W: Write + Seek>(
    archive: &mut ZipWriter<W>,
    name: &str,
    bytes: &[u8],
) -> Result<(), ZipError> {
    let is_packed = types::Format::recognise(bytes).is_some();
    let method = match is_packed {
        true => CompressionMethod::Stored,
        false => CompressionMethod::Deflated,
    };
    let options = SimpleFileOptions::default()
        .compression_method(method)
        .last_modified_time(DateTime::default());
    archive.start_file(name, options)?;
    Ok(archive.write_all(bytes)?)
}

/// The architecture, and of its vector instructions those by which kernels are chosen.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    let instructions = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let instructions: [(&str, bool); 0] = [];
    let instructions = instructions.into_iter().filter(|(_, has)| *has);
    let names = [std::env::consts::ARCH].into_iter();
    let names: Vec<&str> = names.chain(instructions.map(|(name, _)| name)).collect();
    names.join(" ")
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A bundle that was read: its description, and its files by name.
#[derive(Debug)]
pub struct Bundle {
    pub manifest: Manifest,
    files: BTreeMap<String, Bytes>,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("this is no bundle: {reason}")]
    Broken { reason: String },
    #[error("the bundle has the form {found}, and this version reads {FORM}")]
    Form { found: u32 },
    #[error("the bundle has more than {MOST_FILES} files or {MOST_BYTES} bytes")]
    TooLarge,
    #[error("{name} is missing from the bundle")]
    Missing { name: String },
    #[error(
        "{name} was changed after the bundle was made: its SHA-256 is not the one in {MANIFEST}"
    )]
    Changed { name: String },
}

impl Bundle {
    /// Every file that the manifest names is there, as it was.
    pub fn read(archive: impl Read + Seek) -> Result<Self, BundleError> {
        let broken = |error: &dyn std::error::Error| BundleError::Broken {
            reason: excerpt(&error.to_string()).into_owned(),
        };
        let mut archive = ZipArchive::new(archive).map_err(|error| broken(&error))?;
        if archive.len() > MOST_FILES {
            return Err(BundleError::TooLarge);
        }
        let mut left = MOST_BYTES;
        let mut read = |name: &str| {
            let entry = match archive.by_name(name) {
                Ok(entry) => entry,
                Err(ZipError::FileNotFound) => {
                    return Err(BundleError::Missing {
                        name: excerpt(name).into_owned(),
                    });
                }
                Err(error) => return Err(broken(&error)),
            };
            let mut bytes = Vec::new();
            let length = entry.take(left + 1).read_to_end(&mut bytes);
            let length = length.map_err(|error| broken(&error))?;
            left = left
                .checked_sub(length as u64)
                .ok_or(BundleError::TooLarge)?;
            Ok(Bytes::from(bytes))
        };
        let manifest: Manifest =
            serde_json::from_slice(&read(MANIFEST)?).map_err(|error| broken(&error))?;
        if manifest.bundle != FORM {
            return Err(BundleError::Form {
                found: manifest.bundle,
            });
        }
        let mut files = BTreeMap::new();
        for record in &manifest.files {
            let bytes = read(&record.name)?;
            if hash(&bytes) != record.sha256 {
                return Err(BundleError::Changed {
                    name: excerpt(&record.name).into_owned(),
                });
            }
            files.insert(record.name.clone(), bytes);
        }
        Ok(Self { manifest, files })
    }

    /// What was sent with the request.
    pub fn sent(&self) -> (Vec<Input>, Uploads) {
        let inputs = self.of(Role::Input).map(|(_, bytes)| Input::of(bytes));
        let mut baseline = self.of(Role::Baseline);
        let mut reference = self.of(Role::Reference);
        let mut segments = self.of(Role::Segments);
        let uploads = Uploads {
            baseline: baseline.next().map(|(_, bytes)| Input::of(bytes)),
            reference: reference.next().map(|(_, bytes)| Input::of(bytes)),
            segments: segments.next().map(|(_, bytes)| bytes),
        };
        (inputs.collect(), uploads)
    }

    /// The files that were made of it, in their order.
    pub fn results(&self) -> impl Iterator<Item = (&str, Bytes)> {
        self.of(Role::Result)
    }

    fn of(&self, role: Role) -> impl Iterator<Item = (&str, Bytes)> {
        let records = self
            .manifest
            .files
            .iter()
            .filter(move |file| file.role == role);
        records.filter_map(|file| Some((file.name.as_str(), self.files.get(&file.name)?.clone())))
    }
}
