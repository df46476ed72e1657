//! `kmsctl man`: the manual pages, one for the program and one for each command.

use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man as Page;

use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::Terminal;

#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Command whose page is printed; default: the program's page
    #[arg(conflicts_with = "dir")]
    command: Option<String>,
    /// Write every page into this directory, and replace existing ones
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, terminal: &Terminal, program: clap::Command) -> Outcome {
        let pages = pages(program);
        if let Some(directory) = self.dir {
            std::fs::create_dir_all(&directory)
                .map_err(|error| Failure::file("cannot make", &directory, &error))?;
            for (name, text) in &pages {
                let path = directory.join(format!("{name}.1"));
                files::write(&path, text, Readers::Everyone, Existing::Replaced)?;
            }
            return Ok(Exit::Done);
        }
        let wanted = match self.command {
            None => "kmsctl".to_owned(),
            Some(command) => format!("kmsctl-{}", command.replace(' ', "-")),
        };
        let page = pages.iter().find(|(name, _)| *name == wanted);
        let (_, text) = page.ok_or_else(|| Failure::usage(format_args!("there is no page {wanted}")))?;
        terminal.write(text)?;
        Ok(Exit::Done)
    }
}

/// Every page with its name, such as `kmsctl-env-encrypt`.
fn pages(program: clap::Command) -> Vec<(String, Vec<u8>)> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    collect(&program, "kmsctl".to_owned(), &mut pages);
    pages
}

fn collect(command: &clap::Command, name: String, pages: &mut Vec<(String, Vec<u8>)>) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        collect(inner, format!("{name}-{}", inner.get_name()), pages);
    }
    let titled = command.clone().display_name(name.clone());
    let mut text = Vec::new();
    // Writing to memory does not fail.
    if Page::new(titled).title(name.to_uppercase()).render(&mut text).is_ok() {
        pages.push((name, text));
    }
}
