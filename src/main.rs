//! The command line. Errors are told with their causes; the exit code is 1.

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
    /// Serve explanations over HTTP
    Serve(commands::serve::Serve),
    /// Explain one image without a server
    Explain(commands::explain::Explain),
    /// Fit the patterns of PatternAttribution and PGIG, and write patterns.safetensors beside the model
    FitPatterns(commands::fit_patterns::FitPatterns),
    /// Write a derived graph as ONNX
    Derive(commands::derive::Derive),
    /// Compare methods by image degradation on a set of images, without a server
    Bench(commands::bench::Bench),
    /// Look at the jobs of a server, cancel them, fetch their reports
    Jobs(commands::jobs::Jobs),
    /// Print the OpenAPI document as YAML
    Openapi,
}

/// Makes glibc give blocks of 4 MB and more back when they are freed: it would keep most of what the opening of sessions frees.
/// Smaller ones, such as pictures, are kept to be used again.
fn return_large_blocks() {
    // SAFETY: sets numbers of the allocator, before there are other threads.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 8 << 20);
    }
}

fn main() -> anyhow::Result<()> {
    return_large_blocks();
    // Before the first TLS connection: to a server, to a store of files.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::FitPatterns(command) => command.run(),
        Command::Derive(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Jobs(command) => command.run(),
        Command::Openapi => {
            print!("{}", explaind::api::document::to_yaml().map_err(anyhow::Error::msg)?);
            Ok(())
        }
    }
}
