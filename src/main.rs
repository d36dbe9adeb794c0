//! The command line: fit-patterns and derive. Errors are told with their causes; the exit code is 1.

mod commands;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "explaind", version, about = "Explains the decisions of any ONNX image classifier")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fit the patterns of PatternAttribution and PGIG, and write patterns.safetensors beside the model
    FitPatterns(commands::fit_patterns::FitPatterns),
    /// Write a derived graph as ONNX
    Derive(commands::derive::Derive),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::FitPatterns(command) => command.run(),
        Command::Derive(command) => command.run(),
    }
}
