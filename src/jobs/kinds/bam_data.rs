//! `bam_data`: pastes the objects of one data set into the scenes of another, as BAM does, and puts
//! the results up as data sets like uploads. A shard composes a few pictures and writes each into
//! the job's folder; the end makes an archive for each data set. What was made of what is the
//! report. Source: Yang & Kim, "BAM", section 3.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::path::Path;
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value, json};

use super::{
    images::{enveloped, stored},
    output::{reserve, writes_to_data},
    request_reader::{RequestReader, planned_dataset},
};
use crate::{
    app::App,
    bam::{
        Asked, BamError, Composed, Entry, FIELDS, Objects, Options, Plan as Compositions, Role,
        Scenes, Set, compose, greatest_bytes, table,
    },
    dataset::{Dataset, DatasetError, ID_FORM, is_id},
    engine::EngineError,
    faults::{Fault, Faults},
    jobs::{
        Context, Format, JobError, Kind, Plan, PlannedShard, Report, Results, Shard, ShardResults,
        WorkError,
    },
    picture::RgbImage,
    quota::on_disk,
};

/// Compositions of a shard: a few seconds where each has a large photo of its own.
const SHARD: usize = 16;
/// The report's file in the job's folder.
const REPORT: &str = "composition.json";

pub static BAM_DATA: BamData = BamData;

#[derive(Debug)]
pub struct BamData;

#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    /// The start of the new data sets' ids.
    id: String,
    objects: String,
    objects_hash: String,
    scenes: String,
    scenes_hash: String,
    #[serde(flatten)]
    options: Options,
}

/// Places in the plan's compositions.
#[derive(Serialize, Deserialize)]
struct Payload {
    from: usize,
    to: usize,
}

impl Kind for BamData {
    fn id(&self) -> &'static str {
        "bam_data"
    }

    fn doc(&self) -> &'static str {
        "Pastes objects into scenes, as BAM's data: new data sets with labels of objects and of scenes, for training and for tests"
    }

    fn parameters(&self) -> &'static [(&'static str, &'static str)] {
        PARAMETERS
    }

    fn plan<'a>(
        &'a self,
        given: Map<String, Value>,
        app: &'a App,
    ) -> BoxFuture<'a, Result<Plan, JobError>> {
        Box::pin(async move {
            let mut asked = RequestReader::new(given, app);
            let objects = asked.dataset_of("objects").await;
            let scenes = asked.dataset_of("scenes").await;
            let there = app.datasets().ids().await.unwrap_or_default();
            // Reads every object that is used.
            app.datasets()
                .work(move || plan(asked, objects, scenes, &there))
                .await?
        })
    }

    fn work<'a>(
        &'a self,
        context: &'a Context,
        shard: &'a Shard,
    ) -> BoxFuture<'a, Result<Bytes, WorkError>> {
        Box::pin(async move {
            let Payload { from, to } = stored(&shard.payload)?;
            let task = Arc::new(Task::open(context).await?);
            let (mut entries, mut photo) = (Vec::new(), None);
            for at in from..to {
                if context.caller.cancel.is_cancelled() {
                    return Err(EngineError::Cancelled.into());
                }
                let (task, before) = (task.clone(), photo.take());
                let compose = move || task.compose(at, before);
                let (composed, used) = context.app.pool().run(compose).await??;
                photo = Some(used);
                for (name, bytes) in composed.files {
                    context.files().write(&place(context, &name), bytes).await?;
                }
                entries.push(composed.entry);
                context.report_progress(entries.len() as u64);
            }
            let result = serde_json::to_vec(&entries).map_err(WorkError::permanent)?;
            Ok(result.into())
        })
    }

    fn reduce(&self, _: &Value, results: Results<'_>) -> Result<Value, WorkError> {
        let mut composed = 0;
        for result in results.flatten() {
            let entries: Vec<IgnoredAny> = read(&result)?;
            composed += entries.len();
        }
        Ok(json!({ "composed": composed }))
    }

    fn complete<'a>(
        &'a self,
        context: &'a Context,
        mut reduced: Value,
        results: ShardResults,
    ) -> BoxFuture<'a, Result<Value, WorkError>> {
        Box::pin(async move {
            let task = Arc::new(Task::open(context).await?);
            let entries = results.read::<_, WorkError>(entries).await?;
            let files = entries.iter().flat_map(|entry| &entry.files);
            let hashes: Arc<BTreeMap<String, String>> = Arc::new(files.cloned().collect());
            let mut datasets = Vec::new();
            for set in Set::all(&task.plan) {
                datasets.push(install(context, &task, set, &hashes).await?);
            }
            reduced["datasets"] = json!(datasets);
            let report = Composition {
                kind: self.id(),
                request: context.spec.as_ref().clone(),
                result: Made {
                    datasets,
                    compositions: entries,
                },
            };
            let write = move || serde_json::to_vec_pretty(&report);
            let report = context.app.pool().run(write).await?;
            let file = context.folder().join(REPORT);
            context
                .files()
                .write(&file, report.map_err(WorkError::permanent)?)
                .await?;
            reduced["report"] = json!(file.as_ref());
            Ok(reduced)
        })
    }

    fn report(&self, spec: &Value, result: &Value, _: Format) -> Result<Report, WorkError> {
        match result["report"].as_str() {
            Some(file) => Ok(Report::File(Path::from(file))),
            None => Ok(Report::Bytes(enveloped(self.id(), spec, result)?.into())),
        }
    }
}

