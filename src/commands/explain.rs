//! `explaind explain` and `explaind compare`: explain images without a server, by the same code as
//! POST /explain and POST /compare.

use std::{collections::HashSet, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    app::{
        App, AppError, Explanation, Input, Uploads, answer,
        bundle::Sent,
        compare::Comparison,
        options::{Encoding, OPTIONS},
        plan::{Plan, RequestContext},
    },
    engine::{Caller, Priority},
};
use futures::{StreamExt, stream};
use serde_json::{Map, Value};

use super::{
    Explains, ModelArgs,
    images::{Formats, Outputs, Source, Sources, tell_failed},
    method, pair, say, tell, warn,
};

/// Images in progress: one is decoded or drawn while another is evaluated.
const AT_ONCE: usize = 2;

/// Arguments of both commands.
#[derive(Args)]
struct Common {
    /// PNG, JPEG, WebP, BMP, GIF or TIFF files; .npy files of floats in the model's input space or
    /// of uint8 pixels; folders, with their sub-folders; - for standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A file (the end of its name is the format), a folder, or - for standard output. Several
    /// images need a folder
    #[arg(short, long, value_name = "FILE|FOLDER")]
    output: PathBuf,
    /// png, jpeg, webp, json, npy or (explain only) bundle, a zip that `explaind rerun` makes again:
    /// for folders and standard output [default: png]
    #[arg(short, long)]
    format: Option<String>,
    /// What to explain: predicted, an index, a label, or a contrast a-b [default: predicted]
    #[arg(short, long)]
    target: Option<String>,
    #[command(flatten)]
    model: ModelArgs<Explains>,
    /// Regions for a method that ranks them, of one image: a PNG (or another lossless type) whose
    /// colours are labels, or a .npy file of labels or masks
    #[arg(long, value_name = "FILE")]
    segments: Option<PathBuf>,
    /// Of a model that gives embeddings: the image, or .npy file, to compare with. The map shows what
    /// makes the images similar
    #[arg(long, value_name = "IMAGE")]
    reference: Option<PathBuf>,
    /// Any other parameter of the method or of the picture, such as n_steps=50; repeatable.
    /// `explaind methods ID` lists them
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
}

#[derive(Args)]
pub(crate) struct Explain {
    /// Attribution method; `explaind methods` lists them [default: auto, which is pgig
    /// where the model has patterns, else integrated_gradients where the network has a gradient,
    /// else occlusion]
    #[arg(long)]
    method: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(crate) struct Compare {
    /// Methods; each may be followed by its parameters, as in "pgig pattern_layers=all,gradient".
    /// `explaind methods` lists them
    #[arg(long, required = true, value_delimiter = ',', value_name = "METHOD [NAME=VALUE]...", value_parser = method)]
    methods: Vec<Value>,
    #[command(flatten)]
    common: Common,
}

impl Explain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let method = self
            .method
            .map(|method| ("method".to_owned(), method.into()));
        self.common.run(method, |app, given, uploads| {
            Ok(Way::Explain(Box::new(app.plan(given, &context(uploads))?)))
        })
    }
}

impl Compare {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let methods = ("methods".to_owned(), Value::Array(self.methods));
        let plan = |app: &App, given, uploads: &Uploads| {
            Ok(Way::Compare(app.plan_comparison(given, &context(uploads))?))
        };
        self.common.run(Some(methods), plan)
    }
}

/// The command names the format.
fn context(uploads: &Uploads) -> RequestContext {
    RequestContext {
        files: uploads.files(),
        ..RequestContext::default()
    }
}

/// The command to run for each image.
enum Way {
    Explain(Box<Plan>),
    Compare(Comparison),
}

/// The result for one image.
struct Answer {
    bytes: Vec<u8>,
    /// A line for the terminal: what was explained, and by which methods.
    told: String,
    warnings: Vec<String>,
}

