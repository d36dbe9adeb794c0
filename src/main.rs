//! The program. All of it is in the library: what both used would be compiled for each.

fn main() -> std::process::ExitCode {
    explaind::cli::main()
}