const PARAMETERS: &[(&str, &str)] = &{
    let mut all = [("", ""); 3 + FIELDS.len()];
    all[0] = (
        "id",
        "the start of the ids of the new data sets, such as bam for bam_object_train",
    );
    all[1] = (
        "objects",
        "the id of a data set of objects: images with transparent pixels or masks, labelled by object",
    );
    all[2] = (
        "scenes",
        "the id of a data set of photos without those objects, labelled by scene",
    );
    let mut at = 0;
    while at < FIELDS.len() {
        all[3 + at] = FIELDS[at];
        at += 1;
    }
    all
};

/// The report of a job that has succeeded.
#[derive(Serialize)]
struct Composition {
    kind: &'static str,
    request: Value,
    result: Made,
}

#[derive(Serialize)]
struct Made {
    datasets: Vec<Value>,
    compositions: Vec<Entry>,
}

/// What all shards composed.
fn entries(results: Results<'_>) -> Result<Vec<Entry>, WorkError> {
    let mut all = Vec::new();
    for result in results.flatten() {
        all.extend(read::<Vec<Entry>>(&result)?);
    }
    Ok(all)
}

/// A shard's result.
fn read<T: DeserializeOwned>(result: &[u8]) -> Result<T, WorkError> {
    serde_json::from_slice(result).map_err(WorkError::permanent)
}

fn plan(
    mut asked: RequestReader,
    objects: Option<Arc<Dataset>>,
    scenes: Option<Arc<Dataset>>,
    there: &[String],
) -> Result<Plan, JobError> {
    let app = asked.app().clone();
    for (field, dataset) in [("objects_hash", &objects), ("scenes_hash", &scenes)] {
        asked.expect(field, dataset.as_ref().map(|dataset| dataset.hash.as_str()));
    }
    let id: Option<String> = asked.take("id", &[ID_FORM], |id: &String| is_id(id));
    let options = Asked::read(&mut asked);
    let (Some(objects), Some(scenes)) = (objects, scenes) else {
        return Err(finished(asked, id.is_none()).into());
    };
    let (objects_id, scenes_id) = (objects.id.clone(), scenes.id.clone());
    let (objects, scenes) = (Objects::Dataset(objects), Scenes(scenes));
    let (of_objects, of_scenes) = (
        objects.classes("objects", &mut asked.faults),
        scenes.classes("scenes", &mut asked.faults),
    );
    let options = options.settle(&of_objects, &of_scenes, &mut asked.faults);
    let plan = options.map(|options| Compositions::new(options, &of_objects, &of_scenes));
    if let (Some(plan), Some(id)) = (&plan, &id) {
        for name in Set::all(plan).into_iter().map(|set| set.dataset(id)) {
            if !is_id(&name) {
                asked.refuse("id", format!("{name} is no id of a data set"), &[ID_FORM]);
            } else if there.contains(&name) {
                let message =
                    format!("data set {name} exists: take another id, or delete it first");
                asked.refuse("id", message, &[]);
            }
        }
    }
    let mut faults = finished(asked, id.is_none());
    let (Some(plan), Some(id), true) = (plan, id, faults.is_empty()) else {
        return Err(faults.into());
    };
    check_size(&app, &plan)?;
    let limits = *app.datasets().local().limits();
    objects.check(&plan.objects(), "objects", &limits, &mut faults);
    faults.settle(())?;
    let count = plan.compositions.len();
    let shards = (0..count).step_by(SHARD).map(|from| {
        let to = (from + SHARD).min(count);
        PlannedShard {
            units: (to - from) as u64,
            payload: json!(Payload { from, to }),
            needs_previous: false,
        }
    });
    let spec = Spec {
        id,
        objects: objects_id,
        objects_hash: objects.hash().to_owned(),
        scenes: scenes_id,
        scenes_hash: scenes.hash().to_owned(),
        options: plan.options,
    };
    Ok(Plan {
        model: None,
        spec: json!(spec),
        shards: shards.collect(),
    })
}

