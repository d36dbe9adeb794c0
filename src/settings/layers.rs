//! The layers of settings, merged, and the typed reading of the result.

use std::{collections::BTreeMap, marker::PhantomData, path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use toml::{Table, Value};

use super::{LogFormat, Role, Settings, SettingsError};
use crate::{
    dataset::is_id,
    engine::provider::Provider,
    faults::{Faults, Reader},
};

const DEFAULTS: &str = include_str!("default.toml");
const PREFIX: &str = "EXPLAIND_";
/// The environment variable that names the config file.
const CONFIG: &str = "config";

/// The given flags: settings by name, and `--config FILE`.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub values: BTreeMap<String, String>,
}

/// Reads all layers. `environment` is `std::env::vars()`, or a test's.
pub fn load(
    flags: &Flags,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, SettingsError> {
    Layers::of(flags, environment).read()
}

/// The layers, merged.
struct Layers {
    merged: Table,
    /// Where each setting's value comes from, unless it is the default.
    sources: BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Layers {
    fn of(flags: &Flags, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut layers = Self {
            merged: defaults(),
            sources: BTreeMap::new(),
            faults: Vec::new(),
        };
        let mut environment = environment
            .into_iter()
            .filter_map(|(name, text)| Some((name.strip_prefix(PREFIX)?.to_lowercase(), text)))
            .collect::<BTreeMap<_, _>>();
        let config = environment.remove(CONFIG).map(PathBuf::from);
        if let Some(path) = flags.config.clone().or(config) {
            match read_config(&path) {
                Ok(table) => {
                    for (key, value) in table {
                        layers
                            .sources
                            .insert(key.clone(), path.display().to_string());
                        layers.merged.insert(key, value);
                    }
                }
                Err(problem) => layers.faults.push(problem),
            }
        }
        let known = defaults();
        for (key, text) in environment {
            let source = format!("{PREFIX}{}", key.to_uppercase());
            layers.lay(&known, &key, &text, source);
        }
        for (key, text) in &flags.values {
            layers.lay(&known, key, text, format!("--{}", key.replace('_', "-")));
        }
        layers
    }

    /// Overrides a setting with the text of a flag or of an environment variable, parsed as the
    /// type of its default.
    fn lay(&mut self, known: &Table, key: &str, text: &str, source: String) {
        let value = match known.get(key) {
            None => {
                let names = known
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ");
                self.faults.push(format!(
                    "{source}: there is no such setting (allowed: config, {names})"
                ));
                return;
            }
            Some(Value::Array(_)) => {
                let parts = text
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
            }
            Some(Value::Integer(_)) => match text.trim().parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    self.faults
                        .push(format!("{source}: {text:?} is not a whole number"));
                    return;
                }
            },
            Some(Value::Boolean(_)) => match text.trim().parse() {
                Ok(flag) => Value::Boolean(flag),
                Err(_) => {
                    self.faults
                        .push(format!("{source}: {text:?} is neither true nor false"));
                    return;
                }
            },
            Some(Value::Float(_)) => match text.trim().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => {
                    self.faults
                        .push(format!("{source}: {text:?} is not a number"));
                    return;
                }
            },
            Some(_) => Value::String(text.to_owned()),
        };
        self.merged.insert(key.to_owned(), value);
        self.sources.insert(key.to_owned(), source);
    }

    fn read(&self) -> Result<Settings, SettingsError> {
        let (settings, found) = read(&self.merged);
        let mut faults = self.faults.clone();
        faults.extend(
            found
                .shown()
                .iter()
                .map(|fault| match self.sources.get(&fault.param) {
                    Some(source) => format!("{source}: {fault}"),
                    None => fault.to_string(),
                }),
        );
        faults.extend((found.more() > 0).then(|| format!("and {} more", found.more())));
        match settings {
            Some(settings) if faults.is_empty() => Ok(settings),
            _ => Err(SettingsError { faults }),
        }
    }
}

/// The defaults file beside this one; a test reads it, so it parses in every build.
fn defaults() -> Table {
    DEFAULTS.parse().unwrap_or_default()
}

fn read_config(path: &PathBuf) -> Result<Table, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.parse()
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn read(table: &Table) -> (Option<Settings>, Faults) {
    let mut fields = Reader::of_toml(table);
    let settings = read_fields(&mut fields);
    (settings, fields.finish("unknown field"))
}

