//! `explaind bam-data`: pastes objects into scenes, as BAM's data, and writes the data sets into a
//! folder, each file once: data sets that share a picture have hard links to it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    bam::{Asked, Composition, Entry, Objects, Plan, Scenes, Set, coco::Coco, compose, table},
    dataset::{ArchiveLimits, Catalogue, Dataset},
    faults::Reader,
    picture::decode::Limits,
    quota::Quota,
    settings::{self, FlagsFor},
};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{Composes, say, tell};

/// What was made of what.
const REPORT: &str = "composition.json";
/// Where files are until the data sets have links to them.
const FILES: &str = ".files";

#[derive(Args)]
pub(crate) struct BamData {
    #[command(flatten)]
    objects: ObjectArgs,
    /// Folder of images for --coco
    #[arg(long, value_name = "FOLDER", requires = "coco")]
    images: Option<PathBuf>,
    /// Folder of photos without those objects, in a folder for each class
    #[arg(long, value_name = "FOLDER")]
    scenes: PathBuf,
    /// A new folder for the data sets
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// The classes of objects, at least 2 [default: all]
    #[arg(long, value_name = "CLASS,...", value_delimiter = ',')]
    object_classes: Option<Vec<String>>,
    /// The classes of scenes, at least 2, in the order in which the common feature is added to them
    /// [default: all, by name]
    #[arg(long, value_name = "CLASS,...", value_delimiter = ',')]
    scene_classes: Option<Vec<String>>,
    /// The class of objects that the sets k01, k02, ... have in 1, 2, ... classes of scenes
    /// [default: none, and no such sets]
    #[arg(long, value_name = "CLASS")]
    common_feature: Option<String>,
    /// Pictures of each class of objects in each class of scenes [default: 10]
    #[arg(long, value_name = "N")]
    per_pair: Option<u64>,
    /// Width and height of the pictures [default: 224]
    #[arg(long, value_name = "PIXELS")]
    size: Option<u64>,
    /// The longer side of an object as a share of the picture's, drawn between these two [default:
    /// 1/3 and 1/2]
    #[arg(long, value_name = "LEAST,MOST", value_delimiter = ',')]
    object_size: Option<Vec<f64>>,
    /// 1: the largest square in the middle of a scene; below: squares at random places, with sides
    /// from so large a share of the shorter side up to all of it [default: 1]
    #[arg(long, value_name = "SHARE")]
    scene_crop: Option<f64>,
    /// The share of the pictures that are kept for tests [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    validation: Option<f64>,
    /// Of all that is drawn [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    flags: FlagsFor<Composes>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct ObjectArgs {
    /// Folder of objects, in a folder for each class: images with transparent pixels, or with masks
    #[arg(long, value_name = "FOLDER")]
    objects: Option<PathBuf>,
    /// Annotations in COCO's format, with polygons or run lengths; a class is a category
    #[arg(long, value_name = "FILE", requires = "images")]
    coco: Option<PathBuf>,
}