fn finished(asked: RequestReader, is_without_id: bool) -> Faults {
    let is_told = |faults: &Faults| faults.shown().iter().any(|fault| fault.param == "id");
    let mut faults = asked.finish().err().unwrap_or_default();
    if is_without_id && !is_told(&faults) {
        faults.push(Fault::new("id", "is missing", [ID_FORM]));
    }
    faults
}

/// Refuses what would be more than a job may write, a data set hold, or the data folder take.
fn check_size(app: &App, plan: &Compositions) -> Result<(), JobError> {
    let side = plan.options.size;
    let bytes = |role: Role| on_disk(greatest_bytes(role, side));
    let (mut sets, mut largest) = (0_u64, (0_u64, 0_u64));
    for set in Set::all(plan) {
        let (mut length, mut files) = (0, 1);
        for one in &plan.compositions {
            let roles = set.roles(plan, one);
            if !roles.is_empty() {
                length += bytes(Role::Mask) + roles.iter().map(|role| bytes(*role)).sum::<u64>();
                files += 1 + roles.len() as u64;
            }
        }
        sets += length;
        largest = (largest.0.max(length), largest.1.max(files));
    }
    // Each picture also lies in the job's folder, at most once for each data set that has it.
    let settings = app.settings();
    let checks = [
        (
            "a data set may get",
            largest.0,
            "bytes",
            settings.max_dataset_bytes,
            "max_dataset_bytes",
        ),
        (
            "a data set would get",
            largest.1,
            "files",
            settings.max_dataset_files as u64,
            "max_dataset_files",
        ),
        (
            "the job may write",
            2 * sets,
            "bytes",
            settings.max_job_output_bytes,
            "max_job_output_bytes",
        ),
    ];
    for (what, found, unit, most, setting) in checks {
        if found > most {
            let lower = vec![("per_pair", None), ("size", None)];
            return Err(JobError::TooCostly {
                what,
                found,
                unit,
                most,
                setting,
                lower,
            });
        }
    }
    if writes_to_data(app) {
        // It is asked for again when files are written: others may take it until then.
        app.quota().reserve(2 * sets)?;
    }
    Ok(())
}

/// Where a file of the data sets is kept until the end.
fn place(context: &Context, name: &str) -> Path {
    name.split('/')
        .fold(context.folder().join("files"), |folder, part| {
            folder.join(part)
        })
}

/// The photo of a scene, by its place.
type Photo = (usize, Arc<RgbImage>);

/// What the compositions of a job share.
struct Task {
    app: App,
    id: String,
    plan: Compositions,
    objects: Objects,
    scenes: Scenes,
}

impl Task {
    async fn open(context: &Context) -> Result<Self, WorkError> {
        let app = context.app.clone();
        let spec: Spec = stored(&context.spec)?;
        let objects = planned_dataset(&app, &spec.objects, &spec.objects_hash).await?;
        let scenes = planned_dataset(&app, &spec.scenes, &spec.scenes_hash).await?;
        let (objects, scenes) = (Objects::Dataset(objects), Scenes(scenes));
        let pool = app.pool().clone();
        let make = move || {
            // Faults were told when the job was planned.
            let mut faults = Faults::default();
            let of_objects = objects.classes("objects", &mut faults);
            let of_scenes = scenes.classes("scenes", &mut faults);
            Self {
                app,
                id: spec.id,
                plan: Compositions::new(spec.options, &of_objects, &of_scenes),
                objects,
                scenes,
            }
        };
        Ok(pool.run(make).await?)
    }

