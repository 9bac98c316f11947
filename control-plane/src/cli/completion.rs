//! `leno completion`: what a shell has to know to complete `leno` and `leno-proxy`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Command;
use clap_complete::{Shell, generate};

use super::failure::Failure;

/// `leno completion`
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "\
bash:  leno completion bash > /etc/bash_completion.d/leno
zsh:   leno completion zsh > \"${fpath[1]}/_leno\"
fish:  leno completion fish > ~/.config/fish/completions/leno.fish")]
pub(crate) struct Arguments {
    /// For which shell
    shell: Words,
    /// Of which program
    #[arg(long, value_enum, default_value_t = Program::Leno)]
    program: Program,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Words {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Program {
    /// This one
    Leno,
    /// The sidecar
    LenoProxy,
}

/// Prints the script; `leno` and `proxy` are the command lines of the two programs.
pub(crate) fn run(arguments: &Arguments, leno: Command, proxy: Command) -> Result<ExitCode, Failure> {
    let shell = match arguments.shell {
        Words::Bash => Shell::Bash,
        Words::Zsh => Shell::Zsh,
        Words::Fish => Shell::Fish,
    };
    let mut command = match arguments.program {
        Program::Leno => leno,
        Program::LenoProxy => proxy,
    };
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
