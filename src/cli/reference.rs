//! The command line about itself: completions for shells, manual pages, and the page of the docs.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;

use super::Cli;

#[cfg(test)]
mod commands;
#[cfg(test)]
mod reasons;

/// The flags of `completion`.
#[derive(Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// The name of the program, where it has another one
    #[arg(long, value_name = "NAME", default_value = "longshore")]
    name: String,
}

/// The flags of `man`.
#[derive(Args)]
pub struct ManualArgs {
    /// The directory for the pages, such as /usr/local/share/man/man1
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Why there are no manual pages.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// They cannot be written.
    #[error("failed to write manual pages into {}; name a directory that exists and may be written", path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(super) fn completion(args: &CompletionArgs) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), &args.name, &mut script);
    print!("{}", String::from_utf8_lossy(&script));
}

pub(super) fn manual(args: &ManualArgs) -> Result<(), ReferenceError> {
    clap_mangen::generate_to(Cli::command(), &args.directory)
        .map_err(|source| ReferenceError::Write { path: args.directory.clone(), source })
}

/// The page of the docs.
pub fn markdown() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = INTRODUCTION.to_owned();
    text += "## All commands\n\n| Command | What it does |\n|---|---|\n";
    let commands: Vec<&Command> = root.get_subcommands().filter(|one| one.get_name() != "help").collect();
    for command in &commands {
        let (name, about) = (command.get_name(), about(command));
        // Writing to a String does not fail.
        _ = writeln!(text, "| [`{name}`](#longshore-{name}) | {about} |");
    }
    text += "\nEvery command has ";
    let globals: Vec<String> = root.get_arguments().filter(|arg| arg.is_global_set()).map(flag).collect();
    _ = writeln!(text, "{}: how and what is logged to standard error.", globals.join(" and "));
    for command in commands {
        _ = write!(text, "\n## longshore {}\n\n{}.\n", command.get_name(), about(command));
        let arguments: Vec<&Arg> = command
            .get_arguments()
            .filter(|arg| !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str()))
            .collect();
        if !arguments.is_empty() {
            text += "\n| Flag | Meaning |\n|---|---|\n";
        }
        for argument in arguments {
            _ = writeln!(text, "| {} | {} |", flag(argument), meaning(argument));
        }
    }
    text
}

/// What comes before the commands.
const INTRODUCTION: &str = include_str!("reference/introduction.md");

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// `-o`, `--output OUTPUT`
fn flag(arg: &Arg) -> String {
    let takes = arg.get_action().takes_values();
    let names = arg.get_value_names().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let value = names.filter(|_| takes).unwrap_or_default();
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match arg.get_long() {
        Some(long) if value.is_empty() => format!("{short}`--{long}`"),
        Some(long) => format!("{short}`--{long} {value}`"),
        None => format!("`{value}`"),
    }
}

fn meaning(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
    let shown = arg.get_action().takes_values() && !arg.is_hide_possible_values_set();
    let values = arg.get_possible_values().into_iter().filter(|_| shown);
    let values: Vec<String> = values.map(|value| format!("`{}`", value.get_name())).collect();
    if !values.is_empty() {
        _ = write!(text, ": {}", values.join(", "));
    }
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if arg.get_action().takes_values() && !arg.is_hide_default_value_set() && !defaults.is_empty() {
        _ = write!(text, " (default `{}`)", defaults.join(","));
    }
    if let Some(variable) = arg.get_env() {
        _ = write!(text, " (or the variable `{}`)", variable.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// `UPDATE_DOCS=1` writes the page anew.
    #[test]
    fn the_page_of_the_docs_is_what_the_program_says() {
        let now = markdown();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(PAGE, &now).unwrap();
        }
        let page = std::fs::read_to_string(PAGE).unwrap();
        assert!(page == now, "docs/cli.md is out of date; run this test with UPDATE_DOCS=1");
    }

    #[test]
    fn manual_pages_and_completions_know_every_command() {
        let dir = tempfile::tempdir().unwrap();
        manual(&ManualArgs { directory: dir.path().into() }).unwrap();
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "longshore", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(dir.path().join(format!("longshore-{name}.1")).is_file(), "{name}");
            assert!(script.contains(name), "{name}");
        }
    }
}
