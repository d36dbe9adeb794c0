//! `explaind completions`: a shell script that completes the commands and their flags.

use std::io::{Write, stdout};

use clap::{Args, Command};
use clap_complete::{Shell, generate};

/// As a script on standard output, for example: explaind completions bash >
/// ~/.local/share/bash-completion/completions/explaind
#[derive(Args)]
pub(crate) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "explaind", &mut script);
        Ok(stdout().write_all(&script)?)
    }
}
