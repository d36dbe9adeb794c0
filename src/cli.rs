//! The command line. Errors are printed with their causes, each fault of a request on its own line;
//! the exit code is 1, for wrong usage 2. A closed pipe on standard output ends a command silently.

use std::{error::Error, io, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use explaind::{
    app::AppError, driver::DriverError, faults::Faults, jobs::JobError, training::TrainingError,
};

use crate::commands;

#[derive(Parser)]
#[command(
    name = "explaind",
    version,
    about = "Explains the decisions of ONNX image classifiers: as an HTTP service, and from the command line"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve explanations over HTTP
    Serve(commands::serve::Serve),
    /// Explain images without a server
    Explain(commands::explain::Explain),
    /// Explain images by several methods, side by side
    Compare(commands::explain::Compare),
    /// Make the explanation of a bundle again, and say what differs
    Rerun(commands::rerun::Rerun),
    /// Print the best classes of images
    Predict(commands::predict::Predict),
    /// List the attribution methods, or the parameters of one
    Methods(commands::methods::Methods),
    /// List the metrics that methods are compared by, or the parameters of one
    Metrics(commands::metrics::Metrics),
    /// Check whether models can be served, and what is assumed of them
    Models(commands::models::Models),
    /// Fit the patterns of PatternAttribution and PGIG, and write patterns.safetensors beside the
    /// model
    FitPatterns(commands::fit_patterns::FitPatterns),
    /// Fine-tune a model on a data set, and write the result as a model of its own
    Train(commands::train::Train),
    /// Compare methods by metrics on a set of images, without a server
    Bench(commands::bench::Bench),
    /// Test whether a concept, given by images, raises the score of a class, without a server
    Tcav(commands::tcav::Tcav),
    /// Paste objects into scenes, as BAM's data: data sets with labels of both
    BamData(commands::bam_data::BamData),
    /// Look at the jobs of a server, cancel them, fetch their reports
    Jobs(commands::jobs::Jobs),
    /// Write a model with its saliency map, or a derived graph, as ONNX
    Derive(commands::derive::Derive),
    /// Print the OpenAPI document as YAML
    Openapi,
    /// Print the settings as they are settled, and where each comes from
    Config(commands::config::Config),
    /// Print what a shell needs to complete commands and flags
    Completions(commands::completions::Completions),
}

/// Makes glibc return freed blocks of 4 MB and more to the system at once: it would keep most of
/// what opening sessions frees. Smaller blocks, such as pictures, are kept for reuse.
fn return_large_blocks() {
    // SAFETY: sets parameters of the allocator, before there are other threads.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    return_large_blocks();
    // Before the first TLS connection, to a server or to an object store.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error)
                .iter()
                .for_each(|line| commands::tell(format_args!("error: {line}")));
            ExitCode::FAILURE
        }
    }
}

/// Whether the error is a closed pipe on standard output, as `head` leaves it.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref())
        .any(broken)
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Compare(command) => command.run(),
        Command::Rerun(command) => command.run(),
        Command::Predict(command) => command.run(),
        Command::Methods(command) => command.run(),
        Command::Metrics(command) => command.run(),
        Command::Models(command) => command.run(),
        Command::FitPatterns(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Tcav(command) => command.run(),
        Command::BamData(command) => command.run(),
        Command::Jobs(command) => command.run(),
        Command::Derive(command) => command.run(),
        Command::Openapi => {
            let document = explaind::api::document::to_yaml().map_err(anyhow::Error::msg)?;
            Ok(commands::say(document.trim_end())?)
        }
        Command::Config(command) => command.run(),
        Command::Completions(command) => command.run(Cli::command()),
    }
}

/// Every fault of a request with its allowed values, or the error and its causes.
pub(crate) fn tell(error: &anyhow::Error) -> Vec<String> {
    let Some(faults) = error.chain().find_map(faults_of) else {
        let mut whole = String::new();
        for text in error.chain().map(ToString::to_string) {
            // Some errors repeat the text of their cause.
            if whole.is_empty() {
                whole = text;
            } else if !whole.contains(&text) {
                whole = format!("{whole}: {text}");
            }
        }
        return vec![whole];
    };
    faults.lines().collect()
}

fn faults_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Faults> {
    if let Some(AppError::Parameters(faults) | AppError::Method(DriverError::Parameters(faults))) =
        error.downcast_ref()
    {
        return Some(faults);
    }
    if let Some(TrainingError::Parameters(faults)) = error.downcast_ref() {
        return Some(faults);
    }
    match error.downcast_ref() {
        Some(JobError::Parameters(faults)) => Some(faults),
        _ => error.downcast_ref(),
    }
}