fn read_fields(fields: &mut Reader) -> Option<Settings> {
    const POSITIVE: &[&str] = &["a whole number from 1"];
    let listen = fields.take("listen", &["address:port, such as 127.0.0.1:8080"], |_| {
        true
    });
    let models = fields.take("models", &["a folder"], |_| true);
    let dataset = fields.take::<Vec<String>>(
        "dataset",
        &["a list of ID=FOLDER, each ID once; an ID is letters, digits, _, - and ."],
        |pairs| folders(pairs).is_some(),
    );
    let max_dataset_bytes = fields.take("max_dataset_bytes", POSITIVE, |bytes| *bytes > 0u64);
    let max_dataset_files = fields.take("max_dataset_files", POSITIVE, |files| *files > 0usize);
    let max_datasets = fields.take("max_datasets", POSITIVE, |datasets| *datasets > 0usize);
    let max_model_bytes = fields.take("max_model_bytes", POSITIVE, |bytes| *bytes > 0u64);
    let max_models = fields.take("max_models", POSITIVE, |models| *models > 0usize);
    let max_model_versions = fields.take("max_model_versions", POSITIVE, |versions| {
        *versions > 0usize
    });
    let max_data_bytes = fields.take("max_data_bytes", POSITIVE, |bytes| *bytes > 0u64);
    let default_model =
        fields.take::<String>("default_model", &["the name of a model's folder"], |_| true);
    let attn_lrp = fields.take("attn_lrp", &["true", "false"], |_: &bool| true);
    let data = fields.take("data", &["a folder"], |_| true);
    let database =
        fields.take::<String>("database", &["postgres://user:password@host/name"], |url| {
            url.is_empty() || url.starts_with("postgres://") || url.starts_with("postgresql://")
        });
    let object_store = fields.take::<String>(
        "object_store",
        &["s3://bucket/prefix, or a folder that replicas share"],
        |place| place.starts_with("s3://") || !place.contains("://"),
    );
    let role = fields.take::<Role>("role", &["all", "api", "worker"], |_| true);
    let job_slots = fields.take("job_slots", POSITIVE, |slots| *slots > 0usize);
    let lease_ms = fields.take("lease_ms", &["a whole number from 100"], |ms| *ms >= 100u64);
    let job_retention_days = fields.take("job_retention_days", POSITIVE, |days| {
        (1..=36_500u64).contains(days)
    });
    let max_kept_jobs = fields.take("max_kept_jobs", POSITIVE, |most| *most > 0u64);
    let max_jobs = fields.take("max_jobs", POSITIVE, |most| *most > 0u64);
    let max_trained_models = fields.take("max_trained_models", POSITIVE, |most| *most > 0usize);
    let max_job_evaluations = fields.take("max_job_evaluations", POSITIVE, |most| *most > 0u64);
    let max_image_evaluations = fields.take("max_image_evaluations", POSITIVE, |most| *most > 0u64);
    let max_job_output_bytes = fields.take("max_job_output_bytes", POSITIVE, |most| *most > 0u64);
    let train_memory_mib = fields.take("train_memory_mib", POSITIVE, |mib| *mib > 0u64);
    let onnxruntime = fields.take("onnxruntime", &["the path of libonnxruntime"], |_| true);
    let providers = fields.take::<Vec<Provider>>(
        "providers",
        &["a list of cpu, cuda, cuda:<device>"],
        |providers| !providers.is_empty(),
    );
    let threads = fields.take::<usize>("threads", &["0 (all cores) to 1024"], |threads| {
        *threads <= 1024
    });
    let convolution_error = fields.take(
        "convolution_error",
        &["a number from 0 to 0.001"],
        |error: &f64| (0.0..=1e-3).contains(error),
    );
    let max_upload_bytes = fields.take("max_upload_bytes", POSITIVE, |bytes| *bytes > 0usize);
    let body_memory_mib = fields.take("body_memory_mib", POSITIVE, |mib| *mib > 0u64);
    let max_connections = fields.take("max_connections", POSITIVE, |connections| {
        *connections > 0usize
    });
    let header_timeout_ms = fields.take("header_timeout_ms", POSITIVE, |ms| *ms > 0u64);
    let keep_alive_timeout_ms = fields.take("keep_alive_timeout_ms", POSITIVE, |ms| *ms > 0u64);
    let body_idle_timeout_ms = fields.take("body_idle_timeout_ms", POSITIVE, |ms| *ms > 0u64);
    let min_body_rate = fields.take("min_body_rate", POSITIVE, |rate| *rate > 0u64);
    let write_timeout_ms = fields.take("write_timeout_ms", POSITIVE, |ms| *ms > 0u64);
    let max_pixels = fields.take("max_pixels", POSITIVE, |pixels| *pixels > 0u64);
    let max_side = fields.take("max_side", POSITIVE, |side| *side > 0u32);
    let max_tensor_elements = fields.take("max_tensor_elements", POSITIVE, |elements| {
        *elements > 0usize
    });
    let max_input_elements = fields.take("max_input_elements", POSITIVE, |elements| {
        *elements > 0usize
    });
    let queue_rows = fields.take("queue_rows", POSITIVE, |rows| *rows > 0usize);
    let batch_rows = fields.take("batch_rows", POSITIVE, |rows| *rows > 0usize);
    let batch_memory_mib = fields.take("batch_memory_mib", POSITIVE, |mib| *mib > 0u64);
    let session_memory_mib = fields.take("session_memory_mib", POSITIVE, |mib| *mib > 0u64);
    let max_interactive_evaluations =
        fields.take("max_interactive_evaluations", POSITIVE, |n| *n > 0usize);
    let request_timeout_ms = fields.take("request_timeout_ms", POSITIVE, |ms| *ms > 0u64);
    let drain_timeout_ms = fields.take("drain_timeout_ms", &["a whole number"], |_: &u64| true);
    let shutdown_grace_ms = fields.take("shutdown_grace_ms", &["a whole number"], |_: &u64| true);
    let cors_origins = fields.take("cors_origins", &["a list of origins, or \"*\""], |_| true);
    let allowed_hosts = fields.take("allowed_hosts", &["a list of host names"], |_| true);
    let log = fields.take(
        "log",
        &["a filter of tracing's EnvFilter, such as info,explaind=debug"],
        |_| true,
    );
    let log_format = fields.take::<LogFormat>("log_format", &["text", "json"], |_| true);
    let threads = match threads? {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    Some(Settings {
        listen: listen?,
        models: models?,
        dataset: folders(&dataset?)?,
        max_dataset_bytes: max_dataset_bytes?,
        max_dataset_files: max_dataset_files?,
        max_datasets: max_datasets?,
        max_model_bytes: max_model_bytes?,
        max_models: max_models?,
        max_model_versions: max_model_versions?,
        max_data_bytes: max_data_bytes?,
        default_model: default_model.filter(|id| !id.is_empty()),
        attn_lrp: attn_lrp?,
        data: data?,
        database: database.filter(|url| !url.is_empty()),
        object_store: object_store.filter(|url| !url.is_empty()),
        role: role?,
        job_slots: job_slots?,
        lease: Duration::from_millis(lease_ms?),
        job_retention: Duration::from_secs(job_retention_days? * 24 * 3600),
        max_kept_jobs: max_kept_jobs?,
        max_jobs: max_jobs?,
        max_trained_models: max_trained_models?,
        max_job_evaluations: max_job_evaluations?,
        max_image_evaluations: max_image_evaluations?,
        max_job_output_bytes: max_job_output_bytes?,
        train_memory_mib: train_memory_mib?,
        onnxruntime: onnxruntime?,
        providers: providers?,
        threads,
        convolution_error: convolution_error?,
        max_upload_bytes: max_upload_bytes?,
        body_memory_mib: body_memory_mib?,
        max_connections: max_connections?,
        header_timeout: Duration::from_millis(header_timeout_ms?),
        keep_alive_timeout: Duration::from_millis(keep_alive_timeout_ms?),
        body_idle_timeout: Duration::from_millis(body_idle_timeout_ms?),
        min_body_rate: min_body_rate?,
        write_timeout: Duration::from_millis(write_timeout_ms?),
        max_pixels: max_pixels?,
        max_side: max_side?,
        max_tensor_elements: max_tensor_elements?,
        max_input_elements: max_input_elements?,
        queue_rows: queue_rows?,
        batch_rows: batch_rows?,
        batch_memory_mib: batch_memory_mib?,
        session_memory_mib: session_memory_mib?,
        max_interactive_evaluations: max_interactive_evaluations?,
        request_timeout: Duration::from_millis(request_timeout_ms?),
        drain_timeout: Duration::from_millis(drain_timeout_ms?),
        shutdown_grace: Duration::from_millis(shutdown_grace_ms?),
        cors_origins: cors_origins?,
        allowed_hosts: allowed_hosts?,
        log: log?,
        log_format: log_format?,
    })
}

/// The folders of data sets by id; none where a text is not `ID=FOLDER`, or an id repeats.
fn folders(pairs: &[String]) -> Option<BTreeMap<String, PathBuf>> {
    let mut folders = BTreeMap::new();
    for pair in pairs {
        let (id, folder) = pair
            .split_once('=')
            .filter(|(id, folder)| is_id(id) && !folder.is_empty())?;
        if folders
            .insert(id.to_owned(), PathBuf::from(folder))
            .is_some()
        {
            return None;
        }
    }
    Some(folders)
}

/// A setting as `default.toml` describes it.
struct Documented {
    key: String,
    section: &'static str,
    help: String,
    /// The placeholder of its value in help.
    value_name: &'static str,
    is_list: bool,
    default: String,
}

impl Documented {
    fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.to_uppercase())
    }
}