impl BamData {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let settings = settings::load(&self.flags.0, std::env::vars())?;
        let limits = Limits {
            max_bytes: settings.max_upload_bytes,
            max_pixels: settings.max_pixels,
            max_side: settings.max_side,
        };
        if fs::read_dir(&self.output).is_ok_and(|mut found| found.next().is_some()) {
            bail!(
                "{} is there and not empty: name a new folder",
                self.output.display()
            );
        }
        let scratch = tempfile::tempdir()?;
        let open = |folder: &Path| open(folder, scratch.path(), limits);
        let (objects, source) = match (&self.objects.objects, &self.objects.coco, &self.images) {
            (Some(folder), ..) => (Objects::Dataset(open(folder)?), folder),
            (None, Some(file), Some(images)) => {
                (Objects::Coco(Arc::new(Coco::read(file, images)?)), file)
            }
            _ => bail!("name a folder of objects, or annotations and their images"),
        };
        let scenes = Scenes(open(&self.scenes)?);
        let plan = self.plan(&objects, &scenes, &limits)?;
        let parent = match self.output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Renamed at the end: the output is there as a whole or not at all. Folders have the usual
        // mode, before the umask.
        let work = tempfile::Builder::new()
            .prefix(".bam-")
            .permissions(fs::Permissions::from_mode(0o777))
            .tempdir_in(parent)
            .with_context(|| parent.display().to_string())?;
        let entries = write_files(&plan, &objects, &scenes, &limits, &work.path().join(FILES))?;
        let sets = write_sets(&plan, work.path())?;
        let report = json!({
            "request": {
                "objects": source,
                "objects_hash": objects.hash(),
                "scenes": self.scenes,
                "scenes_hash": scenes.hash(),
                "options": plan.options,
            },
            "result": { "datasets": sets, "compositions": entries },
        });
        fs::write(
            work.path().join(REPORT),
            serde_json::to_vec_pretty(&report)?,
        )?;
        fs::rename(work.path(), &self.output).with_context(|| self.output.display().to_string())?;
        // It lies at its new place.
        let _ = work.keep();
        for set in &sets {
            let (name, images) = (set["name"].as_str().unwrap_or_default(), &set["images"]);
            say(format_args!(
                "{}: {images} images",
                self.output.join(name).display()
            ))?;
        }
        tell(format_args!(
            "{} compositions of {} objects; what was made of what is in {}",
            plan.compositions.len(),
            plan.objects().len(),
            self.output.join(REPORT).display()
        ));
        Ok(())
    }

    fn plan(&self, objects: &Objects, scenes: &Scenes, limits: &Limits) -> anyhow::Result<Plan> {
        let mut reader = Reader::new(self.fields());
        let asked = Asked::read(&mut reader);
        let mut faults = reader.finish("is not a parameter");
        let of_objects = objects.classes("objects", &mut faults);
        let of_scenes = scenes.classes("scenes", &mut faults);
        let options = asked.settle(&of_objects, &of_scenes, &mut faults);
        let plan = options.map(|options| Plan::new(options, &of_objects, &of_scenes));
        if let Some(plan) = &plan {
            objects.check(&plan.objects(), "objects", limits, &mut faults);
        }
        match plan {
            Some(plan) if faults.is_empty() => Ok(plan),
            _ => Err(faults.into()),
        }
    }

    /// As a request has them.
    fn fields(&self) -> Map<String, Value> {
        let fields = json!({
            "object_classes": self.object_classes,
            "scene_classes": self.scene_classes,
            "common_feature": self.common_feature,
            "per_pair": self.per_pair,
            "size": self.size,
            "object_size": self.object_size,
            "scene_crop": self.scene_crop,
            "validation": self.validation,
            "seed": self.seed,
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// A folder as a data set.
fn open(folder: &Path, scratch: &Path, limits: Limits) -> anyhow::Result<Arc<Dataset>> {
    const ID: &str = "images";
    let folder = folder
        .canonicalize()
        .with_context(|| folder.display().to_string())?;
    let uploads = ArchiveLimits {
        max_bytes: 0,
        max_files: 0,
        max_sets: 0,
    };
    let catalogue = Catalogue::new(
        BTreeMap::from([(ID.to_owned(), folder)]),
        scratch,
        limits,
        uploads,
        Quota::new(scratch, u64::MAX),
    );
    Ok(catalogue.open(ID)?)
}

/// Composes everything into a folder.
fn write_files(
    plan: &Plan,
    objects: &Objects,
    scenes: &Scenes,
    limits: &Limits,
    folder: &Path,
) -> anyhow::Result<Vec<Entry>> {
    // Draws nothing when standard error is not a terminal.
    let bar = ProgressBar::new(plan.compositions.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} compositions, {eta} left",
    )?);
    let of_scene: Vec<_> = plan
        .compositions
        .chunk_by(|one, next| one.scene == next.scene)
        .collect();
    let write = |ones: &&[Composition]| {
        let mut entries = Vec::with_capacity(ones.len());
        let mut photo = None;
        for one in *ones {
            let photo = match &mut photo {
                Some(photo) => photo,
                none => none.insert(scenes.photo(one.scene, limits)?),
            };
            let composed = compose(plan, one, objects, (scenes, photo), limits)?;
            for (name, bytes) in composed.files {
                write_file(&folder.join(name), &bytes)?;
            }
            entries.push(composed.entry);
            bar.inc(1);
        }
        anyhow::Ok(entries)
    };
    let entries: Vec<Vec<Entry>> = of_scene.par_iter().map(write).collect::<Result<_, _>>()?;
    bar.finish_and_clear();
    Ok(entries.into_iter().flatten().collect())
}

/// Makes the folders of the data sets in `folder` of the files there.
fn write_sets(plan: &Plan, folder: &Path) -> anyhow::Result<Vec<Value>> {
    let files = folder.join(FILES);
    let mut sets = Vec::new();
    for set in Set::all(plan) {
        let (labels, names) = table(set, plan)?;
        let into = folder.join(set.name());
        write_file(&into.join("labels.csv"), &labels)?;
        for name in &names {
            let (from, to) = (files.join(name), into.join(name));
            make_parent(&to)?;
            // Some file systems have no hard links.
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).with_context(|| to.display().to_string())?;
            }
        }
        let images: usize = plan
            .compositions
            .iter()
            .map(|one| set.roles(plan, one).len())
            .sum();
        sets.push(json!({
            "name": set.name(),
            "images": images,
            "commonality": set.commonality(plan),
        }));
    }
    fs::remove_dir_all(&files)?;
    Ok(sets)
}

fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    make_parent(path)?;
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())
}
