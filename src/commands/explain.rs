//! `explaind explain`: one image (or one tensor in a .npy file) explained without a server, by the core that POST /explain runs.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use explaind::{
    app::{App, Input, Uploads, answer},
    engine::{Caller, Priority},
};
use serde_json::{Map, Value};

use super::ModelArgs;

#[derive(Args)]
pub struct Explain {
    /// A PNG, JPEG, WebP, BMP, GIF or TIFF file, or a .npy file with a ready tensor of floats or with uint8 pixels
    image: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Attribution method [default: pgig where the model has patterns, else integrated_gradients]
    #[arg(long)]
    method: Option<String>,
    /// What to explain: predicted, an index, a label, or a contrast a-b
    #[arg(long)]
    target: Option<String>,
    /// Regions for a method that ranks them: a PNG (or another lossless type) whose colours are labels, or a .npy file of labels or masks
    #[arg(long, value_name = "FILE")]
    segments: Option<PathBuf>,
    /// Any other parameter of POST /explain; repeatable
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// The file to write: .png, .json or .npy
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Explain {
    pub fn run(self) -> anyhow::Result<()> {
        let format = match self.output.extension().and_then(|extension| extension.to_str()) {
            Some(format @ ("png" | "json" | "npy")) => format.to_owned(),
            _ => bail!("{}: the output's name must end in .png, .json or .npy", self.output.display()),
        };
        let mut given = Map::from_iter([("format".to_owned(), Value::from(format.as_str()))]);
        let named = [("model", &self.model.model), ("method", &self.method), ("target", &self.target)];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        for (name, value) in named.chain(self.parameters) {
            if given.insert(name.clone(), value.into()).is_some() {
                bail!("{name} is given twice");
            }
        }
        let bytes = std::fs::read(&self.image).with_context(|| self.image.display().to_string())?;
        let input = Input::of(bytes.into());
        let app = App::start(self.model.settings()?)?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(app.catch_up());
        let segments = self.segments.map(|path| std::fs::read(&path).with_context(|| path.display().to_string()));
        let uploads = Uploads { baseline: None, segments: segments.transpose()?.map(Into::into) };
        let plan = app.plan(given, uploads.sent())?;
        let encoding = plan.options.encoding;
        let caller = Caller::new(Priority::Interactive, None);
        let explained = app.explain(plan, vec![input], uploads, &caller);
        let answered = runtime.block_on(explained)?;
        for warning in answered.answers.iter().flat_map(|one| &one.warnings) {
            eprintln!("warning: {warning}");
        }
        let answer = match format.as_str() {
            "json" => answer::to_json(&answered, encoding)?,
            "npy" => answer::to_npy(&answered)?,
            _ => answered.answers.into_iter().find_map(|one| one.picture).unwrap_or_default().into(),
        };
        std::fs::write(&self.output, answer).with_context(|| self.output.display().to_string())
    }
}