fn documented() -> Vec<Documented> {
    let known = defaults();
    let (mut settings, mut help, mut section) = (Vec::new(), Vec::new(), "");
    for line in DEFAULTS.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        } else if let Some(comment) = line.strip_prefix('#') {
            help.push(comment.trim());
        } else if let Some((key, rest)) = line.split_once(" = ") {
            let value = known.get(key);
            let text = |value: &Value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            };
            let default = match value {
                Some(Value::Array(values)) => values.iter().map(text).collect::<Vec<_>>().join(","),
                value => value.map_or_else(String::new, text),
            };
            settings.push(Documented {
                key: key.to_owned(),
                section,
                help: help.join(" "),
                value_name: rest.split_once(" # ").map_or("VALUE", |(_, name)| name),
                is_list: value.is_some_and(Value::is_array),
                default,
            });
            help.clear();
        } else {
            help.clear();
        }
    }
    settings
}

/// Every setting with its value as TOML and its source, as `explaind config` prints them.
pub fn settled(
    flags: &Flags,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<(String, Value, Option<String>)>, SettingsError> {
    let layers = Layers::of(flags, environment);
    layers.read()?;
    let Layers {
        mut merged,
        sources,
        ..
    } = layers;
    let settings = documented().into_iter();
    Ok(settings
        .filter_map(|one| {
            Some((
                one.key.clone(),
                merged.remove(&one.key)?,
                sources.get(&one.key).cloned(),
            ))
        })
        .collect())
}

/// The sections of `default.toml` whose settings a command uses: only they are its flags. `-h`
/// shows the essential ones, `--help` all.
pub trait Uses {
    const SECTIONS: &'static [&'static str];
}

