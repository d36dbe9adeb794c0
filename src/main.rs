//! The binary. All of its code is in the library, so that it is compiled once.

fn main() -> std::process::ExitCode {
    explaind::cli::main()
}