    /// The composition at this place, and the photo that it used: the next one may use it too.
    fn compose(&self, at: usize, before: Option<Photo>) -> Result<(Composed, Photo), WorkError> {
        let one = self
            .plan
            .compositions
            .get(at)
            .ok_or_else(|| WorkError::permanent(format!("the job has no composition {at}")))?;
        let limits = *self.app.datasets().local().limits();
        let photo = match before.filter(|(place, _)| *place == one.scene) {
            Some((_, photo)) => photo,
            None => Arc::new(self.scenes.photo(one.scene, &limits)?),
        };
        let composed = compose(
            &self.plan,
            one,
            &self.objects,
            (&self.scenes, &photo),
            &limits,
        )?;
        let lengths = composed.files.iter().map(|(_, bytes)| bytes.len() as u64);
        if let Some(room) = reserve(&self.app, lengths).map_err(WorkError::transient)? {
            room.keep();
        }
        Ok((composed, (one.scene, photo)))
    }
}

/// Puts a data set up, unless it is there already, and tells what it is.
async fn install(
    context: &Context,
    task: &Arc<Task>,
    set: Set,
    hashes: &Arc<BTreeMap<String, String>>,
) -> Result<Value, WorkError> {
    let (app, id) = (&context.app, set.dataset(&task.id));
    let make = {
        let task = task.clone();
        move || table(set, &task.plan)
    };
    let (labels, names) = app.pool().run(make).await??;
    let dataset = match app.datasets().open(&id).await {
        Ok(dataset) if is_made_of(&dataset, &names, hashes) => dataset,
        Ok(_) => {
            return Err(WorkError::permanent(format!(
                "a data set {id} was put up while the job ran: delete it, or take another id"
            )));
        }
        Err(DatasetError::Unknown { .. } | DatasetError::Lost { .. }) => {
            let mut arrival = app.datasets().receive(&id).await.map_err(failed)?;
            let mut archive = tar::Builder::new(Vec::new());
            append(&mut archive, "labels.csv", &labels)?;
            for name in &names {
                if context.caller.cancel.is_cancelled() {
                    return Err(EngineError::Cancelled.into());
                }
                let bytes = context.files().read(&place(context, name)).await?;
                append(&mut archive, name, &bytes)?;
                let piece = std::mem::take(archive.get_mut());
                arrival = arrival.write(&piece).await.map_err(failed)?;
            }
            let rest = archive.into_inner().map_err(WorkError::transient)?;
            arrival = arrival.write(&rest).await.map_err(failed)?;
            app.datasets().put(&id, arrival).await.map_err(failed)?.0
        }
        Err(error) => return Err(failed(error)),
    };
    Ok(json!({
        "id": id,
        "images": dataset.images.len(),
        "commonality": set.commonality(&task.plan),
        "hash": dataset.hash,
    }))
}

/// Entries carry no time: the same pictures give the same archive.
fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) -> Result<(), WorkError> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    let appended = archive.append_data(&mut header, name, bytes);
    appended.map_err(WorkError::transient)
}

/// Whether a data set has the files of these names and hashes, and no others.
fn is_made_of(dataset: &Dataset, names: &[String], hashes: &BTreeMap<String, String>) -> bool {
    let masks = dataset
        .images
        .iter()
        .filter_map(|image| image.mask.as_ref());
    let images = dataset
        .images
        .iter()
        .map(|image| (&image.file, &image.hash));
    let found: BTreeMap<&String, &String> = images
        .chain(masks.map(|mask| (&mask.file, &mask.hash)))
        .collect();
    found.len() == names.len()
        && names
            .iter()
            .all(|name| found.get(name) == hashes.get(name).as_ref())
}

impl From<BamError> for WorkError {
    fn from(error: BamError) -> Self {
        match error {
            // Opened again it is another set, which is told then, or the same in another place.
            BamError::Dataset(error) => failed(error),
            other => Self::permanent(other),
        }
    }
}

/// Data sets may be away for a while, or full.
fn failed(error: DatasetError) -> WorkError {
    match error {
        DatasetError::Image { .. }
        | DatasetError::MaskSize { .. }
        | DatasetError::Archive(_)
        | DatasetError::Empty { .. } => WorkError::permanent(error),
        other => WorkError::transient(other),
    }
}