const ESSENTIAL: [&str; 3] = ["models", "listen", "default_model"];

/// The flags of one command.
#[derive(Clone, Debug)]
pub struct FlagsFor<U>(pub Flags, PhantomData<fn() -> U>);

impl<U: Uses> FlagsFor<U> {
    fn settings() -> impl Iterator<Item = Documented> {
        documented()
            .into_iter()
            .filter(|setting| U::SECTIONS.contains(&setting.section))
    }
}

impl<U: Uses> Args for FlagsFor<U> {
    fn augment_args(mut command: Command) -> Command {
        for setting in Self::settings() {
            let default = match setting.default.as_str() {
                "" => String::new(),
                default => format!(" [default: {default}]"),
            };
            let help = format!("{}{default} [env: {}]", setting.help, setting.variable());
            let action = if setting.is_list {
                ArgAction::Append
            } else {
                ArgAction::Set
            };
            let flag = Arg::new(setting.key.clone())
                .long(setting.flag())
                .value_name(setting.value_name)
                .help(help)
                .help_heading(format!("{} (settings)", setting.section))
                .hide_short_help(!ESSENTIAL.contains(&setting.key.as_str()))
                .action(action);
            command = command.arg(flag);
        }
        command.arg(
            Arg::new(CONFIG)
                .long(CONFIG)
                .value_name("FILE")
                .help(format!("Settings file in TOML: all settings by their names with _ [env: {PREFIX}CONFIG]"))
                .help_heading("Settings file")
                .hide_short_help(true)
                .value_parser(clap::value_parser!(PathBuf)),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<U: Uses> FromArgMatches for FlagsFor<U> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self(Flags::default(), PhantomData);
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.config = matches.get_one::<PathBuf>(CONFIG).cloned();
        for setting in Self::settings() {
            if let Some(texts) = matches.get_many::<String>(&setting.key) {
                self.0
                    .values
                    .insert(setting.key, texts.cloned().collect::<Vec<_>>().join(","));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    fn flags(pairs: &[(&str, &str)]) -> Flags {
        Flags {
            config: None,
            values: environment(pairs).into_iter().collect(),
        }
    }

    #[test]
    fn the_defaults_parse_and_every_one_has_a_section_a_help_text_and_a_name_for_its_value() {
        let settings = load(&Flags::default(), []).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
        assert!(settings.threads > 0);
        assert_eq!(settings.default_model, None);
        let documented = documented();
        assert_eq!(documented.len(), defaults().len());
        for Documented {
            key,
            section,
            help,
            value_name,
            ..
        } in documented
        {
            assert!(
                !help.is_empty() && !section.is_empty() && value_name != "VALUE",
                "{key}"
            );
        }
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("explaind.toml");
        std::fs::write(&file, "max_side = 1\nmax_pixels = 1\nqueue_rows = 1").unwrap();
        let flags = Flags {
            config: Some(file),
            ..flags(&[("max_side", "3")])
        };
        let settings = load(
            &flags,
            environment(&[
                ("EXPLAIND_MAX_SIDE", "2"),
                ("EXPLAIND_MAX_PIXELS", "2"),
                ("HOME", "x"),
            ]),
        )
        .unwrap();
        assert_eq!(
            (
                settings.max_side,
                settings.max_pixels,
                settings.queue_rows,
                settings.batch_rows
            ),
            (3, 2, 1, 4)
        );
    }

    #[test]
    fn lists_are_separated_by_commas_and_cuda_takes_a_device() {
        let settings = load(&flags(&[("providers", "cuda:1, cpu")]), []).unwrap();
        assert_eq!(
            settings.providers,
            [Provider::Cuda { device: 1 }, Provider::Cpu]
        );
    }

    struct Data;

    impl Uses for Data {
        const SECTIONS: &'static [&'static str] = &["Data", "Data sets"];
    }

    #[test]
    fn a_command_takes_the_settings_of_its_sections_alone_and_help_tells_their_defaults_and_variables()
     {
        let mut command = FlagsFor::<Data>::augment_args(Command::new("explaind"));
        let (short, long) = (
            command.render_help().to_string(),
            command.render_long_help().to_string(),
        );
        assert!(!short.contains("--data"), "{short}");
        for part in [
            "Data (settings):",
            "--data <FOLDER>",
            "[default: data] [env: EXPLAIND_DATA]",
            "--config <FILE>",
        ] {
            assert!(long.contains(part), "{part} is missing in\n{long}");
        }
        assert!(
            command
                .try_get_matches_from(["explaind", "--listen", "127.0.0.1:1"])
                .is_err()
        );
    }

    #[test]
    fn what_is_settled_is_told_with_its_source() {
        let all = settled(
            &flags(&[("models", "here")]),
            environment(&[("EXPLAIND_MAX_SIDE", "2")]),
        )
        .unwrap();
        let of = |name: &str| all.iter().find(|(key, ..)| key == name).unwrap();
        assert_eq!(
            (&of("models").1, of("models").2.as_deref()),
            (&Value::from("here"), Some("--models"))
        );
        assert_eq!(
            (&of("max_side").1, of("max_side").2.as_deref()),
            (&Value::from(2), Some("EXPLAIND_MAX_SIDE"))
        );
        assert_eq!(
            (of("role").2.as_deref(), all.len()),
            (None, defaults().len())
        );
        assert!(settled(&flags(&[("log_format", "xml")]), []).is_err());
    }

    #[test]
    fn data_sets_are_named_by_repeated_flags() {
        let command = FlagsFor::<Data>::augment_args(Command::new("explaind"));
        let matches =
            command.get_matches_from(["explaind", "--dataset", "a=/srv/a", "--dataset", "b=c=d"]);
        let settings = load(&FlagsFor::<Data>::from_arg_matches(&matches).unwrap().0, []).unwrap();
        let expected = [("a", "/srv/a"), ("b", "c=d")]
            .map(|(id, folder)| (id.to_owned(), PathBuf::from(folder)));
        assert_eq!(settings.dataset, BTreeMap::from(expected));
        for wrong in ["photos", "=x", "a=", "../a=x", "a=x,a=y"] {
            assert!(load(&flags(&[("dataset", wrong)]), []).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_faults_of_all_layers_come_together_and_name_their_source() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("explaind.toml");
        std::fs::write(&file, "queue_rows = 0\nqueue_row = 3").unwrap();
        let flags = Flags {
            config: Some(file),
            ..flags(&[("log_format", "xml"), ("providers", "tpu")])
        };
        let error = load(
            &flags,
            environment(&[("EXPLAIND_MAX_PIXELS", "many"), ("EXPLAIND_PORT", "1")]),
        )
        .unwrap_err();
        let all = error.to_string();
        for part in [
            "queue_rows: 0",
            "queue_row: unknown field",
            "--log-format",
            "--providers",
            "EXPLAIND_MAX_PIXELS",
            "EXPLAIND_PORT",
        ] {
            assert!(all.contains(part), "{part} is missing in\n{all}");
        }
        assert_eq!(error.faults.len(), 6, "{all}");
    }
}