impl Common {
    fn run(
        self,
        method: Option<(String, Value)>,
        plan: impl FnOnce(&App, Map<String, Value>, &Uploads) -> Result<Way, AppError>,
    ) -> anyhow::Result<()> {
        let sources = Sources::of(&self.images)?;
        let allowed = OPTIONS
            .iter()
            .find(|option| option.name == "format")
            .map_or(&[][..], |option| option.allowed);
        let formats = Formats {
            allowed,
            asked: self.format.as_deref(),
        };
        let (mut outputs, format) = Outputs::new(&self.output, &sources, &formats)?;
        if outputs.is_standard() && sources.are_many && format != "json" {
            bail!(
                "standard output takes several answers as JSON alone, one a line: --format json, or -o FOLDER"
            );
        }
        let mut given = Map::from_iter([("format".to_owned(), Value::from(format.as_str()))]);
        let target = self
            .target
            .map(|target| ("target".to_owned(), target.into()));
        let others = self
            .parameters
            .into_iter()
            .map(|(name, value)| (name, value.into()));
        for (name, value) in method.into_iter().chain(target).chain(others) {
            if given.insert(name.clone(), value).is_some() {
                bail!("{name} is given twice");
            }
        }
        // A file is viewed without the terminal's output, so it is captioned by default.
        given.entry("caption").or_insert(true.into());
        if self.segments.is_some() && sources.are_many {
            bail!("--segments are those of one image, and several are named");
        }
        let segments = self
            .segments
            .map(|path| std::fs::read(&path).with_context(|| path.display().to_string()));
        let segments = segments.transpose()?.map(bytes::Bytes::from);
        let reference = self
            .reference
            .map(|path| std::fs::read(&path).with_context(|| path.display().to_string()));
        let reference = reference.transpose()?.map(bytes::Bytes::from);
        let uploads = || Uploads {
            baseline: None,
            reference: reference.clone().map(Input::of),
            segments: segments.clone(),
        };
        let app = self.model.app()?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(app.catch_up());
        let way = plan(&app, given, &uploads())?;
        let explain = async |source| {
            (
                source,
                explain(&app, &way, source, uploads(), &format).await,
            )
        };
        let mut answers = stream::iter(&sources.all).map(explain).buffered(AT_ONCE);
        let (mut told, mut failed) = (HashSet::new(), 0);
        while let Some((source, answer)) = runtime.block_on(answers.next()) {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) if !sources.are_many => return Err(error.context(source.shown())),
                Err(error) => {
                    tell_failed(source, &error);
                    failed += 1;
                    continue;
                }
            };
            // Warnings about the model are the same for each image: they are printed once.
            answer
                .warnings
                .into_iter()
                .filter(|warning| told.insert(warning.clone()))
                .for_each(warn);
            match outputs.write(source, &answer.bytes)? {
                Some(path) => say(format_args!(
                    "{}: {} -> {}",
                    source.shown(),
                    answer.told,
                    path.display()
                ))?,
                None => tell(format_args!("{}: {}", source.shown(), answer.told)),
            }
        }
        match failed {
            0 => Ok(()),
            failed => bail!(
                "{failed} of {} images could not be explained",
                sources.all.len()
            ),
        }
    }
}

async fn explain(
    app: &App,
    way: &Way,
    source: &Source,
    uploads: Uploads,
    format: &str,
) -> anyhow::Result<Answer> {
    let input = vec![Input::of(source.read()?.into())];
    let caller = Caller::new(Priority::Interactive, None);
    match way {
        Way::Explain(plan) => {
            let sent = Sent::of(plan, &input, &uploads);
            let answered = app
                .explain(Plan::clone(plan), input, uploads, &caller)
                .await?;
            let warnings = answered
                .answers
                .iter()
                .flat_map(|one| one.warnings.clone())
                .collect();
            let methods = vec![plan.parameters.method.id];
            let told = told(&answered.answers, &methods);
            let bytes = match format {
                "json" => answer::to_json(&answered, plan.options.encoding)?,
                "npy" => answer::to_npy(&answered)?,
                "bundle" => app.bundle(&sent, &answered)?,
                _ => picture(answered.answers.into_iter().find_map(|one| one.picture))?,
            };
            Ok(Answer {
                bytes,
                told,
                warnings,
            })
        }
        Way::Compare(plan) => {
            let compared = app.compare(plan.clone(), input, uploads, &caller).await?;
            let warnings = compared.warnings();
            let methods: Vec<&str> = plan
                .ways
                .iter()
                .map(|way| way.parameters.method.id)
                .collect();
            let targets = compared.explanations.len() / methods.len().max(1);
            let told = told(&compared.explanations[..targets], &methods);
            let encoding: Encoding = plan.options.encoding;
            let bytes = match format {
                "json" => answer::comparison_to_json(&compared, encoding)?,
                _ => picture(compared.grid)?,
            };
            Ok(Answer {
                bytes,
                told,
                warnings,
            })
        }
    }
}

fn picture(drawn: Option<bytes::Bytes>) -> anyhow::Result<Vec<u8>> {
    Ok(drawn.context("no picture was drawn")?.into())
}

/// `Egyptian_cat 0.512, by pgig`.
fn told(explanations: &[Explanation], methods: &[&str]) -> String {
    let targets = explanations.iter().map(|one| {
        let target = &one.explained.target;
        let against = target
            .against
            .as_ref()
            .map_or_else(String::new, |class| format!(" - {:.4}", class.score));
        format!("{target} {:.4}{against}", target.class.score)
    });
    format!(
        "{}, by {}",
        targets.collect::<Vec<_>>().join(", "),
        methods.join(", ")
    )
}
