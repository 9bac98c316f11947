//! `leno man`: the manual pages of `leno`, of each of its commands, and of `leno-proxy`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;

use super::failure::Failure;

/// `leno man`
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "\
leno man | man -l -                      read the page of leno
leno man --output /usr/local/share/man/man1   install all pages")]
pub(crate) struct Arguments {
    /// Directory that all pages are written to; without it the page of leno goes to stdout
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints one page or writes all; `leno` and `proxy` are the command lines of the two programs.
pub(crate) fn run(arguments: &Arguments, leno: Command, proxy: Command) -> Result<ExitCode, Failure> {
    let Some(directory) = &arguments.output else {
        std::io::stdout().write_all(page(&Man::new(leno))?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory `{}`", directory.display()))
        .map_err(Failure::usage)?;
    let mut written = 0;
    for program in [leno, proxy] {
        written += write(program, directory)?;
    }
    writeln!(anstream::stderr(), "{written} pages in {}", directory.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The pages of a program and its commands, except those that are hidden. Returns how many.
fn write(mut program: Command, directory: &Path) -> Result<usize, Failure> {
    program.build();
    let mut written = 0;
    let mut commands = vec![program];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help").cloned());
        let man = Man::new(command);
        let path = directory.join(man.get_filename());
        std::fs::write(&path, page(&man)?).with_context(|| format!("cannot write `{}`", path.display()))?;
        written += 1;
    }
    Ok(written)
}

/// The page in roff, which is written in ASCII: other characters stand in it by their number.
fn page(man: &Man) -> Result<String, Failure> {
    let mut text = Vec::new();
    man.render(&mut text)?;
    let mut ascii = String::with_capacity(text.len());
    for character in String::from_utf8(text)?.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            // Writing to a String does not fail.
            false => drop(write!(ascii, "\\[u{:04X}]", u32::from(character))),
        }
    }
    Ok(ascii)
}
